"""Pretraining at equal budget: dense, equal widths, growing widths, shrinking widths, and dense then compressed.

python benchmarks/pretraining_ablation.py --data FOLDER --backtests backtests.csv --work FOLDER [--family bolt|t5]

Every run trains on the same series in the same order for the same number of steps. Runs cut off go on, finished
ones are not repeated; `--only-train` and `--only-score` split the two parts, and `--shard 0/2` takes every second run,
so that two processes can share the work. The table goes to WORK/FAMILY.csv, its summary to standard output.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import gmean

import flowrank
from flowrank import Budget, FlowOfRanks, JointHeads, Uniform
from flowrank.evaluation import datasets_in, read_backtests
from flowrank.pretraining import Recipe, pretrain, seasonal_probe
from flowrank.synthetic import Mixture
from shared import without_attention

RATIOS = {0.25: 0.40, 0.15: 0.35, 0.075: 0.27}  # the paper's Table 1: size and α
_ALIKE = {"d_model": 64, "d_kv": 32, "num_heads": 2, "d_ff": 128, "num_decoder_layers": 2, "easy_steps": 10**6}
SCALES: dict[str, dict[str, Any]] = {  # contexts and easy series by which a model this small learns seasons
    "bolt": {
        **_ALIKE,
        "num_layers": 3,
        "context_length": 256,
        "lengths": (256,),
        "per_device_train_batch_size": 64,
        "max_steps": 3000,
    },
    "t5": {
        **_ALIKE,
        "num_layers": 2,
        "context_length": 128,
        "lengths": (128,),
        "prediction_length": 24,
        "horizons": (12, 24),
        "n_tokens": 512,
        "output_scale": 0.05,
        "relative_attention_num_buckets": 128,
        "relative_attention_max_distance": 256,
        "per_device_train_batch_size": 48,
        "max_steps": 2500,
    },
}
HEALING = 0.1  # of the steps, on top


def recipes(family: str, seeds: int) -> Iterator[tuple[str, float, int, Recipe]]:
    """Every model that is trained from random weights: its name, kept ratio, seed and recipe."""
    for seed in range(seeds):
        base = Recipe(family=family, seed=seed, log_steps=100, eval_steps=2000, **SCALES[family])
        yield "dense", 1.0, seed, base
        for ratio, alpha in RATIOS.items():
            yield "equal", ratio, seed, replace(base, schedule=Uniform(ratio))
            yield "flow", ratio, seed, replace(base, schedule=FlowOfRanks(ratio=ratio, alpha=alpha))
            yield "reversed", ratio, seed, replace(base, schedule=FlowOfRanks(ratio=ratio, alpha=-alpha))


def train(family: str, seeds: int, work: Path, shard: tuple[int, int]) -> None:
    """Train, compress and heal what is not there yet."""
    part, parts = shard
    for number, (name, ratio, seed, recipe) in enumerate(recipes(family, seeds)):
        folder = work / family / f"{name}-{ratio}-{seed}"
        if (number + seed) % parts != part or (folder / "config.json").exists():
            continue
        print(f"training {folder.name}", flush=True)
        pretrain(recipe, folder, progress=False, device="cpu")
    for number, (name, _, seed, recipe) in enumerate(recipes(family, seeds)):
        dense = work / family / f"dense-1.0-{seed}"
        if name != "dense" or (number + seed) % parts != part or not (dense / "config.json").exists():
            continue
        for ratio in RATIOS:
            child = work / family / f"compressed-{ratio}-{seed}"
            if not (child / "config.json").exists():
                flowrank.compress(flowrank.load(dense), JointHeads(Budget(ratio)), seed=seed).save_pretrained(child)
            healed = work / family / f"healed-{ratio}-{seed}"
            if not (healed / "config.json").exists():
                print(f"healing {healed.name}", flush=True)
                steps = int(HEALING * (recipe.max_steps or 0))
                rates = {"learning_rate": 3e-4, "muon_learning_rate": 1e-3, "cooldown_ratio": 0.9}
                again = replace(recipe, initial_model=str(child), max_steps=steps, seed=1000 + seed, **rates)
                pretrain(again, healed, progress=False, device="cpu")


def held_out(count: int = 512, context: int = 512, horizon: int = 24) -> list[np.ndarray]:
    """Synthetic series of a seed that no training uses, each divided by its mean magnitude: WQL weighs all alike."""
    series = []
    for _, values in Mixture().series(2 * count, length=context + horizon, seed=2**31):
        values = values[int((~np.isnan(values)).argmax()) :]
        if len(values) >= 3 * horizon and np.nanstd(values[:-horizon]) > 0 and len(series) < count:
            series.append(values / np.nanmean(np.abs(values)))
    return series


def score(
    family: str, seeds: int, work: Path, data: Path, backtests_file: Path, max_series: int | None
) -> pd.DataFrame:
    """Score every model that is there."""
    datasets, backtests = datasets_in(data), read_backtests(backtests_file)
    own = held_out()

    def scored(model: object) -> pd.Series:
        return flowrank.evaluate({"m": model}, datasets, backtests, max_series=max_series).set_index("dataset").WQL

    naive = scored("seasonal-naive")
    rows = []
    names = [(name, ratio, seed) for name, ratio, seed, _ in recipes(family, seeds)]
    names += [(name, ratio, seed) for name in ("compressed", "healed") for ratio in RATIOS for seed in range(seeds)]
    for name, ratio, seed in names:
        folder = work / family / f"{name}-{ratio}-{seed}"
        dense = work / family / f"dense-1.0-{seed}"
        if not (folder / "config.json").exists() or not (dense / "config.json").exists():
            continue
        pipeline = flowrank.load(folder)
        stock = (flowrank.load(one, engine="stock") for one in (folder, dense))
        measured = flowrank.benchmark(*stock, batch_size=32, repeats=5)
        scores = scored(pipeline)
        row = {"model": name, "ratio": ratio, "seed": seed}
        row["kept"] = measured["ratio"]["attention_parameters"]
        row["parameters"] = measured["models"]["child"]["parameters"]
        row["WQL held-out"] = flowrank.evaluate({"m": pipeline}, {"held-out": own}, prediction_length=24).WQL.item()
        row["WQL 13 / naive"] = float(gmean(scores / naive[scores.index]))
        row["probe"] = fmean(seasonal_probe(pipeline, (7, 12, 24), horizon=24).values())
        row["zeroed"] = float(gmean(scored(without_attention(str(folder))) / scores)) if name == "dense" else None
        row |= {"time": measured["ratio"]["latency"]["median"], "peak": measured["ratio"]["peak_bytes"]}
        row["cache"] = measured["ratio"]["cache_bytes_cross"]
        rows.append(row)
        print(pd.DataFrame(rows[-1:]).round(4).to_string(index=False, header=len(rows) == 1), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("FLOWRANK_DATA")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--backtests", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--family", choices=list(SCALES), default="bolt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-series", type=int, help="of each data set; default: all")
    parser.add_argument("--shard", default="0/1", help="this process's part of the runs, e.g. 0/2")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--only-score", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, _, parts = arguments.shard.partition("/")
    if not arguments.only_score:
        train(arguments.family, arguments.seeds, arguments.work, (int(part), int(parts)))
    if arguments.only_train:
        return
    table = score(
        *(arguments.family, arguments.seeds, arguments.work, arguments.data, arguments.backtests, arguments.max_series)
    )
    table.to_csv(arguments.work / f"{arguments.family}.csv", index=False)
    columns = ["kept", "parameters", "WQL held-out", "WQL 13 / naive", "probe", "zeroed", "time", "peak", "cache"]
    summary = table.groupby(["ratio", "model"], sort=False)[columns].agg(["mean", "min", "max"])
    print(summary.round(4).to_string())


if __name__ == "__main__":
    main()
