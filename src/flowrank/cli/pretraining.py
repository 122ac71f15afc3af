"""``flowrank pretrain``."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flowrank.cli.console import err, out
from flowrank.cli.groups import Command, grouped


class DeviceName(str, Enum):
    """Devices that models train on."""

    auto = "auto"
    cpu = "cpu"


def pretrain(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder to write the model to; an interrupted training that it holds continues."
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, named as the options or as in chronos-forecasting; options win."),
    ] = None,
    device: Annotated[
        DeviceName,
        typer.Option(help="Device to train on; auto: a GPU if there is one. Default: auto.", show_default=False),
    ] = DeviceName.auto,
    stop_after: Annotated[
        float | None,
        typer.Option(
            help="Minutes after which this run ends with a checkpoint; the same command goes on from there. Learning "
            "rates follow --minutes and --max-steps alone.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print all settings as YAML, and stop.", rich_help_panel="Run")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bar.", rich_help_panel="Run")] = False,
    **flags: Any,
) -> None:
    """Train a model from random weights, dense or with narrow heads, on synthetic or your own series.

    An interrupted training continues from its last checkpoint when the same command is given again.
    """
    from flowrank.cli.recipe_flags import recipe_settings
    from flowrank.pretraining import pretrain as train
    from flowrank.pretraining.config import read_settings, recipe_of, to_yaml

    first = int(os.environ.get("RANK", "0")) == 0  # of the processes that torchrun started
    settings, notes = read_settings(config) if config is not None else ({}, [])
    recipe = recipe_of(settings, **recipe_settings(flags, settings))
    for note in notes if first else ():
        err.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if show:
        out.print(to_yaml(recipe), end="", highlight=False, markup=False, soft_wrap=True)
        return
    pipeline = train(recipe, output, progress=not quiet, device=device.value, stop_after=stop_after)
    if first:
        _print_outcome(pipeline, output)


def _print_outcome(pipeline: Any, output: Path) -> None:
    from flowrank.family import anatomy_of
    from flowrank.pretraining.journal import read_log
    from flowrank.pretraining.training import LOG

    account, model = pipeline.recipe["pretraining"], pipeline.inner_model
    losses = [line["eval_loss"] for line in read_log(output / LOG) if "eval_loss" in line]
    table = Table(show_header=False, title=f"{account['recipe']['family']}, {account['steps']:,} steps")
    table.add_row("parameters", f"{model.num_parameters():,}")
    table.add_row("attention parameters", f"{anatomy_of(model).parameters_of_attention():,}")
    table.add_row("series seen", f"{account['series']:,}")
    table.add_row("minutes", f"{account['minutes']:,.2f}")
    table.add_row("last validation loss", f"{losses[-1]:.4f}" if losses else "–")
    if account.get("finished", True):
        table.add_row("where", str(output))
    else:
        table.add_row("not finished", "the same command goes on")
    out.print(table)


def pretrain_command() -> Any:
    """`pretrain` with a flag for every setting of a recipe, as a command."""
    from flowrank.cli.recipe_flags import recipe_flags

    alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    alone.command(pretrain.__name__, cls=Command)(grouped(pretrain, recipe_flags()))
    return typer.main.get_command(alone)
