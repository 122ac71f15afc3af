"""Whole-model compression: what a tolerance gives, whether it is honoured, and every method at equal size.

python benchmarks/whole_model.py tolerance --data FOLDER --backtests backtests.csv --work FOLDER [--model flow-t5]
    [--max-loss 0.01 0.03] [--seeds 5] [--max-series 200] [--draws 4]
python benchmarks/whole_model.py attention …   kept attention parameters 0.237, 0.15, 0.075, unhealed and healed
python benchmarks/whole_model.py table …       all methods at equal parameters, with time, unhealed and healed
python benchmarks/whole_model.py table --equal latency …   the same at equal predicted seconds on this machine
python benchmarks/whole_model.py time MODEL …  parent and children against stock code, paired

Every result is a line of a file in the folder --work, and what is there is not done again: take a new folder for new
code or options. Calibration, healing and
judging see synthetic series, or those of --series; losses on the data sets are relative to the parent, geometric means.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import flowrank
from flowrank import Budget, Healing, InputSVD, JointHeads, Tolerance, WeightSVD, WholeModel
from flowrank.anatomy import Attention
from flowrank.compression.apply import shrunk
from flowrank.compression.children import child_of, pipeline_of
from flowrank.compression.latency import Latency
from flowrank.compression.methods import PARTS
from flowrank.compression.plan import Plan
from flowrank.compression.prices import Price, price_in
from flowrank.errors import FlowrankError
from flowrank.family import family_of
from flowrank.measure.calibration import Calibration
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes
from flowrank.pretraining import Recipe
from flowrank.pretraining.architecture import build
from flowrank.search import Backtester
from shared import Scores, relative

SIZES = {"parameters": (0.6, 0.35), "latency": (0.7, 0.45)}
KEPT = (0.237, 0.15, 0.075)
TRIES = 8


class Results:
    """Lines of a file, by key; what is known is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known = {row["key"]: row for row in map(json.loads, lines)}

    def row(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a key."""
        if key not in self.known:
            self.known[key] = {"key": key, **compute()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        row = self.known[key]
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        return row


class Losses:
    """Losses on the data sets, relative to one parent."""

    def __init__(self, parent: Any, arguments: argparse.Namespace) -> None:
        seeds = range(arguments.draws)
        self.scores = Scores(arguments.data, arguments.backtests, arguments.max_series, seeds=seeds)
        self.parent = self.scores.of(parent)

    def __call__(self, pipeline: Any) -> dict[str, float]:
        """WQL and MASE over the parent's, less 1."""
        return {name: ratio - 1 for name, ratio in relative(self.scores.of(pipeline), self.parent).items()}


def tolerances(arguments: argparse.Namespace, parent: Any, results: Results) -> None:
    """Search for every tolerance and seed; what was promised and what came."""
    losses = Losses(parent, arguments)
    rows = []
    for loss in arguments.max_loss:
        for seed in range(arguments.seeds):
            name = f"{arguments.model}-{loss:g}-{seed}"

            def compute(loss: float = loss, seed: int = seed, name: str = name) -> dict[str, Any]:
                started = time.perf_counter()
                found = flowrank.smallest(
                    parent,
                    Tolerance(loss, unit=arguments.unit),
                    folder=arguments.work / f"{name}.search",
                    seed=seed,
                    on_stage=lambda stage: print(stage, flush=True),
                    **arguments.series,
                    **arguments.options,
                )
                seconds = time.perf_counter() - started
                found.save_pretrained(arguments.work / name, overwrite=True)
                recipe = found.recipe or {}
                judged = recipe.get("search", {})
                return {
                    "kept": found.inner_model.num_parameters() / parent.inner_model.num_parameters(),
                    "judged": judged.get("loss", 0.0),
                    "upper": judged.get("upper", 0.0),
                    **losses(found),
                    "stages": len(judged.get("stages", ())),
                    "seconds": seconds,
                }

            rows.append({"max_loss": loss, **results.row(name, compute)})
    table = pd.DataFrame(rows)
    table["excess"] = table["WQL"] - table["max_loss"]
    print(
        table.groupby("max_loss")[["kept", "WQL", "MASE", "excess"]].agg(["min", "median", "max"]).round(4).to_string()
    )
    print(f"exceeded: {(table['excess'] > 0).sum()} of {len(table)}, at most by {max(0.0, table['excess'].max()):.4f}")


def attention(arguments: argparse.Namespace, parent: Any, results: Results) -> None:
    """Attention alone, as in the paper's table, unhealed and healed."""
    losses = Losses(parent, arguments)
    for kept in KEPT:
        folder = arguments.work / f"{arguments.model}-attention-{kept}"

        def plain(kept: float = kept, folder: Path = folder) -> dict[str, Any]:
            child = flowrank.compress(parent, JointHeads(Budget(kept)), **arguments.series)
            child.save_pretrained(folder, overwrite=True)
            return losses(child)

        def healed(folder: Path = folder) -> dict[str, Any]:
            child = flowrank.heal(
                flowrank.load(folder), parent, Healing(steps=arguments.heal_steps), **arguments.series
            )
            return losses(child) | {"seconds": (child.recipe or {})["healing"]["seconds"]}

        results.row(f"{kept} unhealed", plain)
        results.row(f"{kept} healed {arguments.heal_steps}", healed)


def without_layers(parent: Any, ratio: float, price: Price) -> Any:
    """Drop whole sublayers, each time the one of the smallest loss, down to a share of the price."""
    backtester, model, family = Backtester(parent, count=512), parent.inner_model, family_of(parent)
    sites = {site.name: site for site in (*family.sites, *family.mlps) if site.kind != "block"}
    sizes = list(sites)
    gone: list[str] = []

    def child(names: list[str]) -> Any:
        attention, mlps, tensors = {}, {}, {}
        for name in names:
            site = sites[name]
            if isinstance(site, Attention):
                attention[name] = AttentionShape((0,) * site.all_heads, (0,) * site.all_heads, {})
                linears = {one.name: letter == "o" for letter, one in site.projections.items()}
            else:
                mlps[name] = MlpShape(0, {})
                linears = {f"{name}.{linear}": linear == site.writes for linear in site.linears}
            for linear, writes in linears.items():
                size = (site.d_model, 0) if writes else (0, site.d_model)
                tensors[linear] = {"weight": torch.zeros(size)}
        return pipeline_of(child_of(model, Plan(Shapes(attention, mlps), tensors)))

    goal = ratio * price(model.config)
    while (now := price(child(gone).inner_model.config)) > goal and len(gone) < len(sizes):
        losses = {}
        for name in sizes:
            if name not in gone:
                smaller = child([*gone, name])
                saved = max(1e-9, now - price(smaller.inner_model.config))
                losses[name] = backtester.compare(smaller).loss / saved
        gone.append(min(losses, key=losses.__getitem__))
    return child(gone)


def smaller_dense(parent: Any, ratio: float, price: Price) -> Any:
    """A dense model of the parent's depth with random weights, d_model, d_ff and heads scaled down alike."""
    config, chronos = parent.inner_model.config, parent.inner_model.config.chronos_config
    best: Any = None
    for d in range(16, config.d_model + 1, 16):
        share = d / config.d_model
        recipe = Recipe(
            family="bolt",
            d_model=d,
            d_kv=max(1, d // config.num_heads),
            d_ff=int(config.d_ff * share),
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            num_decoder_layers=config.num_decoder_layers,
            context_length=chronos["context_length"],
            prediction_length=chronos["prediction_length"],
            input_patch_size=chronos["input_patch_size"],
            max_steps=1,
        )
        made = build(recipe)
        if price(made.inner_model.config) <= ratio * price(config):
            best = made
    return best


def at_size(
    parent: Any, ratio: float, unit: str, latency: Latency, series: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """Every method at a share of the parameters or of the predicted seconds; None where it cannot reach it."""
    prices: dict[str, Price] = {"parameters": price_in("parameters", parent.inner_model), "latency": latency}
    price = prices[unit]
    goal = ratio * price(parent.inner_model.config)
    contexts = Calibration.read(series.get("series"), count=768, mixed=True, timestamp_column=None).contexts

    def attention(method: Any) -> Callable[[float, str], Any]:
        return lambda size, _: flowrank.compress(parent, method(Budget(size)), calibration_series=768, **series)

    def whole(*parts: Any) -> Callable[[float, Any], Any]:
        return lambda size, own: shrunk(
            parent, WholeModel(Budget(size, unit=own), parts=parts), contexts, 0, None, prices[own]
        )

    def tried(make: Callable[[float, str], Any], size: float, own: str) -> Any:
        try:
            return make(size, own)
        except FlowrankError:  # so little cannot be kept
            return None

    def reached(make: Callable[[float, str], Any], own: str = "parameters", of_all: bool = True) -> Any:
        """The largest child within the price: by the method's own budget, where that counts the same, or bisection."""
        if of_all and own == unit:
            return tried(make, ratio, own)
        low, high = 0.02, 1.0
        best = tried(make, low, own)
        if best is not None and price(best.inner_model.config) > goal:
            return None
        for _ in range(TRIES):
            middle = (low * high) ** 0.5
            child = tried(make, middle, own)
            if child is None:
                low = middle
            elif price(child.inner_model.config) <= goal:
                low, best = middle, child
            else:
                high = middle
        return best

    return {
        "WeightSVD (the paper)": lambda: reached(attention(WeightSVD), of_all=False),
        "InputSVD": lambda: reached(attention(InputSVD), of_all=False),
        "JointHeads": lambda: reached(attention(JointHeads), of_all=False),
        "neurons": lambda: reached(whole("neurons")),
        "WholeModel": lambda: reached(whole("heads", "neurons", "ends")),
        "WholeModel, factors too": lambda: reached(whole(*PARTS)),
        "WholeModel, for latency": lambda: reached(whole("heads", "neurons", "ends"), own="latency"),
        "layer dropping": lambda: without_layers(parent, ratio, price),
        "smaller dense, from scratch": lambda: smaller_dense(parent, ratio, price),
    }


def measured(parent: Any, arguments: argparse.Namespace) -> Latency:
    """Seconds on this machine, measured once for a folder --work."""
    path = arguments.work / f"{arguments.model}-latency.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(Latency.measure(parent))), encoding="utf-8")
    return Latency.from_dict(json.loads(path.read_text(encoding="utf-8")))


def table(arguments: argparse.Namespace, parent: Any, results: Results) -> None:
    """Every method at equal size: loss unhealed and healed, and time over the parent's, both exact."""
    losses = Losses(parent, arguments)
    unit, latency = arguments.equal, measured(parent, arguments)
    price = latency if unit == "latency" else price_in(unit, parent.inner_model)
    rows = []
    for ratio in arguments.sizes or SIZES[unit]:
        for name, make in at_size(parent, ratio, unit, latency, arguments.series).items():
            folder = arguments.work / f"{arguments.model}-{unit}-{ratio}-{name.replace(' ', '-')}"

            def unhealed(make: Any = make, folder: Path = folder) -> dict[str, Any]:
                child = make()
                if child is None:
                    return {}
                child.save_pretrained(folder, overwrite=True)
                timed = flowrank.benchmark(child, parent, batch_size=32, context_length=512, horizon=64, repeats=9)
                latency = timed["ratio"]["latency"]
                kept = child.inner_model.num_parameters() / parent.inner_model.num_parameters()
                asked = price(child.inner_model.config) / price(parent.inner_model.config)
                timed = {"time": latency["median"], "fastest": latency["min"]}
                return {"kept": kept, "asked": asked, **timed, **losses(child)}

            def healed(folder: Path = folder) -> dict[str, Any]:
                child = flowrank.heal(
                    flowrank.load(folder), parent, Healing(steps=arguments.heal_steps), **arguments.series
                )
                return losses(child)

            plain = results.row(f"{unit} {ratio} {name}", unhealed)
            if "kept" not in plain:
                continue
            after = results.row(f"{unit} {ratio} {name}, healed", healed)
            rows.append(
                {"size": ratio, "method": name, **{k: plain[k] for k in ("kept", "time", "WQL", "MASE")}}
                | {"WQL healed": after["WQL"], "MASE healed": after["MASE"]}
            )
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def times(arguments: argparse.Namespace, parent: Any, results: Results) -> None:
    """Children against the parent under stock code and under the exact engine, paired, with peak memory."""
    t5 = "t5" in arguments.model
    work = {"batch_size": 8 if t5 else 32, "context_length": 512, "horizon": 64, "repeats": arguments.repeats}
    for folder in arguments.children:
        child = flowrank.load(folder)
        for path in ("stock", "exact"):
            parent.engine = path

            def compute(child: Any = child) -> dict[str, Any]:
                found = flowrank.benchmark(child, parent, **work)
                ratio, mine = found["ratio"], found["models"]["child"]
                shown = {k: ratio[k] for k in ("weight_bytes", "peak_bytes") if k in ratio}
                return {**{f"time {k}": v for k, v in ratio["latency"].items()}, **shown, "bytes": mine["weight_bytes"]}

            results.row(f"{folder} exact over parent {path}, B={work['batch_size']}", compute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tolerance", "attention", "table", "time"])
    parser.add_argument("children", nargs="*", help="time: folders of smaller models")
    data = os.environ.get("FLOWRANK_DATA")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--backtests", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="flow-bolt")
    parser.add_argument("--max-loss", type=float, nargs="+", default=[0.01, 0.03])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--heal-steps", type=int, default=300)
    parser.add_argument("--max-series", type=int, help="of each data set; default: all")
    parser.add_argument("--draws", type=int, default=1, help="of the sample paths; losses are of the mean over them")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, of flowrank.smallest")
    parser.add_argument("--series", help="series for calibration, healing and comparison; default: synthetic ones")
    parser.add_argument("--equal", choices=list(SIZES), default="parameters", help="table: what is the same for all")
    parser.add_argument("--sizes", type=float, nargs="+", help="table: shares of the parent's; default: two")
    parser.add_argument("--unit", default="parameters", help="tolerance: what is to become small")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.series = {"series": arguments.series, "timestamp_column": None} if arguments.series else {}
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.what != "time" and (arguments.data is None or arguments.backtests is None):
        parser.error("--data and --backtests are needed")
    results = Results(arguments.work / f"{arguments.model}-{arguments.what}.jsonl")
    run = {"tolerance": tolerances, "attention": attention, "table": table, "time": times}[arguments.what]
    run(arguments, flowrank.load(arguments.model), results)


if __name__ == "__main__":
    main()
