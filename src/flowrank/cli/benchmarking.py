"""``flowrank benchmark``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import EngineRun, Overwrite, names_of
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing


@dataclass(frozen=True)
class Timing:
    """What is timed, and how often."""

    panel: ClassVar[str | None] = "What is timed"

    context_length: Annotated[
        int | None, typer.Option(help="Number of past values of each series. Default: the largest of the model.")
    ] = None
    horizon: Annotated[
        int | None, typer.Option(help="Number of steps to forecast. Default: as many as the model gives at once.")
    ] = None
    num_samples: Annotated[int, typer.Option(help="Sample paths drawn for each series, by models that draw them.")] = 20
    repeats: Annotated[int, typer.Option(help="How often both models are timed, in turns.")] = 7
    parent_engine: Annotated[str | None, typer.Option(help="What runs the parent. Default: as --engine.")] = None


@dataclass(frozen=True)
class SideBySide:
    """Which engines are timed beside that, and on how many series at once."""

    panel: ClassVar[str | None] = "Engines side by side"

    engines: Annotated[
        str | None,
        typer.Option(
            help="Also time both models by several engines, each in a process of its own: all (those that are "
            "installed and that the model can use), or names with commas between: stock, exact, onnxruntime, openvino, "
            "fastest, compiled (the stock code under torch.compile)."
        ),
    ] = None
    batch_sizes: Annotated[
        str | None,
        typer.Option(help="With --engines: numbers of series at once, with commas between. Default: 1,8,32."),
    ] = None

    def asked(self) -> dict[str, Any] | None:
        """Give the library's arguments for them; None where nothing is asked."""
        from flowrank.benchmarking.engines import check_engines

        if self.engines is None:
            if self.batch_sizes is not None:
                found = "none, beside --batch-sizes"
                raise FlowrankError("--engines", expected="all, or names of engines", found=found)
            return None
        names = None if self.engines == "all" else names_of([self.engines], "--engines", "names of engines")
        told = self.batch_sizes or "1,8,32"
        try:
            sizes = [int(one) for one in told.split(",")]
        except ValueError:
            expected = "whole numbers with commas between, e.g. 1,32"
            raise FlowrankError("--batch-sizes", expected=expected, found=repr(told)) from None
        return {
            "engines": names if names is None else check_engines(names, "--engines"),
            "batch_sizes": [check_count(one, "--batch-sizes") for one in sizes],
        }


def benchmark(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model: Hugging Face id, folder or name.")],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The model to compare with.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    timing: Timing,
    side_by_side: SideBySide,
    run: EngineRun,
    overwrite: Overwrite = False,
) -> None:
    """Compare two models: time of a forecast, parameters, size, cache and peak memory, in turns in one process.

    With --engines all engines side by side too, each in a process of its own.
    """
    import json

    from flowrank.engine.paths import check_engine
    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    parent_engine = timing.parent_engine or run.engine or "exact"
    check_engine(run.engine or "exact", "--engine")
    check_engine(parent_engine, "--parent-engine")
    engines = side_by_side.asked()
    result = flowrank.benchmark(
        run.opened(child),
        opened(against, run.device, run.dtype, parent_engine),
        batch_size=run.batch_size,
        context_length=timing.context_length,
        horizon=timing.horizon,
        num_samples=timing.num_samples,
        repeats=timing.repeats,
        threads=run.threads,
        seed=run.seed,
    )
    if engines is not None:
        result["engines"] = _engines_compared([against, child], result, engines, run)
    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print_benchmark(result)
    if engines is not None:
        _print_engines(result["engines"])


def _engines_compared(
    models: list[str], result: dict[str, Any], engines: dict[str, Any], run: EngineRun
) -> dict[str, Any]:
    """Time the engines on what both models were timed on."""
    workload = result["workload"]
    return flowrank.compare_engines(
        models,
        **engines,
        context_length=workload["context_length"],
        horizon=workload["horizon"],
        num_samples=workload["num_samples"] or 20,
        repeats=workload["repeats"],
        threads=result["device"]["threads"],
        seed=run.seed,
        device_map=run.device,
        dtype=run.dtype,
    )


def _print_benchmark(result: dict[str, Any]) -> None:
    parent, child, ratio = result["models"]["parent"], result["models"]["child"], result["ratio"]
    device = result["device"]
    table = Table("", "parent", "child", "ratio", title=f"{device['name']}, {device['threads']} threads")
    table.add_row("engine", parent["engine"], child["engine"], "")

    def row(label: str, before: float | None, after: float | None, share: float | None, spec: str) -> None:
        cells = [("–" if value is None else format(value, spec)) for value in (before, after)]
        table.add_row(label, *cells, "–" if share is None else f"{share:.3f}")

    for key in ("parameters", "attention_parameters", "weight_bytes", "peak_bytes"):
        row(key.replace("_", " "), parent[key], child[key], ratio[key], ",")
    for key in ("self", "cross"):
        row(
            f"{key} cache bytes",
            parent["cache_bytes"][key],
            child["cache_bytes"][key],
            ratio[f"cache_bytes_{key}"],
            ",",
        )
    row("roofline of this machine, s", parent["floor_s"], child["floor_s"], child["floor_s"] / parent["floor_s"], ".4f")
    for key in ("min", "median", "max"):
        row(f"latency s, {key}", parent["latency_s"][key], child["latency_s"][key], None, ".4f")
    for key in ("min", "median", "max"):
        table.add_row(f"latency pair by pair, {key}", "", "", f"{ratio['latency'][key]:.3f}")
    out.print(table)


def _print_engines(found: dict[str, Any]) -> None:
    """Least time of each model and engine, a column a batch size, and what could not run."""
    sizes, rows = found["workload"]["batch_sizes"], found["rows"]
    table = Table("model", "engine", title="Engines side by side: least ms of a forecast (over stock)")
    for size in sizes:
        table.add_column(f"{size} series", justify="right")
    for side in dict.fromkeys((row["model"], row["engine"]) for row in rows):
        table.add_row(*side, *(_time_of(row) for row in rows if (row["model"], row["engine"]) == side))
    out.print(table)
    for told in dict.fromkeys(f"{row['model']} by {row['engine']}: {row['why']}" for row in rows if row["why"]):
        out.print(told, highlight=False, markup=False, soft_wrap=True)


def _time_of(row: dict[str, Any]) -> str:
    if row["least_s"] is None:
        return "–"
    share = "" if row["least_over_stock"] is None else f" ({row['least_over_stock']:.2f})"
    return f"{1000 * row['least_s']:.3g}{share}"
