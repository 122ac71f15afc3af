"""A training that was killed half-way against one that nobody disturbed: 400 steps, and 200 + kill -9 + 200.

python benchmarks/resume.py [--family bolt|t5] [--steps 400]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from flowrank.pretraining import Recipe, pretrain
from flowrank.pretraining.budget import Clock
from flowrank.pretraining.journal import read_log

SHAPE = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "precision": "float32", "log_steps": 1}


def run(recipe: Recipe, folder: Path, kill_at: int) -> None:
    """Train; die by SIGKILL after so many steps, if not 0."""
    torch.set_num_threads(1)
    count = Clock.on_step_end

    def step_ended(self: Clock, args: object, state: object, control: object, **kwargs: object) -> None:
        count(self, args, state, control, **kwargs)
        if state.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Clock.on_step_end = step_ended
    pretrain(recipe, folder, progress=False, device="cpu")


def losses(folder: Path) -> dict[int, float]:
    """Loss by step."""
    return {line["step"]: line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["bolt", "t5"], default="bolt")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        recipe, folder, kill_at = arguments.run
        run(Recipe.from_dict(json.loads(recipe)), Path(folder), int(kill_at))
        return
    half = arguments.steps // 2
    recipe = Recipe(family=arguments.family, max_steps=arguments.steps, save_steps=half, dropout_rate=0.1, **SHAPE)
    with tempfile.TemporaryDirectory() as temporary:
        whole, cut = Path(temporary) / "whole", Path(temporary) / "cut"
        for folder, kill_at in ((whole, 0), (cut, half + 7), (cut, 0)):
            command = [sys.executable, __file__, "--run", json.dumps(recipe.to_dict()), str(folder), str(kill_at)]
            code = subprocess.run(command, check=False).returncode
            print(f"{folder.name}: {max(losses(folder))} steps, exit {code}", flush=True)
        one, other = losses(whole), losses(cut)
        last, furthest = arguments.steps, max(abs(one[step] - other[step]) for step in one)
        print(f"last loss {one[last]:.9f} and {other[last]:.9f}; largest difference at any step {furthest:.3g}")


if __name__ == "__main__":
    main()
