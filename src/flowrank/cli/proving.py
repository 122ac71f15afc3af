"""``flowrank prove``: a model compressed, scored and timed against its parent, in one command."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import announced, out
from flowrank.cli.methods import UnitName
from flowrank.cli.models import opened
from flowrank.cli.options import Corrected, EngineRun, Model, refuse_given
from flowrank.cli.searching import MetricName, parse_share

MAX_LOSS = "1%"


@dataclass(frozen=True)
class Shrinking:
    """How the model becomes smaller; None stands for what was not given."""

    panel: ClassVar[str | None] = "Compression"

    unit: Annotated[UnitName, typer.Option(help="Cost that is to become small.")] = UnitName.parameters
    metric: Annotated[
        MetricName | None, typer.Option(help="Metric that --max-loss limits: WQL or MASE. Default: WQL.")
    ] = None
    heal_steps: Annotated[
        int | None,
        typer.Option(help="Training steps with which each smaller model of the search is healed. Default: 0, none."),
    ] = None
    calibration_series: Annotated[
        int | None, typer.Option(help="Largest number of synthetic series on which activations are measured.")
    ] = None
    validation_series: Annotated[
        int | None,
        typer.Option(help="Largest number of synthetic series on which the search compares models. Default: 2048."),
    ] = None

    def goal(self, max_loss: str | None, ratio: float | None) -> Any:
        """Give the tolerance or the fixed size that was asked for.

        Raises
        ------
        FlowrankError
            If both were, or options of the search without one.
        """
        if ratio is None:
            metric = self.metric or MetricName.WQL
            return flowrank.Tolerance(parse_share(max_loss or MAX_LOSS), metric=metric.value, unit=self.unit.value)
        refuse_given("no --ratio", "--max-loss", max_loss, None)
        for option, value in (
            ("--metric", self.metric),
            ("--heal-steps", self.heal_steps),
            ("--validation-series", self.validation_series),
        ):
            refuse_given("no --ratio", option, value, None)
        return flowrank.Budget(ratio, unit=self.unit.value)

    def settings(self) -> dict[str, Any]:
        """Give the library's further arguments that were given."""
        given = {
            "steps": self.heal_steps,
            "calibration_series": self.calibration_series,
            "validation_series": self.validation_series,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Timed:
    """What is timed."""

    panel: ClassVar[str | None] = "What is timed"

    context_length: Annotated[
        int | None, typer.Option(help="Number of past values of each series. Default: the largest of the model.")
    ] = None
    repeats: Annotated[int, typer.Option(help="How often both models are timed, in turns.")] = 7

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments that were given."""
        given = {"context_length": self.context_length, "repeats": self.repeats}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Asked:
    """How small the model gets, and what it is tested on."""

    panel: ClassVar[str | None] = None

    max_loss: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Search for the smallest model whose error grows by at most this share on synthetic series. "
            f"Default: {MAX_LOSS}.",
        ),
    ] = None
    ratio: Annotated[
        float | None, typer.Option(help="Instead of --max-loss: share of the whole model to keep, in (0, 1].")
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWRANK_DATA",
            help="Folder with the data sets, as NAME.parquet, NAME/*.parquet or a cache of the hub. Default: the hub.",
        ),
    ] = None
    sets: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Data sets, with commas between. Default: all 27.")
    ] = None
    series: Annotated[int | None, typer.Option(help="Score at most so many series of each data set. Default: all.")] = (
        None
    )
    fev: Annotated[bool, typer.Option("--fev", help="Score on fev-bench-mini too (needs flowrank[fev]).")] = False

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets that were named."""
        return tuple(name.strip() for name in (self.sets or "").split(",") if name.strip())


@dataclass(frozen=True)
class Downloads:
    """Where files come from, and what is shown."""

    panel: ClassVar[str | None] = "Downloads and display"

    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: take model and data from the hub's cache.")
    ] = False
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of the model on the hub.")] = None
    fev_tasks: Annotated[
        Path | None, typer.Option(help="YAML file of other fev tasks, or a downloaded one; implies --fev.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bars.")] = False


def prove(
    model: Model,
    output: Annotated[
        Path, typer.Option(help="Folder for everything; the same command again goes on where it was stopped.")
    ],
    asked: Asked,
    shrinking: Shrinking,
    corrected: Corrected,
    timed: Timed,
    downloads: Downloads,
    run: EngineRun,
) -> None:
    """Compress a model and show what it costs: scores on Chronos benchmark II, time and size, in one folder."""
    from flowrank.proof import Plan
    from flowrank.proof import prove as proven
    from flowrank.proof.record import refuse_strangers

    plan = Plan(
        shrinking.goal(asked.max_loss, asked.ratio),
        sets=asked.names,
        series=asked.series,
        seed=run.seed,
        batch_size=run.batch_size,
        corrections=corrected.chosen(),
        search=shrinking.settings(),
        timing=timed.settings(),
    )
    refuse_strangers(output)
    where: dict[str, Any] = {"revision": downloads.revision, "local_files_only": downloads.offline}
    with announced():
        proof = proven(
            opened(model, run.device, run.dtype, run.engine, **where),
            output,
            plan,
            data=asked.data,
            fev=asked.fev,
            fev_tasks=downloads.fev_tasks,
            offline=downloads.offline,
            command=shlex.join(["flowrank", *sys.argv[1:]]),
            progress=not downloads.quiet,
            say=lambda text: out.print(text, highlight=False, markup=False, soft_wrap=True),
        )
    _print(proof, output)


def _print(proof: dict[str, Any], output: Path) -> None:
    result = proof["result"]
    table = Table(show_header=False, title=f"{proof['model']['name']} → {output}")
    counts = result["parameters"]
    table.add_row("parameters kept", f"{result['parameters_kept']:.1%}", f"{counts['child']:,} of {counts['parent']:,}")
    for metric in ("WQL", "MASE"):
        table.add_row(
            f"{metric} over the parent's", _ratio(result[metric]), f"geometric mean, {result['datasets']} data sets"
        )
    latency = result["latency"]
    spread = f"{latency['min']:.2f} to {latency['max']:.2f} over pairs"
    table.add_row("time over the parent's", f"{latency['median']:.2f}", spread)
    if "fev" in result:
        table.add_row("fev error over the parent's", _ratio(result["fev"]["error"]), f"{result['fev']['tasks']} tasks")
    if "tolerance" in result:
        asked = result["tolerance"]
        held = "yes" if asked["held_on_benchmark"] else "no: it was held on synthetic series only"
        table.add_row(f"{asked['metric']} within {100 * asked['max_loss']:g}% on the benchmark", held, "")
    if result["series_left_out"]:
        table.add_row("series left out", str(result["series_left_out"]), "listed in scores.json")
    out.print(table)
    out.print(f"written to {output / 'report.html'}", highlight=False)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
