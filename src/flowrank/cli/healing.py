"""``flowrank heal``: a short distillation that recovers accuracy lost by compression."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import Columns, Output, Overwrite, Quiet, Seed, SeriesOption
from flowrank.files import refuse_existing


@dataclass(frozen=True)
class Training:
    """How the child learns; None stands for what was not given."""

    panel: ClassVar[str | None] = "Training"

    batch: Annotated[
        int | None,
        typer.Option(help="Series in one step. Default: what suits the model's family."),
    ] = None
    distillation: Annotated[
        float | None, typer.Option(help="Weight of the loss against the parent's forecasts. Default: 1.")
    ] = None
    truth: Annotated[
        float | None, typer.Option(help="Weight of the loss against the values that followed. Default: 0.")
    ] = None
    optim: Annotated[str | None, typer.Option(help="Optimiser: adamw or muon. Default: adamw.")] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of AdamW. Default: 0.0001; with --optim muon what suits the model's family."
        ),
    ] = None
    muon_learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of Muon. Default: what suits the model's family.")
    ] = None
    patience: Annotated[
        int | None, typer.Option(help="Evaluations in a row without a better model that end training. Default: 5.")
    ] = None


@dataclass(frozen=True)
class TrainingRun:
    """Where the child learns."""

    panel: ClassVar[str | None] = "Device and seed"

    seed: Seed = 0
    device: Annotated[str, typer.Option(help="Device to train on: cpu, cuda, or auto, a GPU if there is one.")] = "auto"


def heal(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model: Hugging Face id, folder or name.")],
    parent: Annotated[str, typer.Argument(metavar="PARENT", help="The model that it was made from.")],
    output: Output,
    training: Training,
    columns: Columns,
    run: TrainingRun,
    series: SeriesOption = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes after which training ends.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps after which training ends. Default: 700, unless --minutes is given.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--checkpoints", help="Folder for checkpoints, from which an interrupted training continues."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a compressed model to forecast as its parent does, for some minutes; the best model found is kept."""
    from flowrank.family import MODEL_FILES

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    given: dict[str, Any] = {"steps": steps, "minutes": minutes, **asdict(training)}
    options = flowrank.Healing(seed=run.seed, **{name: value for name, value in given.items() if value is not None})
    healed = flowrank.heal(
        opened(child, "cpu", "auto"),
        opened(parent, "cpu", "auto"),
        options,
        series=series,
        folder=folder,
        device=run.device,
        progress=not quiet,
        **columns.settings(),
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
