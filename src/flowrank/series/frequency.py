"""Frequencies and regular time stamps."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

_LARGEST_GRID = 100_000_000
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@lru_cache(maxsize=1024)
def normalize_frequency(freq: str) -> str:
    """Return the pandas 2.2+ name of a frequency, from that name, an older one or a period's.

    Raises
    ------
    FlowrankError
        If pandas does not know the frequency.

    Examples
    --------
    >>> [normalize_frequency(freq) for freq in ("H", "M", "Q-DEC", "15T", "A", "W-SUN")]
    ['h', 'ME', 'QE-DEC', '15min', 'YE-DEC', 'W-SUN']
    """
    return _offset(freq).freqstr


@lru_cache(maxsize=1024)
def _offset(freq: str) -> pd.tseries.offsets.BaseOffset:
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
            todo='pass e.g. "h", "D", "W-SUN", "MS", "QE"',
        )
    return offset


@lru_cache(maxsize=65536)
def anchored_frequency(freq: str, start: pd.Timestamp) -> str:
    """Return the frequency of the same step on which ``start`` lies.

    Records often give a month's first day with a month-end frequency, or a Monday with ``W-SUN``:
    they name periods. Where no such frequency exists, ``freq`` is returned normalised.

    Examples
    --------
    >>> anchored_frequency("M", pd.Timestamp("1998-01-01"))
    'MS'
    >>> anchored_frequency("W-SUN", pd.Timestamp("1996-03-18"))
    'W-MON'
    """
    offset = _offset(freq)
    if offset.is_on_offset(start):
        return offset.freqstr
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
    steps = np.diff(times.asi8)
    four_weeks = 28 * 86_400 * 10**9
    if times.tz is None and steps[0] < four_weeks and (steps == steps[0]).all():
        return _uniform_frequency(int(steps[0]), times[0].weekday())
    inferred = pd.infer_freq(times)
    return None if inferred is None else normalize_frequency(inferred)


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
    if isinstance(offset, pd.tseries.offsets.Tick) and (times.tz is None or offset.name != "D"):
        distance = times.asi8 - times.asi8[0]
        positions = np.where(distance % offset.nanos == 0, distance // offset.nanos, -1)
        _refuse_large_grid(int(distance[-1] // offset.nanos), times, freq)
        return positions
    _refuse_large_grid((times[-1] - times[0]).days, times, freq)
    return pd.date_range(times[0], times[-1], freq=offset).get_indexer(times)


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
            if start.tz is not None:
                return pd.date_range(start, periods=length + horizon, freq=offset, unit=unit)[length:]
            first = offset.rollforward(start.as_unit(unit)) + length * offset
            return pd.date_range(first, periods=horizon, freq=offset, unit=unit)
        except (OverflowError, ValueError):  # pandas' OutOfBoundsDatetime is a ValueError
            continue
    raise FlowrankError(
        "series",
        expected="time stamps that pandas can continue (to the year 9999)",
        found=f"{length} steps of {freq!r} from {start}",
        todo="correct the start or the frequency, or pass the values without time stamps",
    )
