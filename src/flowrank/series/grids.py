"""Regular time stamps."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.calendars import Listed, MonthDays
from flowrank.series.frequency import by_zone, offset_of

_LARGEST_GRID = 100_000_000
_DAY = 86_400 * 10**9


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
    offset = offset_of(freq)
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


@by_zone(4096)
def _grid(first: pd.Timestamp, last: pd.Timestamp, freq: str, other: bool = False) -> pd.DatetimeIndex:
    """All times of a calendar from ``first``, which lies on it, to ``last``."""
    offset, wall = offset_of(freq), (first.tz_localize(None), last.tz_localize(None))
    grid = offset.between(*wall) if isinstance(offset, MonthDays | Listed) else pd.date_range(*wall, freq=offset)
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


@by_zone(8192)
def future_timestamps(start: pd.Timestamp, length: int, freq: str, horizon: int) -> pd.DatetimeIndex:
    """Return the ``horizon`` time stamps that follow a series of ``length`` values from ``start``.

    Examples
    --------
    >>> [str(t.date()) for t in future_timestamps(pd.Timestamp("2020-01-01"), 2, "MS", 2)]
    ['2020-03-01', '2020-04-01']
    """
    offset = offset_of(freq)
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
