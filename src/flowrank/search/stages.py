"""Stages of a search, and which size to try next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowrank.files import read_json_lines

_STEP = 0.6
_PRECISION = 1.12


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes
    ----------
    number, start
        Number of this stage, and of the stage whose model it shrinks; 0 is the parent.
    ratio
        Target cost, relative to the parent's.
    cost
        Cost of the model that was made, relative to the parent's.
    parameters
        Of the model.
    loss, upper
        As in `Comparison`; None where the model cannot become that small.
    healed
        Whether it was healed, and healing made it better.
    held
        Whether it stayed within the tolerance.
    seconds
        Duration of the stage.
    """

    number: int
    start: int
    ratio: float
    cost: float
    parameters: int
    loss: float | None
    upper: float | None
    healed: bool
    held: bool
    seconds: float


def read_stages(path: Path) -> list[Stage]:
    """Stages that a search has logged; a line that was cut off does not count.

    Examples
    --------
    >>> read_stages(Path("no-such-file"))
    []
    """
    stages: list[Stage] = []
    for line in read_json_lines(path, broken="stop") if path.exists() else ():
        try:
            stages.append(Stage(**line))
        except TypeError:
            break
    return stages


def smallest_held(stages: list[Stage]) -> Stage | None:
    """Return the cheapest stage that stayed within the tolerance, if any did."""
    return min((stage for stage in stages if stage.held), key=lambda stage: stage.cost, default=None)


def lineage(stage: Stage, stages: list[Stage]) -> Iterator[Stage]:
    """The stage and its ancestors: each with the one whose model it shrank."""
    by_number = {one.number: one for one in stages}
    current: Stage | None = stage
    while current is not None:
        yield current
        current = by_number.get(current.start)


def next_ratio(stages: list[Stage]) -> float | None:
    """The ratio to try next; None: the smallest model is known well enough."""
    best = smallest_held(stages)
    held = 1.0 if best is None else best.cost
    failed = max((stage.ratio for stage in stages if not stage.held), default=0.0)
    if not failed:
        return held * _STEP
    return None if held / failed < _PRECISION else (held * failed) ** 0.5
