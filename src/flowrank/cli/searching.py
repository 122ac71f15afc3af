"""``flowrank compress --max-loss``: the search for the smallest model, from the command line."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

import flowrank
from flowrank.cli.console import out
from flowrank.cli.methods import MethodName, Ranks, Size
from flowrank.cli.options import Cluster, refuse_given
from flowrank.errors import FlowrankError
from flowrank.files import refuse_existing_in

if TYPE_CHECKING:
    from flowrank.search.stages import Stage

SEARCH_LOG = "search.jsonl"
WITHOUT = "no --max-loss"


class MetricName(str, Enum):
    """Metrics by their names."""

    WQL = "WQL"
    MASE = "MASE"


@dataclass(frozen=True)
class Search:
    """How the smallest model is searched for; None stands for what was not given."""

    panel: ClassVar[str | None] = "Search for the smallest model (with --max-loss)"

    metric: Annotated[
        MetricName | None, typer.Option(help="Metric that --max-loss limits: WQL or MASE. Default: WQL.")
    ] = None
    steps: Annotated[
        int | None,
        typer.Option("--heal-steps", help="Training steps with which each smaller model is healed. Default: 0, none."),
    ] = None
    horizon: Annotated[
        int | None, typer.Option(help="Number of steps ahead in the forecasts that are compared. Default: 24.")
    ] = None
    validation_series: Annotated[
        int | None,
        typer.Option(help="Largest number of series of each kind on which models are compared. Default: 2048."),
    ] = None
    also_synthetic: Annotated[
        bool,
        typer.Option(
            "--also-synthetic", help="With --series: calibrate and compare on synthetic series as well as on those."
        ),
    ] = False
    folder: Annotated[
        Path | None,
        typer.Option(
            "--work",
            help="Folder for the log and the intermediate models; an interrupted search continues from it. "
            "Default: OUT.search, removed at the end.",
        ),
    ] = None

    def refuse(self) -> None:
        """Refuse options of the search where there is none.

        Raises
        ------
        FlowrankError
            If an option of the search was given.
        """
        for option, value in (
            ("--metric", self.metric),
            ("--heal-steps", self.steps),
            ("--horizon", self.horizon),
            ("--validation-series", self.validation_series),
            ("--also-synthetic", self.also_synthetic or None),
            ("--work", self.folder),
        ):
            refuse_given("--max-loss", option, value, None)

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `flowrank.smallest` that were given."""
        given = {
            "steps": self.steps,
            "horizon": self.horizon,
            "validation_series": self.validation_series,
            "also_synthetic": self.also_synthetic or None,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Searches(Cluster, Search):
    """How the smallest model is searched for, or several of them."""

    panel: ClassVar[str | None] = Search.panel

    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds with commas between, e.g. 0,1,2: a search, and a model in OUT, for each of them and each share "
            "in --max-loss."
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each process, of several searches. Default: all; with --on, 1.")
    ] = None

    def several(self, size: Size) -> bool:
        """Whether several searches are asked for; their models go into folders of their own.

        Raises
        ------
        FlowrankError
            If options of several were given with one.
        """
        if size.max_loss is not None and (self.seeds is not None or "," in size.max_loss):
            self.check()
            refuse_given("one search", "--work", self.folder, None)
            return True
        if self.on is not None:
            raise FlowrankError(
                "--on",
                expected="several searches: shares with commas between in --max-loss, or --seeds",
                found=self.on,
                todo="leave it out; a single search cannot be divided, as each stage starts from the one before",
            )
        alone = (("--workers", self.workers, 1), ("--gpus", self.gpus, 0.0))
        for option, given, default in (("--seeds", self.seeds, None), ("--threads", self.threads, None), *alone):
            refuse_given("several searches (--max-loss 1%,3%, or --max-loss and --seeds)", option, given, default)
        return False

    def chosen_seeds(self, seed: int) -> list[int]:
        """The seeds that were typed; where none were, that of ``--seed``.

        Raises
        ------
        FlowrankError
            If one is no whole number, or there is ``--seed`` as well.
        """
        if self.seeds is None:
            return [seed]
        refuse_given("no --seeds", "--seed", seed, 0)
        try:
            return [int(one) for one in self.seeds.split(",")]
        except ValueError:
            raise FlowrankError(
                "--seeds", expected="whole numbers with commas between", found=repr(self.seeds), todo="pass e.g. 0,1,2"
            ) from None


