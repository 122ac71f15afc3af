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
from flowrank.cli.options import EngineRun, Overwrite
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


def benchmark(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model: Hugging Face id, folder or name.")],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The model to compare with.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    timing: Timing,
    run: EngineRun,
    overwrite: Overwrite = False,
) -> None:
    """Compare two models: time of a forecast, parameters, size, cache and peak memory, in turns in one process."""
    import json

    from flowrank.engine.paths import check_engine
    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    parent_engine = timing.parent_engine or run.engine or "exact"
    check_engine(run.engine or "exact", "--engine")
    check_engine(parent_engine, "--parent-engine")
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
    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print_benchmark(result)


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
