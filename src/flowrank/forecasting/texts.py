"""Forecasts as CSV text, with all times of a file written alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

_UNITS = ("D", "s", "ms", "us", "ns")  # from dates alone to nanoseconds
_SPECS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_LENGTHS = {"D": 10, "s": 19, "ms": 23, "us": 26, "ns": 29}
_ZERO = "0000-00-00 00:00:00.000000000"


def write_csv(frames: Iterator[pd.DataFrame], path: Path) -> None:
    """Write frames, whose second column holds times or steps, one after the other.

    Times are dates alone if all are midnights without a zone, of steps of a day or more; otherwise all have the time of
    day, as finely as any of them needs. If that shows late, what is written already is written again.
    """
    unit: str | None = None
    for number, frame in enumerate(frames):
        name = frame.columns[1]
        if not pd.api.types.is_integer_dtype(frame[name].dtype):
            needed = unit_of(frame[name])
            if needed == "D" and frame.attrs.get("time_of_day"):
                needed = "s"
            if unit is not None and _UNITS.index(needed) > _UNITS.index(unit):
                _rewrite(path, unit, needed)
                unit = needed
            unit = unit or needed
            frame = frame.copy()
            frame[name] = time_texts(frame[name], unit)
        frame.to_csv(path, mode="a" if number else "w", header=number == 0, index=False)


def unit_of(times: pd.Series) -> str:
    """Return the coarsest unit in which times can be written.

    Examples
    --------
    >>> unit_of(pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"])))
    'D'
    >>> unit_of(pd.Series(pd.to_datetime(["2024-01-01 05:00:00.25"])))
    'ms'
    """
    if isinstance(times.dtype, np.dtype) and times.dtype.kind == "M":
        values = times.to_numpy()
        return next(unit for unit in _UNITS if (values == values.astype(f"M8[{unit}]")).all())
    found = [_unit(time) for time in times]
    return max(found, key=_UNITS.index)


def _unit(time: pd.Timestamp) -> str:
    if time.nanosecond:
        return "ns"
    if time.microsecond:
        return "us" if time.microsecond % 1000 else "ms"
    return "D" if time.tz is None and time == time.normalize() else "s"


def time_texts(times: pd.Series, unit: str) -> list[str]:
    """Return times as texts, with the offset from UTC where they have a zone.

    Examples
    --------
    >>> time_texts(pd.Series(pd.to_datetime(["2024-01-01"])), "s")
    ['2024-01-01 00:00:00']
    >>> time_texts(pd.Series(pd.to_datetime(["2024-07-01"]).tz_localize("Europe/Berlin")), "s")
    ['2024-07-01 00:00:00+02:00']
    """
    if isinstance(times.dtype, np.dtype) and times.dtype.kind == "M":
        return [
            text.replace("T", " ") for text in np.datetime_as_string(times.to_numpy(), unit=cast(Any, unit)).tolist()
        ]
    if unit == "D":
        return [time.isoformat()[:10] for time in times]
    return [time.isoformat(sep=" ", timespec=_SPECS[unit]) for time in times]


def _rewrite(path: Path, unit: str, finer: str) -> None:
    """Write the times of a file again, as finely as ``finer``."""
    place = _LENGTHS[unit]
    more = _ZERO[place : _LENGTHS[finer]]
    again = path.with_name(path.name + ".again")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=100_000)
        for number, chunk in enumerate(table):
            times = chunk.iloc[:, 1]
            chunk[chunk.columns[1]] = times.str[:place] + more + times.str[place:]
            chunk.to_csv(again, mode="a" if number else "w", header=number == 0, index=False)
        os.replace(again, path)
    finally:
        again.unlink(missing_ok=True)
