"""All commands, under one name."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import flowrank
from flowrank.cli.analysis import analyze
from flowrank.cli.benchmarking import benchmark
from flowrank.cli.compression import compress
from flowrank.cli.console import out
from flowrank.cli.evaluation import evaluate
from flowrank.cli.exporting import export
from flowrank.cli.forecasting import forecast
from flowrank.cli.groups import Command, grouped
from flowrank.cli.healing import heal
from flowrank.cli.models import models
from flowrank.cli.pages import datasheet, demo, report
from flowrank.cli.pretraining import pretrain, pretrain_command
from flowrank.cli.proving import prove
from flowrank.cli.quantizing import quantize


class Commands(TyperGroup):
    """Adds the options of `pretrain` only when it is called: they are a recipe's fields, and those need torch."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name."""
        if args[:1] == [pretrain.__name__]:
            self.add_command(pretrain_command(), pretrain.__name__)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="Make time series foundation models small and fast, and show why that works.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"flowrank {flowrank.__version__}", highlight=False)
        raise typer.Exit


def _pretrain_by_name() -> None:
    """Placeholder for `pretrain` in the list of commands."""


app.command(cls=Command)(grouped(models))
app.command(cls=Command)(grouped(compress))
app.command(cls=Command)(grouped(heal))
app.command(cls=Command)(grouped(quantize))
app.command(cls=Command)(grouped(export))
app.command(cls=Command)(grouped(analyze))
app.command(cls=Command)(grouped(evaluate))
app.command(cls=Command)(grouped(benchmark))
app.command(cls=Command)(grouped(forecast))
app.command(cls=Command)(grouped(prove))
app.command(pretrain.__name__, help=inspect.getdoc(pretrain))(_pretrain_by_name)
app.command(cls=Command)(grouped(datasheet))
app.command(cls=Command)(grouped(report))
app.command(cls=Command)(grouped(demo))
