"""Frequencies and regular time stamps."""

from __future__ import annotations

import warnings
from datetime import tzinfo
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.calendars import MonthDays, week_in, week_name, week_of

_LARGEST_GRID = 100_000_000
_DAY = 86_400 * 10**9
_FOUR_WEEKS = 28 * _DAY
_MONTHS_OF = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
_SHORT = 1024  # time stamps whose calendar is remembered
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@lru_cache(maxsize=1024)
def normalize_frequency(freq: str) -> str:
    """Return the pandas 2.2+ name of a frequency, from that name, an older one or a period's.

    Calendars that pandas has no name for are those of `flowrank.series.calendars`: ``"MS-15"``, ``"C:Mon Sat"``.

    Raises
    ------
    FlowrankError
        If pandas does not know the frequency.

    Examples
    --------
    >>> [normalize_frequency(freq) for freq in ("H", "M", "Q-DEC", "15T", "A", "W-SUN")]
    ['h', 'ME', 'QE-DEC', '15min', 'YE-DEC', 'W-SUN']
    """
    offset = _offset(freq)
    if isinstance(offset, MonthDays):
        return offset.name
    if isinstance(offset, pd.tseries.offsets.CustomBusinessDay):
        return week_name(offset)
    return offset.freqstr


@lru_cache(maxsize=1024)
def _offset(freq: str) -> Any:
    calendar = (MonthDays.parsed(freq) or week_of(freq)) if isinstance(freq, str) else None
    if calendar is not None:
        return calendar
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            offset = pd.tseries.frequencies.to_offset(freq)
    except (ValueError, TypeError):
        offset = None
    if offset is None or offset.n <= 0:
        raise FlowrankError(
            "freq",
            expected="a pandas frequency",
            found=repr(freq),
            todo='pass e.g. "h", "D", "W-SUN", "MS", "QE", "MS-15" (the 15th of each month), "MS-1-11-21" (dekads), '
            '"C:Mon Tue Wed Thu Fri Sat"',
        )
    return offset


def lies_on(freq: str, time: pd.Timestamp) -> bool:
    """Tell whether a time is one of those of a frequency.

    Examples
    --------
    >>> lies_on("MS", pd.Timestamp("2024-05-01")), lies_on("MS", pd.Timestamp("2024-05-02"))
    (True, False)
    """
    return bool(_offset(freq).is_on_offset(time))


@lru_cache(maxsize=65536)
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
    offset = _offset(freq)
    if isinstance(offset, MonthDays | pd.tseries.offsets.CustomBusinessDay) or offset.is_on_offset(start):
        return normalize_frequency(freq)
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
        if _offset(candidate).is_on_offset(start):
            return normalize_frequency(multiple + candidate)
    if kind in _MONTHS_OF:
        return MonthDays(_MONTHS_OF[kind] * offset.n, (start.day,)).name
    return offset.freqstr


@lru_cache(maxsize=4096)
def _uniform_frequency(step: int, weekday: int) -> str | None:
    first = pd.Timestamp("2001-01-01") + pd.Timedelta(days=weekday)
    return pd.infer_freq(pd.DatetimeIndex([first + i * pd.Timedelta(step) for i in range(3)]))


def infer_frequency(times: pd.DatetimeIndex) -> str | None:
    """Return the frequency of increasing time stamps, shape ``(time,)``, or None if they are irregular.

    Two time stamps are taken for whole months if both are a month's first or last day, else for a fixed step.

    Examples
    --------
    >>> infer_frequency(pd.date_range("2020-01-31", periods=5, freq="ME"))
    'ME'
    >>> infer_frequency(pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-04"])) is None
    True
    """
    if len(times) < 2:
        return None
    if len(times) == 2:
        return _frequency_of_two(times[0], times[1])
    values = times.asi8
    if times.tz is None:
        first = values[1] - values[0]
        if first < _FOUR_WEEKS and (np.diff(values) == first).all():
            return _uniform_frequency(int(first), times[0].weekday())
    if len(times) <= _SHORT:
        return _inferred(values.tobytes(), times.tz)
    return _inferred.__wrapped__(values.tobytes(), times.tz)


@lru_cache(maxsize=4096)
def _inferred(values: bytes, zone: tzinfo | None) -> str | None:
    """The frequency of at least three time stamps, nanoseconds since 1970, in a zone."""
    times = pd.DatetimeIndex(np.frombuffer(values, dtype=np.int64).view("datetime64[ns]"))
    if zone is None:
        return _on_wall(times)
    zoned = times.tz_localize("UTC").tz_convert(zone)
    wall = zoned.tz_localize(None)
    found = _on_wall(wall)
    if found is not None:
        return found
    steps = np.diff(times.asi8)
    if (steps == steps[0]).all():
        return _in_hours(int(steps[0]))
    # Local days, one of whose times of day a change of the clock moved.
    usual = (wall - wall.normalize()).value_counts().index[0]
    found = _on_wall(wall.normalize() + usual)
    return found if found is not None and (grid_positions(zoned, found) == np.arange(len(times))).all() else None


def _on_wall(times: pd.DatetimeIndex) -> str | None:
    """The frequency of time stamps without a zone; None: they go back, or are irregular."""
    if not (times.is_monotonic_increasing and times.is_unique):
        return None
    found = pd.infer_freq(times)
    if found is not None:
        return normalize_frequency(found)
    calendar = MonthDays.of(times)
    return calendar.name if calendar is not None else week_in(times)


