"""``flowrank heal``: a short distillation that repairs what truncation broke."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import (
    Freq,
    IdColumn,
    Overwrite,
    Quiet,
    Seed,
    SeriesOption,
    Target,
    TimestampColumn,
    columns,
)
from flowrank.files import refuse_existing


def heal(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model: folder, hub id, embedded name.")],
    parent: Annotated[str, typer.Argument(metavar="PARENT", help="The model that it was made from.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    series: SeriesOption = None,
    steps: Annotated[int | None, typer.Option(help="Steps. Default: 700, unless there are minutes.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes; what comes first ends it.")] = None,
    batch: Annotated[int | None, typer.Option(help="Series a step. Default: 64 (T5: 16).")] = None,
    distillation: Annotated[float | None, typer.Option(help="Weight of the parent's forecasts. Default: 1.")] = None,
    truth: Annotated[float | None, typer.Option(help="Weight of the true future. Default: 0.")] = None,
    optim: Annotated[str | None, typer.Option(help="adamw or muon. Default: adamw.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of AdamW. Default: 0.0001; beside Muon 0.001 (T5: 0.005).")
    ] = None,
    muon_learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of Muon. Default: 0.001 (T5: 0.003).")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Evaluations without a better model. Default: 5.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--checkpoints", help="Folder for checkpoints: a run that was cut off goes on.")
    ] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="Where it trains: auto, cpu, cuda.")] = "auto",
    id_column: IdColumn = "item_id",
    timestamp_column: TimestampColumn = "timestamp",
    target: Target = "target",
    freq: Freq = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a compressed model to forecast as its parent does, for some minutes; it never gets worse."""
    from flowrank.family import MODEL_FILES

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    given: dict[str, Any] = {
        "steps": steps,
        "minutes": minutes,
        "batch": batch,
        "distillation": distillation,
        "truth": truth,
        "optim": optim,
        "learning_rate": learning_rate,
        "muon_learning_rate": muon_learning_rate,
        "patience": patience,
    }
    options = flowrank.Healing(seed=seed, **{name: value for name, value in given.items() if value is not None})
    healed = flowrank.heal(
        opened(child, "cpu", "auto"),
        opened(parent, "cpu", "auto"),
        options,
        series=series,
        folder=folder,
        device=device,
        progress=not quiet,
        **columns(id_column, timestamp_column, target, freq),
    )
    healed.save_pretrained(output, overwrite=overwrite)
    account = (healed.recipe or {})["healing"]
    table = Table(show_header=False, title=f"{child} → {output}")
    table.add_row("held-out loss before", f"{account['loss_before']:.4f}")
    table.add_row("held-out loss after", f"{account['loss_after']:.4f}")
    table.add_row("steps", f"{account['steps']:,} (best: {account['best_step']:,})")
    table.add_row("series seen", f"{account['series']:,}")
    table.add_row("seconds", f"{account['seconds']:,.1f}")
    out.print(table)
