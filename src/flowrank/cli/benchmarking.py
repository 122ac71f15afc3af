"""``flowrank benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import BatchSize, Device, Dtype, Engine, Overwrite, Seed
from flowrank.files import refuse_existing


def benchmark(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model.")],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The model to compare with.")],
    output: Annotated[Path, typer.Option(help="JSON to write.")],
    engine: Engine = "exact",
    parent_engine: Annotated[str | None, typer.Option(help="Code path of the parent; default: as --engine.")] = None,
    batch_size: BatchSize = 32,
    context_length: Annotated[int | None, typer.Option(help="Points of each series; default: the model's.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast; default: the model's.")] = None,
    num_samples: Annotated[int, typer.Option(help="Sample paths a series (Chronos-T5).")] = 20,
    repeats: Annotated[int, typer.Option(help="Timed pairs.")] = 7,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's own choice.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Measure latency, parameters, weight, cache and peak bytes of two models, in turns in one process."""
    import json

    from flowrank.engine.paths import check_engine
    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_engine(engine, "--engine")
    check_engine(parent_engine or engine, "--parent-engine")
    result = flowrank.benchmark(
        opened(child, device, dtype, engine),
        opened(against, device, dtype, parent_engine or engine),
        batch_size=batch_size,
        context_length=context_length,
        horizon=horizon,
        num_samples=num_samples,
        repeats=repeats,
        threads=threads,
        seed=seed,
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
    row("floor of this machine, s", parent["floor_s"], child["floor_s"], child["floor_s"] / parent["floor_s"], ".4f")
    for key in ("min", "median", "max"):
        row(f"latency s, {key}", parent["latency_s"][key], child["latency_s"][key], None, ".4f")
    for key in ("min", "median", "max"):
        table.add_row(f"latency pair by pair, {key}", "", "", f"{ratio['latency'][key]:.3f}")
    out.print(table)
