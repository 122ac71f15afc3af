"""The paper's headline, and its Table 2, on a model of ours: accuracy, time and memory over the stock dense model.

python benchmarks/headline.py MODEL --data FOLDER --backtests backtests.csv --work FOLDER [--output headline.json]
    [--figures FOLDER] [--ratios 0.393 0.237 0.15 0.075] [--heal-steps 700] [--max-series 200] [--draws 3]
python benchmarks/headline.py MODEL … --only accuracy   no timing, which wants a machine without other work
python benchmarks/headline.py MODEL … --only cost --batch 8 --context 512 --horizon 64 --repeats 15

MODEL is a dense Chronos-T5 (any other family works as well). Its children keep a share of the attention parameters:

* WeightSVD + Uniform, the paper's method without retraining, on this model;
* JointHeads + Budget;
* the same, healed: `flowrank.heal` on synthetic series. Its time and memory are what the headline gives.

WQL and MASE are geometric means over the data sets, over those of the dense model; "zero-shot" over the data sets of
that suite alone; a model trained on synthetic series has seen none of either. Of models that sample, the row "other
paths" is the dense model against itself with other seeds: smaller differences mean nothing. Costs are those of the
child with the exact engine over the dense model with chronos-forecasting's own code, run in turns in one process:
median (least … most) of the pairs; "dense, exact engine" says how much of it is the engine. Peak memory is above the
loaded model.

Rows of the paper are from its Tables 1 (pretrained narrow, in-domain) and 2 (truncated after training): another model,
Chronos-T5-base, on other data sets and another machine. Only the kept share is the same; its time and memory are those
of narrow models over dense ones. --work keeps the children and half-done healings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import flowrank
from compression_table import METHODS
from flowrank import Healing
from flowrank.benchmarking.workload import samples_paths
from flowrank.files import atomic_file
from shared import METRICS, Rows, Scores, add_data, identity, relative

PLAIN = ("WeightSVD + Uniform", "JointHeads + Budget")
HEALED = "JointHeads + Budget"
ZERO_SHOT = "zero-shot WQL"
PAPER: dict[str, list[dict[str, float]]] = {
    "the paper, truncated": [
        {"kept": 0.393, "WQL": 1.009, "MASE": 1.024, ZERO_SHOT: 0.990},
        {"kept": 0.237, "WQL": 1.053, "MASE": 1.005, ZERO_SHOT: 1.030},
        {"kept": 0.151, "WQL": 1.991, "MASE": 2.412, ZERO_SHOT: 1.566},
        {"kept": 0.073, "WQL": 4.409, "MASE": 4.095, ZERO_SHOT: 3.562},
    ],
    "the paper, pretrained narrow": [
        {"kept": 0.25, "WQL": 1.021, "time": 0.494},
        {"kept": 0.15, "WQL": 1.048, "time": 0.398},
        {"kept": 0.075, "WQL": 1.034, "time": 0.346, "peak": 0.186},
    ],
}
BARS = {"time": "time", "peak": "peak memory"}


class Children:
    """Children of a model by how they were made and the share kept, each kept in a folder."""

    def __init__(self, parent: Any, work: Path, seed: int) -> None:
        self.parent, self.work, self.seed = parent, work, seed

    def plain(self, name: str, ratio: float) -> Any:
        """A child as its method leaves it."""
        method = METHODS[name](ratio)
        return self._kept(f"{name} {ratio:g}", lambda: flowrank.compress(self.parent, method, seed=self.seed))

    def healed(self, ratio: float, options: Healing) -> Any:
        """The child of the method that is healed, healed."""
        name = f"{HEALED} {ratio:g} healed {options.most_steps}"
        state = self.work / f"{self._folder(name)}.healing"
        return self._kept(name, lambda: flowrank.heal(self.plain(HEALED, ratio), self.parent, options, folder=state))

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        folder = self.work / self._folder(name)
        if not (folder / "config.json").exists():
            make().save_pretrained(folder)
        return flowrank.load(folder)

    def _folder(self, name: str) -> str:
        return f"{name.replace(' + ', '-').replace(' ', '-')}-seed-{self.seed}"


class Accuracy:
    """Scores over those of the dense model."""

    def __init__(self, scores: Scores, rows: Rows, parent: Any) -> None:
        self.scores, self.parent = scores, parent
        told = rows.row("dense", lambda: {"scores": scores.of(parent).to_dict()})
        self.base = pd.DataFrame(told["scores"])
        self.zero_shot = [name for name, one in scores.backtests.items() if one.suite == "zero-shot"]

    def of(self, pipeline: Any, seeds: list[int] | None = None) -> dict[str, Any]:
        """Geometric means, and the ratio on each data set."""
        scores = self.scores.of(pipeline, seeds)
        found: dict[str, Any] = relative(scores, self.base)
        some = [name for name in scores.index if name in self.zero_shot]
        if some:
            found[ZERO_SHOT] = relative(scores.loc[some], self.base.loc[some])["WQL"]
        return found | {"data sets": (scores["WQL"] / self.base["WQL"]).dropna().round(4).to_dict()}


def kept(child: Any) -> float:
    """Share of the attention parameters that a child has."""
    counts = child.recipe["parameters"]
    return counts["attention_child"] / counts["attention_parent"]


def accuracy(children: Children, rows: Rows, arguments: argparse.Namespace) -> None:
    """Rows of scores."""
    seeds = list(range(arguments.draws))
    scores = Scores(arguments.data, arguments.backtests, arguments.max_series, seeds=seeds)
    judge = Accuracy(scores, rows, children.parent)
    if samples_paths(children.parent):
        others = [seed + 1000 for seed in seeds]
        rows.row("other paths", lambda: {"how": "other paths", "kept": 1.0, **judge.of(children.parent, others)})
    options = Healing(steps=arguments.heal_steps, seed=arguments.seed)
    for ratio in arguments.ratios:
        for name in PLAIN:

            def plain(name: str = name, ratio: float = ratio) -> dict[str, Any]:
                child = children.plain(name, ratio)
                return {"how": name, "ratio": ratio, "kept": kept(child), **judge.of(child)}

            rows.row(f"{name} {ratio:g}", plain)

        def healed(ratio: float = ratio) -> dict[str, Any]:
            child = children.healed(ratio, options)
            account = child.recipe["healing"]
            told = {"steps": account["steps"], "best_step": account["best_step"], "seconds": account["seconds"]}
            return {"how": f"{HEALED}, healed", "ratio": ratio, "kept": kept(child), **judge.of(child), **told}

        rows.row(f"{HEALED} {ratio:g} healed {options.most_steps}", healed)


def costs(children: Children, rows: Rows, arguments: argparse.Namespace) -> None:
    """Rows of time, memory and bytes."""
    work = {"batch_size": arguments.batch, "context_length": arguments.context, "horizon": arguments.horizon}
    said = f"B={arguments.batch} T={arguments.context} H={arguments.horizon}"
    stock = flowrank.load(arguments.model)
    stock.engine = "stock"

    def against(child: Any, how: str, ratio: float) -> dict[str, Any]:
        child.engine = "exact"
        found = flowrank.benchmark(child, stock, **work, repeats=arguments.repeats, threads=arguments.threads)
        over, models = found["ratio"], found["models"]
        latency = over["latency"]
        return {
            "cost of": how,
            "ratio": ratio,
            "workload": said,
            "time": [latency["median"], latency["min"], latency["max"]],
            "peak": over["peak_bytes"],
            "weights": over["weight_bytes"],
            "self cache": over["cache_bytes_self"],
            "cross cache": over["cache_bytes_cross"],
            "seconds": {name: one["latency_s"]["median"] for name, one in models.items()},
            "peak MiB": {name: one["peak_bytes"] / 2**20 for name, one in models.items()},
            "device": found["device"],
        }

    rows.row(f"cost dense {said}", lambda: against(flowrank.load(arguments.model), "dense, exact engine", 1.0))
    for ratio in arguments.ratios:
        key = f"cost {HEALED} {ratio:g} {said}"  # healing changes no shape
        rows.row(key, lambda ratio=ratio: against(children.plain(HEALED, ratio), HEALED, ratio))


def tables(rows: Rows) -> str:
    """Accuracy and costs as text, the paper's rows among ours."""
    scored = [row for row in rows if "how" in row]
    for how, theirs in PAPER.items():
        scored += [{"how": how, **row} for row in theirs]
    shown = pd.DataFrame(scored).reindex(columns=["how", "kept", *METRICS, ZERO_SHOT])
    text = f"Over the dense model\n\n{shown.round(3).to_string(index=False, na_rep='')}\n"
    paid = [row for row in rows if "cost of" in row]
    if paid:
        names = ["cost of", "ratio", "workload", "time", "peak", "weights", "self cache", "cross cache"]
        paid += [{"cost of": how, "ratio": one["kept"], **one} for how, some in PAPER.items() for one in some]
        costly = pd.DataFrame([row for row in paid if "time" in row]).reindex(columns=names)
        costly["time"] = [_cell(value) for value in costly["time"]]
        text += f"\nOver the dense model with stock code\n\n{costly.round(3).to_string(index=False, na_rep='')}\n"
    return text


