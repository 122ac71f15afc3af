"""Frequencies by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.calendars import Listed, MonthDays
from flowrank.series.weeks import week_name, week_of

_MONTHS_OF = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def normalize_frequency(freq: Any) -> str:
    """Return the pandas 2.2+ name of a frequency, from that name, an older one, a period's, or an offset of pandas.

    Calendars that pandas has no name for are those of `flowrank.series.calendars`: ``"MS-15"``, ``"C:Mon Sat"``, and
    lists of times.

    Raises
    ------
    FlowrankError
        If pandas does not know the frequency.

    Examples
    --------
    >>> [normalize_frequency(freq) for freq in ("H", "M", "Q-DEC", "15T", "A", "W-SUN")]
    ['h', 'ME', 'QE-DEC', '15min', 'YE-DEC', 'W-SUN']
    >>> normalize_frequency(pd.offsets.CustomBusinessDay(holidays=["2024-12-25"]))
    'C:Mon Tue Wed Thu Fri;2024-12-25'
    """
    if isinstance(freq, str):
        return _normalized(freq)
    if isinstance(freq, pd.tseries.offsets.BaseOffset):
        return _name_of(freq)
    if isinstance(freq, (pd.DatetimeIndex, pd.Series, np.ndarray, list, tuple)):
        return Listed.of(freq).name
    raise _unknown(freq)


def by_zone(maxsize: int) -> Callable[[_Function], _Function]:
    """Remember what a function of positional arguments gave, by the zones of its times too.

    Times of the same moment in two zones are equal to Python, and one would get the other's calendar.
    """

    def remembering(function: _Function) -> _Function:
        @lru_cache(maxsize)
        def known(_zones: tuple[str, ...], *given: Any) -> Any:
            return function(*given)

        @wraps(function)
        def call(*given: Any) -> Any:
            return known(tuple(str(one.tz) for one in given if isinstance(one, pd.Timestamp)), *given)

        return cast(_Function, call)

    return remembering


@lru_cache(maxsize=1024)
def _normalized(freq: str) -> str:
    offset = offset_of(freq)
    if isinstance(offset, MonthDays | Listed):
        return offset.name
    if isinstance(offset, pd.tseries.offsets.CustomBusinessDay):
        return week_name(offset)
    return offset.freqstr


def _name_of(offset: pd.tseries.offsets.BaseOffset) -> str:
    """The name of an offset of pandas that stands for all of it."""
    if type(offset) is pd.tseries.offsets.DateOffset:
        parts = dict(offset.kwds)
        months = offset.n * (12 * parts.pop("years", 0) + parts.pop("months", 0))
        clock = {"weeks", "days", "hours", "minutes", "seconds", "microseconds", "nanoseconds"}
        if months > 0 and not parts:
            return MonthDays(months, (0,)).name
        if months == 0 and parts and set(parts) <= clock:
            return _normalized(pd.tseries.frequencies.to_offset(offset.n * pd.Timedelta(**parts)).freqstr)
        raise _unknown(offset)
    if type(offset) is pd.tseries.offsets.CustomBusinessDay and offset.n == 1 and not offset.offset:
        return week_name(offset)
    try:
        same = pd.tseries.frequencies.to_offset(offset.freqstr) == offset
    except ValueError:
        same = False
    if not same:
        raise _unknown(offset)
    return _normalized(offset.freqstr)


def _unknown(freq: Any) -> FlowrankError:
    return FlowrankError(
        "freq",
        expected="a pandas frequency",
        found=repr(freq)[:200],
        todo='pass e.g. "h", "D", "W-SUN", "MS", "QE", "MS-15" (the 15th of each month), "MS-1-11-21" (dekads), '
        '"C:Mon Tue Wed Thu Fri Sat", or a list of times that holds the past and the future',
    )


@lru_cache(maxsize=1024)
def offset_of(freq: str) -> Any:
    """Return the offset of pandas, or the calendar of ours, that a name stands for.

    Raises
    ------
    FlowrankError
        If it stands for none.
    """
    calendar = MonthDays.parsed(freq) or week_of(freq) or Listed.parsed(freq)
    if calendar is not None:
        return calendar
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            offset = pd.tseries.frequencies.to_offset(freq)
    except (ValueError, TypeError):
        offset = None
    if offset is None or offset.n <= 0:
        raise _unknown(freq)
    return offset


@by_zone(65536)
def anchored_frequency(freq: str, start: pd.Timestamp) -> str:
    """Return the frequency of the same step on which ``start`` lies.

    Records often give a month's first day with a month-end frequency, or a Monday with ``W-SUN``:
    they name periods. Months, quarters and years from another day of the month become that day of each. Where no such
    frequency exists, ``freq`` is returned normalised.

    Examples
    --------
    >>> anchored_frequency("M", pd.Timestamp("1998-01-01"))
    'MS'
    >>> anchored_frequency("W-SUN", pd.Timestamp("1996-03-18"))
    'W-MON'
    >>> anchored_frequency("QS", pd.Timestamp("2024-01-15"))
    '3MS-15'
    """
    offset = offset_of(freq)
    if isinstance(offset, MonthDays):
        found = offset.anchored(start)
        return found.name if found.days != (1,) else found.name.removesuffix("-1")
    if isinstance(offset, Listed | pd.tseries.offsets.CustomBusinessDay) or offset.is_on_offset(start):
        return _normalized(freq)
    multiple = "" if offset.n == 1 else str(offset.n)
    kind = offset.name.split("-")[0]
    if kind == "W":
        candidates = [f"W-{_WEEKDAYS[start.weekday()]}"]
    elif kind in ("ME", "MS"):
        candidates = ["MS", "ME"]
    elif kind in ("QE", "QS", "YE", "YS"):
        month = _MONTHS[start.month - 1]
        candidates = [f"{kind[0]}S-{month}", f"{kind[0]}E-{month}"]
    else:
        candidates = []
    for candidate in candidates:
        if offset_of(candidate).is_on_offset(start):
            return normalize_frequency(multiple + candidate)
    if kind in _MONTHS_OF:
        return MonthDays(_MONTHS_OF[kind] * offset.n, (start.day,)).name
    return offset.freqstr


def lies_on(freq: str, time: pd.Timestamp) -> bool:
    """Whether a time lies on a calendar.

    Examples
    --------
    >>> lies_on("MS-15", pd.Timestamp("2024-01-15")), lies_on("B", pd.Timestamp("2024-01-14"))
    (True, False)
    """
    offset = offset_of(freq)
    return bool(offset.holds(time) if isinstance(offset, MonthDays | Listed) else offset.is_on_offset(time))
