"""Frequencies that time stamps show."""

from __future__ import annotations

from datetime import tzinfo
from functools import lru_cache

import numpy as np
import pandas as pd

from flowrank.series.calendars import MonthDays
from flowrank.series.frequency import normalize_frequency
from flowrank.series.grids import grid_positions
from flowrank.series.weeks import week_in

_FOUR_WEEKS = 28 * 86_400 * 10**9
_SHORT = 1024  # time stamps whose calendar is remembered


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
