"""Whether the generator of series keeps up with a training: series a second of each alone, and of both together.

benchmarks/gpu/run.sh rates RECIPE [--seconds 30] [--workers N] [--output FILE] [-- OPTIONS OF flowrank pretrain]

Three rates: of the worker processes that only make batches (and of one of them); of a training that takes batches which
were made before; and of the training as it is. The last one should be near the second; if it is near the first, the
processor is what the training waits for: more workers, a larger share of quick families (`--shares`), or a smaller GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from flowrank.cli.pretraining import pretrain_command
from flowrank.errors import FlowrankError
from flowrank.pretraining import Recipe, pretrain
from flowrank.pretraining.config import read_settings, recipe_of
from flowrank.pretraining.journal import read_log
from flowrank.pretraining.training import LOG, device_name
from flowrank.pretraining.windows import Windows, collate

_PREPARED = 16  # batches of several lengths
_STARTING = 15.0  # seconds until a training runs at its pace


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives an exit status."""
    given = list(sys.argv[1:] if words is None else words)
    given, further = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args(given)
    try:
        recipe = _recipe(settings.recipe, further)
        found = rates(recipe, settings.seconds, settings.workers, settings.device)
    except FlowrankError as error:
        print(f"error {error}", file=sys.stderr)
        return 2
    text = json.dumps({"recipe": settings.recipe.name, **found}, indent=1)
    print(text)
    if settings.output is not None:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(text + "\n", encoding="utf-8")
    return 0


def rates(recipe: Recipe, seconds: float, workers: int, device: str) -> dict[str, Any]:
    """Series a second of each part of a training."""
    cuda = device != "cpu" and torch.cuda.is_available()
    found: dict[str, Any] = {
        "device": device_name(torch.device("cuda" if cuda else "cpu")),
        "CPUs": os.cpu_count(),
        "workers": workers,
        "batch": recipe.per_device_train_batch_size,
    }
    for name, count in (("one worker alone", 1), ("workers alone", workers)):
        found[name] = _made(recipe, seconds, count)
    found["training alone"] = _trained(recipe, seconds, 0, device, prepared=True)
    found["training with workers"] = _trained(recipe, seconds, workers, device, prepared=False)
    return found


def _recipe(path: Path, further: Sequence[str]) -> Recipe:
    """The recipe of a file and of options of ``flowrank pretrain``."""
    from flowrank.cli.recipe_flags import recipe_settings

    command = pretrain_command()
    flags = command.make_context("pretrain", ["out", *further]).params
    settings, _ = read_settings(path)
    own = {"output", "config", "device", "show", "quiet", "stop_after", "help_all"}
    given = recipe_settings({name: value for name, value in flags.items() if name not in own}, settings)
    return recipe_of({"max_steps": 10**6, **settings}, **given)


def _made(recipe: Recipe, seconds: float, workers: int) -> int:
    """Series a second that worker processes make."""
    size = recipe.per_device_train_batch_size
    loader = iter(DataLoader(Windows(recipe, batches=10**6), batch_size=size, num_workers=workers, collate_fn=collate))
    for _ in range(2 * workers):  # those that were being made while the processes started
        next(loader)
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        next(loader)
        count += size
    return round(count / passed)


def _trained(recipe: Recipe, seconds: float, workers: int, device: str, *, prepared: bool) -> int | None:
    """Series a second of a training, after its first log lines."""
    made = Windows.batch
    ready: dict[int, dict[str, torch.Tensor]] = {}

    def taken(self: Windows, index: int) -> dict[str, torch.Tensor]:
        """One of a few batches, made once."""
        number = index % _PREPARED
        if number not in ready:
            ready[number] = made(self, number)
        return ready[number]

    never = {"save_steps": 10**6, "eval_steps": 10**6, "log_steps": 5, "eval_series": 1, "max_steps": 10**6}
    quick = recipe_of({**recipe.to_dict(), "minutes": None}, **never, dataloader_num_workers=workers)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            if prepared:
                Windows.batch = taken  # type: ignore[method-assign]
            pretrain(
                quick, Path(temporary, "run"), progress=False, device=device, stop_after=(seconds + _STARTING) / 60
            )
        finally:
            Windows.batch = made  # type: ignore[method-assign]
        lines = [line for line in read_log(Path(temporary, "run", LOG)) if "series_per_second" in line]
    if len(lines) < 2:
        return None  # so slow that nothing was logged twice
    first, last = lines[(len(lines) - 1) // 3], lines[-1]
    series = (last["step"] - first["step"]) * recipe.per_device_train_batch_size
    return round(series / (last["seconds"] - first["seconds"]))


if __name__ == "__main__":
    sys.exit(main())