def _in_hours(step: int) -> str:
    """A step of nanoseconds by the clock, not by the calendar: 24 hours, whatever the day of the clock change has."""
    for unit, length in (("h", 3600 * 10**9), ("min", 60 * 10**9), ("s", 10**9)):
        if step % length == 0:
            return f"{'' if step == length else step // length}{unit}"
    return pd.tseries.frequencies.to_offset(pd.Timedelta(step)).freqstr


def _frequency_of_two(first: pd.Timestamp, second: pd.Timestamp) -> str:
    months = 12 * (second.year - first.year) + second.month - first.month
    if months > 0:
        multiple = "" if months == 1 else str(months)
        if first.day == second.day == 1:
            return f"{multiple}MS"
        if first.is_month_end and second.is_month_end:
            return f"{multiple}ME"
    return pd.tseries.frequencies.to_offset(second - first).freqstr


def grid_positions(times: pd.DatetimeIndex, freq: str) -> np.ndarray:
    """Return each time stamp's place on the regular grid from the first on; −1 if it lies off the grid.

    Parameters
    ----------
    times
        Increasing time stamps, shape ``(time,)``.
    freq
        Frequency of the grid, anchored at ``times[0]``.

    Raises
    ------
    FlowrankError
        If the grid would have more than 10⁸ places.

    Examples
    --------
    >>> grid_positions(pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-04"]), "D")
    array([0, 1, 3])
    """
    offset = _offset(freq)
    if _is_clock(offset, times.tz):
        distance = times.asi8 - times.asi8[0]
        positions = np.where(distance % offset.nanos == 0, distance // offset.nanos, -1)
        _refuse_large_grid(int(distance[-1] // offset.nanos), times, freq)
        return positions
    values = times.asi8
    _refuse_large_grid(int(values[-1] - values[0]) // _DAY, times, freq)
    first, last = times[0], times[-1]
    grid = _grid(first, last, freq)
    if len(grid) == len(values) and (grid.asi8 == values).all():
        return np.arange(len(values))
    positions = grid.get_indexer(times)
    if times.tz is not None and (positions < 0).any():  # an hour that the clock shows twice, the other time
        other = _grid(first, last, freq, True).get_indexer(times)
        positions = np.where(positions < 0, other, positions)
    return positions


def _is_clock(offset: Any, zone: tzinfo | None) -> bool:
    """Whether steps have a fixed length: not days in a zone, some of which have 23 or 25 hours."""
    if isinstance(offset, MonthDays) or not isinstance(offset, pd.tseries.offsets.Tick):
        return isinstance(offset, pd.tseries.offsets.Day) and zone is None
    return zone is None or offset.name != "D"


@lru_cache(maxsize=4096)
def _grid(first: pd.Timestamp, last: pd.Timestamp, freq: str, other: bool = False) -> pd.DatetimeIndex:
    """All times of a calendar from ``first``, which lies on it, to ``last``."""
    offset, wall = _offset(freq), (first.tz_localize(None), last.tz_localize(None))
    if isinstance(offset, MonthDays):
        months = 12 * (last.year - first.year) + last.month - first.month
        grid = offset.range(wall[0], len(offset.days) * (months // offset.months + 1))
    else:
        grid = pd.date_range(*wall, freq=offset)
    return _zoned(grid, first, other)


def _zoned(grid: pd.DatetimeIndex, first: pd.Timestamp, other: bool = False) -> pd.DatetimeIndex:
    """Local times in the zone of the first; one that the clock leaves out is moved forward."""
    if first.tz is None:
        return grid
    summer = bool(first.dst())
    return grid.tz_localize(first.tz, ambiguous=np.full(len(grid), summer != other), nonexistent="shift_forward")


def _refuse_large_grid(places: int, times: pd.DatetimeIndex, freq: str) -> None:
    if places > _LARGEST_GRID:
        raise FlowrankError(
            "freq",
            expected="a frequency near that of the time stamps",
            found=f"{freq!r}, {places} steps between {times[0]} and {times[-1]}",
            todo="pass a coarser frequency",
        )


@lru_cache(maxsize=8192)
def future_timestamps(start: pd.Timestamp, length: int, freq: str, horizon: int) -> pd.DatetimeIndex:
    """Return the ``horizon`` time stamps that follow a series of ``length`` values from ``start``.

    Examples
    --------
    >>> [str(t.date()) for t in future_timestamps(pd.Timestamp("2020-01-01"), 2, "MS", 2)]
    ['2020-03-01', '2020-04-01']
    """
    offset = _offset(freq)
    for unit in ("ns", "us"):  # microseconds reach the years that nanoseconds do not
        try:
            if _is_clock(offset, start.tz):
                first = start.as_unit(unit) + length * offset
                return pd.date_range(first, periods=horizon, freq=offset, unit=unit)
            wall = start.tz_localize(None).as_unit(unit)
            if isinstance(offset, MonthDays):
                future = offset.range(wall, length + horizon, unit)[length:]
            else:
                future = pd.date_range(
                    offset.rollforward(wall) + length * offset, periods=horizon, freq=offset, unit=unit
                )
            return _zoned(future, start)
        except (OverflowError, ValueError):  # pandas' OutOfBoundsDatetime is a ValueError
            continue
    raise FlowrankError(
        "series",
        expected="time stamps that pandas can continue (to the year 9999)",
        found=f"{length} steps of {freq!r} from {start}",
        todo="correct the start or the frequency, or pass the values without time stamps",
    )