def tolerated(size: Size, ranks: Ranks, search: Search) -> list[flowrank.Tolerance]:
    """Return the tolerances that were typed.

    Raises
    ------
    FlowrankError
        If one is not a share, or an option was given that means nothing in a search.
    """
    assert size.max_loss is not None
    refuse_given(WITHOUT, "--allocation", ranks.allocation, Ranks.allocation)
    refuse_given(WITHOUT, "--method", size.method, MethodName.joint, MethodName.whole)
    for option, given, default in (
        ("--ratio", size.ratio, Size.ratio),
        ("--alpha", ranks.alpha, Ranks.alpha),
        ("--per-head", ranks.per_head, Ranks.per_head),
        ("--rounds", ranks.rounds, Ranks.rounds),
    ):
        refuse_given(WITHOUT, option, given, default)
    metric = search.metric or MetricName.WQL
    shares = map(parse_share, size.max_loss.split(","))
    return [flowrank.Tolerance(one, metric=metric.value, unit=size.unit.value) for one in shares]


def work_folder(given: Path | None, output: Path) -> Path:
    """Folder for the log and models of a search: the given one, else one next to the output.

    Raises
    ------
    FlowrankError
        If nothing can be written there, or it is part of the output.
    """
    output = output.expanduser()
    work = output.with_name(f"{output.name}.search") if given is None else given.expanduser()
    if work.resolve().is_relative_to(output.resolve()):
        raise FlowrankError("--work", expected="a folder apart from OUT", found=repr(str(work)))
    refuse_existing_in(work, ["search.json"], overwrite=True, argument="--work")
    return work


def searched(parent: Any, tolerance: flowrank.Tolerance, work: Path, *, keep: bool, **settings: Any) -> Any:
    """Search for the smallest model, and print every stage.

    Parameters
    ----------
    parent
        The model to start from.
    tolerance
        What may be lost.
    work
        Of the search's log and models.
    keep
        Whether the folder stays where there is nothing in it to go on with.
    **settings
        Of `flowrank.smallest`.

    Raises
    ------
    FlowrankError
        If the search is refused, or nothing smaller is within the tolerance.
    """
    fresh = not work.exists()
    try:
        child = flowrank.smallest(parent, tolerance, folder=work, on_stage=_tell, **settings)
    except FlowrankError:
        log = work / SEARCH_LOG
        if fresh and not keep and not (log.exists() and log.stat().st_size):
            shutil.rmtree(work, ignore_errors=True)
        raise
    if child is parent:
        if not keep:
            shutil.rmtree(work)
        raise FlowrankError(
            "--max-loss",
            expected="a tolerance that a smaller model meets",
            found=f"{tolerance.max_loss:.4g}, which none does that was tried",
            todo="allow more, heal longer (--heal-steps), or compare on more series (--validation-series)",
        )
    return child


def parse_share(text: str) -> float:
    """A share, typed as a number or in per cent.

    Raises
    ------
    FlowrankError
        If it is neither.

    Examples
    --------
    >>> parse_share("1%"), parse_share("0.01"), parse_share("2.5 %")
    (0.01, 0.01, 0.025)
    """
    number, percent, rest = text.strip().partition("%")
    try:
        if rest:
            raise ValueError
        return float(number) / 100 if percent else float(number)
    except ValueError:
        raise FlowrankError(
            "--max-loss", expected="a share", found=repr(text), todo="pass e.g. 1% or 0.01, which is the same"
        ) from None


def share(value: float) -> str:
    """A loss in signed per cent.

    Examples
    --------
    >>> share(0.0035), share(-0.0021)
    ('+0.35%', '-0.21%')
    """
    return f"{value:+.2%}"


def _tell(stage: Stage) -> None:
    start = "the parent" if not stage.start else f"step {stage.start}"
    said = f"step {stage.number}: {stage.ratio:.1%} asked of {start}"
    if stage.loss is None or stage.upper is None:
        said += ", nothing that can be removed is left"
    else:
        said += f", {stage.cost:.1%} made ({stage.parameters:,} parameters), loss {share(stage.loss)}"
        said += f" (at most {share(stage.upper)}){', healed' if stage.healed else ''}: "
        said += "within the tolerance" if stage.held else "too much"
    out.print(f"{said}, {stage.seconds:,.0f} s", highlight=False, markup=False, soft_wrap=True)
