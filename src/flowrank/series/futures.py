"""Values that are known of the time to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.runs import Run
from flowrank.series.timed import refuse_disorder

ARGUMENT = "future"
"""Name of the argument that errors are about."""


def known_values(run: Run | None, item_id: Any, names: Sequence[Any], steps: pd.Index, last: Any = None) -> np.ndarray:
    """Return what is known of the steps that follow a series.

    Parameters
    ----------
    run
        Rows of the series in the table of the future, values of shape (rows, columns); None: it has none.
    item_id, names
        Of the series and of the columns, for errors.
    steps
        The steps to forecast, shape (horizon,): times, or numbers where the series has no times.
    last
        The last time of the series; rows up to it are left out, as are those after the last step.

    Returns
    -------
    np.ndarray
        Shape (horizon, columns), NaN where a cell is empty.

    Raises
    ------
    FlowrankError
        If the rows cannot be read, there is none for one of the steps, or one lies between two steps.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=4)
    >>> run = Run("A", np.arange(3), days[:3], np.array([[1.0], [2.0], [3.0]]))
    >>> known_values(run, "A", ["price"], steps=days[1:3], last=days[0])
    array([[2.],
           [3.]])
    >>> known_values(run, "A", ["price"], steps=days[2:4], last=days[1])
    Traceback (most recent call last):
    ...
    flowrank.errors.FlowrankError: future: expected a row for each of the next 2 steps of series 'A', \
2024-01-03 00:00:00 to 2024-01-04 00:00:00, found none for 2024-01-04 00:00:00; add it: a cell may be empty, a row may \
not be missing
    """
    horizon = len(steps)
    if run is not None and run.error is not None:
        raise run.error
    if run is None:
        raise FlowrankError(
            ARGUMENT,
            expected=f"the next {horizon} values of {', '.join(map(repr, names))} for each series",
            found=f"no row for series {item_id!r}",
            todo="add its rows, or leave the series out (--skip-bad)",
        )
    if run.times is None:
        if len(run.target) < horizon:
            raise FlowrankError(
                ARGUMENT,
                expected=f"{horizon} rows for series {item_id!r}, one for each step",
                found=f"{len(run.target)}",
                todo="add the others, or forecast fewer steps (horizon=, --horizon)",
            )
        return run.target[:horizon]
    refuse_disorder(item_id, run.times, argument=ARGUMENT, where=run.where)
    if (run.times.tz is None) != (last.tz is None):
        raise FlowrankError(
            ARGUMENT,
            expected="time stamps " + ("without" if last.tz is None else "with") + " a time zone, as the history has",
            found=f"{run.times[0]} at {run.where(0)}",
            todo="write both tables alike, or pass utc=True (--utc) where times have an offset",
        )
    first = int((run.times > last).argmax()) if (run.times > last).any() else len(run.times)
    rows = np.arange(first, min(first + horizon, len(run.times)))
    same = np.asarray(run.times[rows] == steps[: len(rows)])
    if len(rows) < horizon or not same.all():
        _refuse(run, item_id, steps, rows[0] + int((~same).argmax()) if not same.all() else None, len(rows))
    return run.target[rows]


def _refuse(run: Run, item_id: Any, steps: pd.Index, position: int | None, found: int) -> None:
    """Refuse rows that are not those of the steps: the row at ``position`` is another, or there are ``found`` only."""
    assert run.times is not None
    if position is not None and run.times[position] not in steps and run.times[position] < steps[-1]:
        raise FlowrankError(
            ARGUMENT,
            expected=f"the times at which series {item_id!r} goes on: {steps[0]}"
            + (f", {steps[1]} …" if len(steps) > 1 else ""),
            found=f"{run.times[position]} at {run.where(position)}",
            todo="correct the time, or pass the frequency of the history (freq=, --freq)",
        )
    lacking = [step for step in steps if step not in run.times]
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    raise FlowrankError(
        ARGUMENT,
        expected=f"a row for each of the next {len(steps)} steps of series {item_id!r}, {steps[0]} to {steps[-1]}",
        found=f"none for {lacking[0]}{more}",
        todo="add it: a cell may be empty, a row may not be missing",
    )
