"""Make a trained model one of those that come with the package: weights in bfloat16, recipe, and a card to fill in.

python benchmarks/ship.py TRAINED NAME [--card CARD.md]

TRAINED is the folder of `flowrank pretrain`. Folders that it and the trainings before it began with are named by their
last part. Refused: a training that saw other series than synthetic ones.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

import flowrank
from flowrank.errors import FlowrankError
from flowrank.family.embedded import EMBEDDED

STARTS = ("initial_model", "grown_from", "token_embedding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("name")
    parser.add_argument("--card", type=Path, help="README.md; default: the one there is, or a generated one")
    arguments = parser.parse_args()
    pipeline = flowrank.load(str(arguments.trained))
    told = pipeline.recipe or {}
    stages = [told["pretraining"], *told.get("stages_before", ())]
    for stage in stages:
        recipe = stage["recipe"]
        if recipe["training_data_paths"]:
            raise FlowrankError("trained", expected="synthetic series only", found=str(recipe["training_data_paths"]))
        for start in STARTS:
            recipe[start] = Path(recipe[start]).name if recipe.get(start) else None
    target, card = EMBEDDED / arguments.name, arguments.card
    kept = (target / "README.md").read_text(encoding="utf-8") if card is None and target.exists() else None
    pipeline.name = arguments.name
    pipeline.save_pretrained(target, overwrite=True, file_dtype=torch.bfloat16)
    if card is not None:
        shutil.copyfile(card, target / "README.md")
    elif kept is not None:
        (target / "README.md").write_text(kept, encoding="utf-8")
    size = (target / "model.safetensors").stat().st_size / 1e6
    series = ", ".join(f"{stage['series']:,} in {stage['minutes']:g} minutes" for stage in stages)
    print(f"{arguments.name}: {pipeline.inner_model.num_parameters():,} parameters, {size:.1f} MB; series: {series}")


if __name__ == "__main__":
    main()
