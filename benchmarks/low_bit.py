"""Time of a forecast in fp32, bfloat16 and 8-bit integers, in turns; and, given data, WQL relative to fp32.

python benchmarks/low_bit.py [--rounds 7] [--only flow-bolt]
python benchmarks/low_bit.py --data FOLDER --backtests backtests.csv [--max-series 50]

Every round times each number type once; the ratios to fp32 are those of the same round: median (min … max). One thread.
The compressed models keep a quarter of the attention parameters: JointHeads + Budget, or with --factored two factors a
matrix (WeightSVD + Uniform).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import gmean

import flowrank
from flowrank import Budget, JointHeads, Uniform, WeightSVD
from flowrank.compression.children import pipeline_of
from flowrank.compression.integers import stored_bytes
from flowrank.evaluation import datasets_in, read_backtests
from shapes import bolt, t5

CASES: dict[str, tuple[Callable[[], Any], list[dict[str, int]]]] = {
    "flow-bolt": (lambda: flowrank.load("flow-bolt"), [{"batch": 1}, {"batch": 32}]),
    "flow-t5-mini": (lambda: flowrank.load("flow-t5-mini"), [{"batch": 4, "num_samples": 20}]),
    "chronos-t5-small shape": (lambda: t5("small"), [{"batch": 4, "num_samples": 20}]),
    "chronos-bolt-base shape": (lambda: bolt("base"), [{"batch": 1}, {"batch": 32}]),
}
POINTS = 512


def number_types(pipeline: Any) -> dict[str, Any]:
    """The same model in fp32, bfloat16 and integers."""
    half = pipeline_of(copy.deepcopy(pipeline.inner_model).to(torch.bfloat16))
    return {"float32": pipeline, "bfloat16": half, "int8": flowrank.quantize(pipeline)}


def smaller(pipeline: Any, factored: bool) -> Any:
    """The model with a quarter of its attention parameters."""
    method = WeightSVD(Uniform(0.25)) if factored else JointHeads(Budget(0.25))
    return flowrank.compress(pipeline, method, calibration_series=32)


def timed(kinds: dict[str, Any], rounds: int, batch: int, **options: int) -> dict[str, list[float]]:
    """Seconds of every round, by number type."""
    series = torch.randn(batch, POINTS, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name, pipeline in kinds.items():
            start = time.perf_counter()
            pipeline.predict(series, **options)
            if turn:  # the first one warms up
                taken[name].append(time.perf_counter() - start)
    return taken


def report(name: str, pipeline: Any, workloads: list[dict[str, int]], rounds: int) -> None:
    """Print the times of one model."""
    kinds = number_types(pipeline)
    before, after = (stored_bytes(kinds[kind].inner_model) for kind in ("float32", "int8"))
    print(f"{name}: {before / 1e6:.1f} MB, integers {after / 1e6:.1f} MB ({after / before:.2f})", flush=True)
    for workload in workloads:
        taken = timed(kinds, rounds, **workload)
        base = taken["float32"]
        cells = [f"fp32 {1e3 * statistics.median(base):.1f} ms"]
        for kind in ("bfloat16", "int8"):
            ratios = [one / other for one, other in zip(taken[kind], base, strict=True)]
            cells.append(f"{kind} {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})")
        print(f"  {workload}: " + ", ".join(cells), flush=True)


def accuracy(name: str, pipeline: Any, arguments: argparse.Namespace) -> None:
    """Print WQL and MASE relative to fp32, geometric mean over the data sets."""
    datasets, backtests = datasets_in(arguments.data), read_backtests(arguments.backtests)
    datasets = {key: path for key, path in datasets.items() if any(one.dataset == key for one in backtests)}
    kinds = number_types(pipeline)
    scores = flowrank.evaluate(kinds, datasets, backtests, max_series=arguments.max_series)
    table = scores.pivot_table(index="dataset", columns="model", values=["WQL", "MASE"])
    for metric in ("WQL", "MASE"):
        for kind in ("bfloat16", "int8"):
            ratio = table[metric][kind] / table[metric]["float32"]
            print(
                f"  {name}: {metric} of {kind} × {gmean(ratio):.4f} ({ratio.min():.4f} … {ratio.max():.4f}), "
                f"{len(ratio)} data sets",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--factored", action="store_true", help="compress by WeightSVD + Uniform, into factors")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backtests", type=Path)
    parser.add_argument("--max-series", type=int, help="of each data set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, (make, workloads) in CASES.items():
        if arguments.only not in name:
            continue
        dense = make()
        for compressed in (False, True):
            pipeline = smaller(dense, arguments.factored) if compressed else dense
            label = f"{name}, compressed" if compressed else name
            if arguments.data is None:
                report(label, pipeline, workloads, arguments.rounds)
            elif "shape" not in name:
                accuracy(label, pipeline, arguments)


if __name__ == "__main__":
    main()
