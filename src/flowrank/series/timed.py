"""Values with their own time stamps, made regular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.frequency import anchored_frequency, lies_on, normalize_frequency
from flowrank.series.grids import grid_positions
from flowrank.series.inference import infer_frequency
from flowrank.series.irregular import remedy_for, shown
from flowrank.series.value import Series


def timed_series(
    item_id: Any,
    times: pd.DatetimeIndex,
    target: np.ndarray,
    *,
    freq: str | None,
    usual_freq: Callable[[], str | None],
    argument: str,
    where: Callable[[int], str],
) -> Series:
    """Make a regular series from time stamps and values.

    Parameters
    ----------
    times, target
        Time stamps and values, shape ``(time,)`` each, at least one; several columns of values are ``(time, columns)``.
    freq
        The frequency, or None to infer it. With a frequency, gaps become missing values.
    usual_freq
        Called for a series of one or two values: the frequency of the other series of its source.
    where
        From a position to words that say where it is, for errors.

    Raises
    ------
    FlowrankError
        If the time stamps are not increasing, have a repeat, lie off the grid of ``freq``, or have gaps
        while ``freq`` is None.

    Examples
    --------
    >>> times = pd.DatetimeIndex(["2020-01-01", "2020-01-03"])
    >>> timed_series("A", times, np.array([1.0, 3.0]), freq="D", usual_freq=lambda: None,
    ...              argument="series", where="row {}".format).target
    array([ 1., nan,  3.])
    """
    refuse_disorder(item_id, times, argument=argument, where=where)
    if freq is None:
        inferred = _inferred(times, usual_freq)
        if inferred is _Unclear:
            raise FlowrankError(
                argument,
                expected=f"series {item_id!r} of two values in the calendar of the other series ({usual_freq()!r})",
                found=f"{times[0]} and {times[1]} ({where(1)}), which may be neighbours or leave a gap",
                todo='pass the frequency (freq="h", --freq h); gaps then become missing values',
            )
        if inferred is None and len(times) > 1:
            steps = np.diff(times.asi8)
            widest = int(steps.argmax())
            raise FlowrankError(
                argument,
                expected=f"regular time stamps in series {item_id!r}",
                found=f"steps of {pd.Timedelta(steps.min())} to {pd.Timedelta(steps.max())}, the longest "
                f"from {times[widest]} to {times[widest + 1]} ({where(widest + 1)})",
                todo=f"{remedy_for(times)}; gaps then become missing values",
            )
        return Series(item_id, target, times[0], inferred)
    anchored = anchored_frequency(freq, times[0])
    positions = grid_positions(times, anchored)
    if (positions < 0).any():
        first = int((positions < 0).argmax())
        raise FlowrankError(
            argument,
            expected=f"steps of {shown(normalize_frequency(freq))} from {times[0]} in series {item_id!r}"
            if first
            else f"times in the calendar {shown(normalize_frequency(freq))} in series {item_id!r}",
            found=f"{times[first]} at {where(first)}" + ("" if first else ", which is not in it"),
            todo="correct the time stamp or pass another frequency",
        )
    if positions[-1] + 1 != len(times):
        regular = np.full((positions[-1] + 1, *target.shape[1:]), np.nan)
        regular[positions] = target
        target = regular
    return Series(item_id, target, times[0], anchored)


class _Unclear:
    """In place of a frequency: two values that may be neighbours or leave a gap."""


def _inferred(times: pd.DatetimeIndex, usual_freq: Callable[[], str | None]) -> Any:
    """Return the frequency; of one or two values, that of the other series where their times fit it."""
    usual = usual_freq() if len(times) <= 2 else None
    if usual is None:
        return infer_frequency(times)
    usual = anchored_frequency(usual, times[0])
    if not lies_on(usual, times[0]):
        return infer_frequency(times)
    if len(times) == 1:
        return usual
    second = grid_positions(times, usual)[1]
    if second == 1:
        return usual
    return _Unclear if second > 1 else infer_frequency(times)


def refuse_disorder(item_id: Any, times: pd.DatetimeIndex, *, argument: str, where: Callable[[int], str]) -> None:
    """Refuse time stamps that do not rise from each to the next."""
    values = times.asi8
    steps = values[1:] - values[:-1]
    if (steps > 0).all():
        return
    repeated = np.asarray(times.duplicated())
    if repeated.any():
        position = int(repeated.argmax())
        raise FlowrankError(
            argument,
            expected=f"each time stamp once in series {item_id!r}",
            found=f"{times[position]} again at {where(position)}",
            todo="remove or merge the duplicate rows",
        )
    position = int((steps < 0).argmax()) + 1
    raise FlowrankError(
        argument,
        expected=f"increasing time stamps in series {item_id!r}",
        found=f"{times[position]} at {where(position)}, after {times[position - 1]}",
        todo="sort the rows by time",
    )
