"""Frequencies and regular time stamps."""

from __future__ import annotations

import warnings
from datetime import tzinfo
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.calendars import Listed, MonthDays, week_in, week_name, week_of

_LARGEST_GRID = 100_000_000
_DAY = 86_400 * 10**9
_FOUR_WEEKS = 28 * _DAY
_MONTHS_OF = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
_SHORT = 1024  # time stamps whose calendar is remembered
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


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


@lru_cache(maxsize=1024)
def _normalized(freq: str) -> str:
    offset = _offset(freq)
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
def _offset(freq: str) -> Any:
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
    if isinstance(offset, MonthDays):
        return offset.anchored(start).name
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
        if _offset(candidate).is_on_offset(start):
            return normalize_frequency(multiple + candidate)
    if kind in _MONTHS_OF:
        return MonthDays(_MONTHS_OF[kind] * offset.n, (start.day,)).name
    return offset.freqstr


def lies_on(time: pd.Timestamp, freq: str) -> bool:
    """Whether a time lies on a calendar.

    Examples
    --------
    >>> lies_on(pd.Timestamp("2024-01-15"), "MS-15"), lies_on(pd.Timestamp("2024-01-14"), "B")
    (True, False)
    """
    offset = _offset(freq)
    return bool(offset.holds(time) if isinstance(offset, MonthDays | Listed) else offset.is_on_offset(time))


@lru_cache(maxsize=4096)
def _uniform_frequency(step: int, weekday: int) -> str | None:
    first = pd.Timestamp("2001-01-01") + pd.Timedelta(days=weekday)
    return pd.infer_freq(pd.DatetimeIndex([first + i * pd.Timedelta(step) for i in range(3)]))


def infer_frequency(times: pd.DatetimeIndex) -> str | None:
    """Return the frequency of increasing time stamps, shape ``(time,)``, or None if they are irregular.

    Two time stamps are taken for whole months if both are the same day of a month or its last, else for a fixed step.

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
    wall = first.tz_localize(None), second.tz_localize(None)
    apart = wall[1] - wall[0]
    months = 12 * (second.year - first.year) + second.month - first.month
    if months > 0 and apart % pd.Timedelta(days=1) == pd.Timedelta(0):
        multiple = "" if months == 1 else str(months)
        if first.is_month_end and second.is_month_end:
            return f"{multiple}ME"
        if first.day == second.day:
            return f"{multiple}MS" + ("" if first.day == 1 else f"-{first.day}")
    if first.tz is not None and apart % pd.Timedelta(days=1) != pd.Timedelta(0):
        return _in_hours((second - first).value)
    return pd.tseries.frequencies.to_offset(apart).freqstr


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
    if not isinstance(offset, pd.tseries.offsets.Tick):
        return isinstance(offset, pd.tseries.offsets.Day) and zone is None
    return zone is None or offset.name != "D"


@lru_cache(maxsize=4096)
def _grid(first: pd.Timestamp, last: pd.Timestamp, freq: str, other: bool = False) -> pd.DatetimeIndex:
    """All times of a calendar from ``first``, which lies on it, to ``last``."""
    offset, wall = _offset(freq), (first.tz_localize(None), last.tz_localize(None))
    if isinstance(offset, MonthDays | Listed):
        grid = offset.between(*wall)
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
            if isinstance(offset, MonthDays | Listed):
                future = offset.range(wall, length + horizon, unit)[length:]
            else:
                future = pd.date_range(
                    offset.rollforward(wall) + length * offset, periods=horizon, freq=offset, unit=unit
                )
            return _zoned(future, start)
        except FlowrankError:
            raise
        except (OverflowError, ValueError):  # pandas' OutOfBoundsDatetime is a ValueError
            continue
    raise FlowrankError(
        "series",
        expected="time stamps that pandas can continue (to the year 9999)",
        found=f"{length} steps of {freq!r} from {start}",
        todo="correct the start or the frequency, or pass the values without time stamps",
    )
