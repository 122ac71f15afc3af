"""``flowrank compress --max-loss``: the search for the smallest model, from the command line."""

from __future__ import annotations

import shutil
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowrank
from flowrank.cli.console import out
from flowrank.errors import FlowrankError
from flowrank.files import refuse_existing_in

if TYPE_CHECKING:
    from flowrank.search.smallest import Stage

SEARCH_LOG = "search.jsonl"


class MetricName(str, Enum):
    """Metrics by their names."""

    WQL = "WQL"
    MASE = "MASE"


class UnitName(str, Enum):
    """Units by their names."""

    parameters = "parameters"
    flops = "flops"
    cache = "cache"
    latency = "latency"


def tolerated(max_loss: str, metric: MetricName | None, unit: UnitName) -> flowrank.Tolerance:
    """The tolerance as it was typed."""
    return flowrank.Tolerance(parse_share(max_loss), metric="WQL" if metric is None else metric.value, unit=unit.value)


def work_folder(given: Path | None, output: Path) -> Path:
    """Where a search keeps what it has found: the given folder, else one beside the output.

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
    """Search for the smallest model, and tell of every stage.

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
            todo="allow more, heal longer (--heal-steps), or judge on more series (--validation-series)",
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