def _cell(value: Any) -> str:
    return "{:.3f} ({:.3f} … {:.3f})".format(*value) if isinstance(value, list) else f"{value:.3f}"


def draw_accuracy(rows: Rows, path: Path, kind: str) -> None:
    """WQL over the kept share, a line a method; the paper's dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from flowrank import figures

    drawing = Figure(figsize=(9, 4.4), layout="constrained")
    ax = drawing.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "ratio" in row and "how" in row:
            lines.setdefault(row["how"], []).append((row["kept"], row["WQL"]))
    theirs = {f"{how}, in-domain": [(row["kept"], row["WQL"]) for row in some] for how, some in PAPER.items()}
    truncated = PAPER["the paper, truncated"]
    theirs["the paper, truncated, zero-shot"] = [(row["kept"], row[ZERO_SHOT]) for row in truncated]
    ax.axhline(1.0, color=figures.COLOURS["quiet"], linewidth=1)
    for number, (name, points) in enumerate([*lines.items(), *theirs.items()]):
        x, y = zip(*sorted(points), strict=True)
        look = {"color": figures.SERIES[number % len(figures.SERIES)], "marker": "o" if name in lines else "s"}
        ax.plot(x, y, "-" if name in lines else "--", label=name, linewidth=1.8, markersize=5, **look)
    ax.set(xscale="log", yscale="log", xlabel="kept share of attention parameters", ylabel="WQL over the dense model")
    for axis, ticks in ((ax.xaxis, (0.075, 0.15, 0.25, 0.4)), (ax.yaxis, (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figures.legible(ax).legend(fontsize=10, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    drawing.savefig(path, dpi=150, format=kind)


def draw_costs(rows: Rows, path: Path, kind: str) -> None:
    """Time and peak memory over the dense model with stock code, as bars; the latest workload alone."""
    from matplotlib.figure import Figure

    from flowrank import figures

    paid = [row for row in rows if "cost of" in row]
    workload = paid[-1]["workload"]
    bars = [
        (row["cost of"] if row["ratio"] == 1 else f"{row['ratio']:g} kept", row)
        for row in paid
        if row["workload"] == workload
    ]
    bars += [(f"the paper, {one['kept']:g}", one) for one in PAPER["the paper, pretrained narrow"] if "time" in one]
    drawing = Figure(figsize=(9, 1.2 + 0.36 * len(bars)), layout="constrained")
    for ax, (name, title) in zip(drawing.subplots(1, 2, sharey=True), BARS.items(), strict=True):
        values = [row.get(name) for _, row in bars]
        sizes = [value[0] if isinstance(value, list) else value or 0.0 for value in values]
        hues = [figures.COLOURS["quiet" if said.startswith("the paper") else "blue"] for said, _ in bars]
        spans = [(v[0] - v[1], v[2] - v[0]) if isinstance(v, list) else (0.0, 0.0) for v in values]
        errors = list(zip(*spans, strict=True)) if name == "time" else None
        ax.barh(range(len(bars)), sizes, color=hues, xerr=errors, ecolor=figures.COLOURS["soft"])
        for place, (value, size, (_, more)) in enumerate(zip(values, sizes, spans, strict=True)):
            text = "not given" if value is None else f"{size:.3f}"
            ax.annotate(text, (size + more, place), xytext=(4, 0), textcoords="offset points", va="center", size=10)
        ax.set_yticks(range(len(bars)), [said for said, _ in bars])
        furthest = max(size + more for size, (_, more) in zip(sizes, spans, strict=True))
        ax.set(xlabel=f"{title} over the dense model", xlim=(0, 1.25 * furthest))
        ax.xaxis.label.set_fontsize(12)
        ax.spines[["top", "right"]].set_visible(False)
    ax.invert_yaxis()
    drawing.suptitle(f"Ours: exact engine over stock code, {workload}", size=11)
    drawing.savefig(path, dpi=150, format=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    add_data(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for children")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.393, 0.237, 0.15, 0.075])
    parser.add_argument("--only", choices=["accuracy", "cost"], help="default: both")
    parser.add_argument("--heal-steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0, help="of calibration and healing")
    parser.add_argument("--draws", type=int, default=1, help="seeds of sample paths; scores are means over them")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figures", type=Path, help="folder for headline-wql.png and headline-cost.png")
    arguments = parser.parse_args()
    parent = flowrank.load(arguments.model)
    settings = {"series": arguments.max_series, "draws": arguments.draws, "seed": arguments.seed}
    what = identity(arguments.model, parent)
    rows = Rows(arguments.output, {**what, **settings})
    work = arguments.work / f"{what['model']}-{what['sha256'][:8]}"
    work.mkdir(parents=True, exist_ok=True)
    children = Children(parent, work, arguments.seed)
    if arguments.only != "cost":
        accuracy(children, rows, arguments)
    if arguments.only != "accuracy":
        costs(children, rows, arguments)
    print(f"\n{tables(rows)}")
    if arguments.figures:
        arguments.figures.mkdir(parents=True, exist_ok=True)
        for name, draw, needed in (("wql", draw_accuracy, "how"), ("cost", draw_costs, "cost of")):
            if any(needed in row and "ratio" in row for row in rows):
                with atomic_file(arguments.figures / f"headline-{name}.png", overwrite=True) as temporary:
                    draw(rows, temporary, "png")


if __name__ == "__main__":
    main()
