"""Rank anatomy: the flow-of-ranks of a model, the cost of measuring it, and schedules fitted to it.

python benchmarks/anatomy.py flow flow-bolt flow-t5-mini  rank of the stream by sublayer, and how theorem 4 limits it
    [--output anatomy.json]                          the stream before and after each layer, for `tables.py`
python benchmarks/anatomy.py time [--series 1000]     `analyze` of a Bolt-base shape: seconds, peak memory
python benchmarks/anatomy.py schedules --model flow-bolt --data FOLDER --backtests backtests.csv [--max-series 50]

`schedules` compresses with JointHeads at equal size under FlowOfRanks with the α that `advise` fits to the model, under
the paper's α values and under Uniform, and prints WQL relative to the parent.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import gmean

import flowrank
from flowrank import FlowOfRanks, JointHeads, Uniform
from flowrank.evaluation import datasets_in, read_backtests
from memory import PeakMemory
from shapes import bolt

PAPER = (0.4, 0.35, 0.27)


def streams(name: str, profile: flowrank.RankProfile, width: int) -> Iterator[dict[str, object]]:
    """A row a stack: rank before the first layer and after each, and what each kind of sublayer changed in all."""
    measures = {f"ε = {epsilon:g}": profile.flow(epsilon) for epsilon in (0.1, 0.01)}
    measures["effective rank"] = effective = profile.flow(measure="effective_rank")
    for stack in effective["stack"].unique():
        row: dict[str, object] = {"model, stack": f"`{name}`, {stack}", "d": width}
        for measure, table in measures.items():
            own = table[table["stack"] == stack]
            after = ", ".join(f"{rank:.0f}" for rank in own.groupby("layer")["after"].last())
            row[measure] = f"{own['before'].iloc[0]:.0f} → {after}"
        total = effective[effective["stack"] == stack].groupby("kind")["total"].sum()
        changes = (f"{total[kind]:+.0f}" if kind in total else "–" for kind in ("self", "cross", "mlp"))
        row["by self / cross / MLP"] = " / ".join(changes).replace("-", "−")
        yield row


def flow(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, object]] = []
    for name in arguments.models:
        pipeline = flowrank.load(name)
        profile = flowrank.analyze(pipeline, count=arguments.series, points=arguments.points)
        rows += streams(name, profile, pipeline.inner_model.config.d_model)
        for epsilon in (0.1, 0.01):
            table = profile.flow(epsilon)
            above = profile.bounds.assign(
                measured=profile.bounds["sigma"] > epsilon, bounded=profile.bounds["bound"] > epsilon
            )
            bounds = above.groupby(["stack", "kind", "layer"])[["measured", "bounded"]].sum()
            table = table.join(bounds["bounded"].rename("theorem 4"), on=["stack", "kind", "layer"])
            print(f"\n{name}, ε = {epsilon:g}, {arguments.series} series\n")
            print(table.to_string(index=False, na_rep=""))
        print("\neffective rank\n")
        print(profile.flow(measure="effective_rank").round(1).to_string(index=False, na_rep=""))
        print(f"\n{flowrank.advise(profile, 0.15)}")
    if arguments.output:
        count = f"--series {arguments.series} --points {arguments.points}"
        command = f"python benchmarks/anatomy.py flow {' '.join(arguments.models)} {count}"
        found = {"command": command, "torch": torch.__version__, "rows": rows}
        arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cost(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(2)
    pipeline = bolt("base")
    size = sum(p.nbytes for p in pipeline.inner_model.parameters())
    with PeakMemory() as memory:
        start = time.perf_counter()
        flowrank.analyze(pipeline, count=arguments.series, points=arguments.points)
        seconds = time.perf_counter() - start
    print(f"{seconds:.1f} s for {arguments.series} series of {arguments.points} points")
    print(f"model {size / 1e6:.0f} MB, peak above it {memory.above / 1e6:.0f} MB")
    print(f"both together {1 + memory.above / size:.2f} × the model")


def schedules(arguments: argparse.Namespace) -> None:
    datasets, backtests = datasets_in(arguments.data), read_backtests(arguments.backtests)
    parent = flowrank.load(arguments.model)
    fitted = flowrank.advise(flowrank.analyze(parent, count=256)).alpha
    print(f"{arguments.model}: fitted α = {fitted:.3f}", flush=True)

    def scored(pipeline: object) -> pd.Series:
        scores = flowrank.evaluate({"m": pipeline}, datasets, backtests, max_series=arguments.max_series)
        return scores.set_index("dataset")["WQL"]

    base = scored(parent)
    rows = []
    for ratio in arguments.ratios:
        allocations = {"Uniform": Uniform(ratio), "fitted α": FlowOfRanks(ratio=ratio, alpha=fitted)}
        allocations |= {f"α = {alpha}": FlowOfRanks(ratio=ratio, alpha=alpha) for alpha in PAPER}
        for name, allocation in allocations.items():
            for seed in range(arguments.seeds):
                child = flowrank.compress(parent, JointHeads(allocation), seed=seed)
                counts = child.recipe["parameters"]
                kept = counts["attention_child"] / counts["attention_parent"]
                rows.append(
                    {"ratio": ratio, "allocation": name, "seed": seed, "kept": kept, "WQL": gmean(scored(child) / base)}
                )
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby(["ratio", "allocation"], sort=False)[["kept", "WQL"]]
    print(table.agg(["median", "min", "max"]).round(4).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("flow")
    one.add_argument("models", nargs="+")
    one.add_argument("--series", type=int, default=256)
    one.add_argument("--points", type=int, default=512)
    one.add_argument("--output", type=Path)
    one.set_defaults(run=flow)
    two = commands.add_parser("time")
    two.add_argument("--series", type=int, default=1000)
    two.add_argument("--points", type=int, default=512)
    two.set_defaults(run=cost)
    three = commands.add_parser("schedules")
    data = os.environ.get("FLOWRANK_DATA")
    three.add_argument("--data", type=Path, default=data, required=data is None)
    three.add_argument("--backtests", type=Path, required=True)
    three.add_argument("--model", default="flow-bolt")
    three.add_argument("--ratios", type=float, nargs="+", default=[0.15, 0.075])
    three.add_argument("--max-series", type=int)
    three.add_argument("--seeds", type=int, default=1)
    three.set_defaults(run=schedules)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
