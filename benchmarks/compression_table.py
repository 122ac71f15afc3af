"""Accuracy of every method at equal kept attention parameters, relative to the parent; and cost, if asked for.

python benchmarks/compression_table.py --data FOLDER --backtests backtests.csv [--model flow-bolt] [--output table.json]
python benchmarks/compression_table.py … --model flow-t5 --only "Joint" --ratios 0.25 0.15 0.075 --max-series 50 --cost

Calibration on the built-in synthetic series only. The first line says whether attention matters at all: WQL with all
attention outputs zeroed, relative to the model. Rows are written to --output as they come, and not computed again.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import flowrank.pipelines
from flowrank import Budget, FlowOfRanks, InputSVD, JointHeads, Uniform, WeightSVD
from flowrank.family import DEFAULT
from shared import Rows, Scores, add_data, identity, relative, without_attention

RATIOS = (0.5, 0.393, 0.237, 0.15, 0.075)
ALPHAS = {0.237: 0.4, 0.15: 0.35, 0.0: 0.27}  # the paper's Table 1: down to which size which α


def alpha(ratio: float) -> float:
    """The paper's α at a size."""
    return next(alpha for least, alpha in ALPHAS.items() if ratio >= least)


METHODS = {
    "WeightSVD + Uniform": lambda r: WeightSVD(Uniform(r)),
    "WeightSVD + Budget": lambda r: WeightSVD(Budget(r)),
    "InputSVD + Uniform": lambda r: InputSVD(Uniform(r)),
    "InputSVD + Budget": lambda r: InputSVD(Budget(r)),
    "JointHeads + Uniform": lambda r: JointHeads(Uniform(r)),
    "JointHeads + FlowOfRanks": lambda r: JointHeads(FlowOfRanks(ratio=r, alpha=alpha(r))),
    "JointHeads + Budget": lambda r: JointHeads(Budget(r)),
    "JointHeads + Budget, per head": lambda r: JointHeads(Budget(r), per_head=True),
}


def cost(child: flowrank.pipelines.Pipeline, parent: flowrank.pipelines.Pipeline) -> dict[str, float]:
    """Time, weights and memory of a child over those of its parent.

    Both under chronos-forecasting's own code; and the child's time with the exact engine over the parent's without.
    """
    workload = {"batch_size": 16, "context_length": 512, "horizon": 64, "repeats": 5}
    child.engine = parent.engine = "stock"
    ratio = flowrank.benchmark(child, parent, **workload)["ratio"]
    child.engine = "exact"
    exact = flowrank.benchmark(child, parent, **workload)["ratio"]
    parent.engine = "exact"
    latency = ratio["latency"]
    return {
        "time": latency["median"],
        "fastest": latency["min"],
        "slowest": latency["max"],
        "weights": ratio["weight_bytes"],
        "self cache": ratio["cache_bytes_self"],
        "cross cache": ratio["cache_bytes_cross"],
        "peak": ratio["peak_bytes"],
        "exact time": exact["latency"]["median"],
        "exact peak": exact["peak_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--cost", action="store_true", help="time and memory against the parent, B = 16")
    parser.add_argument("--seeds", type=int, default=1, help="calibration seeds of Budget; the table gives means")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    scores = Scores(arguments.data, arguments.backtests, arguments.max_series)
    parent = flowrank.load(arguments.model)
    known = Rows(
        arguments.output,
        {**identity(arguments.model, parent), "max_series": arguments.max_series, "cost": arguments.cost},
    )
    base = scores.of(parent)
    known.row("attention zeroed", lambda: relative(scores.of(without_attention(arguments.model)), base))

    def row(name: str, ratio: float, seed: int) -> dict[str, Any]:
        child = flowrank.compress(parent, METHODS[name](ratio), seed=seed)
        counts = child.recipe["parameters"]
        kept = counts["attention_child"] / counts["attention_parent"]
        found = {"method": name, "ratio": ratio, "seed": seed, "kept": kept, **relative(scores.of(child), base)}
        return found | (cost(child, parent) if arguments.cost else {})

    rows = [
        known.row(f"{name}, {ratio:g}, seed {seed}", partial(row, name, ratio, seed))
        for name in METHODS
        if arguments.only in name
        for ratio in arguments.ratios
        for seed in range(arguments.seeds if "Budget" in name else 1)
    ]
    table = pd.DataFrame(rows).drop(columns="key")
    print("\nWQL relative to the parent, geometric mean\n")
    print(table.pivot_table(index="method", columns="ratio", values="WQL", sort=False).round(4).to_string())
    print("\nMASE relative to the parent, geometric mean\n")
    print(table.pivot_table(index="method", columns="ratio", values="MASE", sort=False).round(4).to_string())
    if arguments.cost:
        print("\nCost relative to the parent\n")
        print(table.drop(columns=["WQL", "MASE"]).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
