"""Values with their own time stamps, made regular."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.frequency import anchored_frequency, grid_positions, infer_frequency, normalize_frequency
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
        Time stamps and values, shape ``(time,)`` each, at least one.
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
    _refuse_disorder(item_id, times, argument=argument, where=where)
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
                todo='pass the frequency (freq="h", --freq h); gaps then become missing values',
            )
        return Series(item_id, target, times[0], inferred)
    anchored = anchored_frequency(freq, times[0])
    positions = grid_positions(times, anchored)
    if (positions < 0).any():
        first = int((positions < 0).argmax())
        raise FlowrankError(
            argument,
            expected=f"steps of {normalize_frequency(freq)!r} from {times[0]} in series {item_id!r}",
            found=f"{times[first]} at {where(first)}",
            todo="correct the time stamp or pass another frequency",
        )
    if positions[-1] + 1 != len(times):
        regular = np.full(positions[-1] + 1, np.nan)
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
    if not pd.tseries.frequencies.to_offset(usual).is_on_offset(times[0]):
        return infer_frequency(times)
    if len(times) == 1:
        return usual
    second = grid_positions(times, usual)[1]
    if second == 1:
        return usual
    return _Unclear if second > 1 else infer_frequency(times)


def _refuse_disorder(item_id: Any, times: pd.DatetimeIndex, *, argument: str, where: Callable[[int], str]) -> None:
    steps = np.diff(times.asi8)
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


def as_timestamps(
    column: Any, *, argument: str, where: Callable[[int], str], name: str, text_format: str | None = None
) -> pd.DatetimeIndex:
    """Turn a column of dates, times or texts into time stamps of nanoseconds, shape ``(rows,)``.

    Raises
    ------
    FlowrankError
        If one is missing, or is not a time that pandas can read, or lies outside the years 1678 to 2261.

    Examples
    --------
    >>> texts = ["2020-01-01", "2020-01-01 12:00"]
    >>> as_timestamps(texts, argument="series", where="row {}".format, name="t")[1]
    Timestamp('2020-01-01 12:00:00')
    """
    column = pd.Series(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_numeric_dtype(column.dtype):
        raise FlowrankError(
            argument,
            expected=f"dates or times in {name!r}",
            found=f"{column.dtype} values at {where(0)}",
            todo="convert them (pandas.to_datetime), or pass timestamp_column=None for rows in order of time",
        )
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.start_time
    try:
        times = pd.DatetimeIndex(_parsed(column, text_format)).as_unit("ns")
    except (ValueError, TypeError, OverflowError):
        times = None
    if times is None or times.hasnans:
        position = _first_unreadable(column, text_format)
        value = column.iloc[position]
        raise FlowrankError(
            argument,
            expected=f"dates or times of one format and time zone in {name!r}",
            found=f"{value!r} at {where(position)}",
            todo="write them as e.g. 2024-01-31 or 2024-01-31 23:00:00",
        )
    return times


def text_time_format(value: object) -> str | None:
    """Return the format that the first time stamp of a text column has, for all others to have.

    Examples
    --------
    >>> text_time_format("2020-01-31T10:00"), text_time_format("31/01/2020")
    ('ISO8601', '%d/%m/%Y')
    """
    if not isinstance(value, str):
        return None
    try:
        pd.to_datetime(value, format="ISO8601")
    except (ValueError, OverflowError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 31/01/2020 can only be read with the day first
            return pd.tseries.api.guess_datetime_format(value)
    return "ISO8601"


def _parsed(column: pd.Series, text_format: str | None) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    if text_format is None and len(column):
        text_format = text_time_format(column.iloc[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts without a common format are read one by one
        return pd.to_datetime(column, format=text_format)


def _first_unreadable(column: pd.Series, text_format: str | None) -> int:
    if text_format is None and len(column):
        text_format = text_time_format(column.iloc[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bad = pd.to_datetime(column, format=text_format, errors="coerce").isna().to_numpy()
    except (ValueError, TypeError, OverflowError):
        bad = np.zeros(len(column), dtype=bool)
    return int(bad.argmax()) if len(bad) else 0
