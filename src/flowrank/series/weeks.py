"""Calendars of certain days of the week, less holidays."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_WEEK = re.compile(rf"^C:\s*({_DAY}(?:[ ,]+{_DAY})*)\s*(?:;([-\d, ]*))?$", re.IGNORECASE)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def week_of(text: str) -> pd.tseries.offsets.CustomBusinessDay | None:
    """Read a calendar of certain weekdays less holidays, ``"C:Mon Tue Wed Thu Fri;2024-12-25"``; None: it is none.

    Examples
    --------
    >>> pd.Timestamp("2024-03-02") + week_of("C:Mon Tue Wed Thu Fri Sat;2024-03-04")  # a Saturday
    Timestamp('2024-03-05 00:00:00')
    """
    found = _WEEK.match(text)
    if found is None:
        return None
    days = {day.capitalize() for day in re.split(r"[ ,]+", found.group(1))}
    try:
        holidays = [np.datetime64(day.strip(), "D") for day in (found.group(2) or "").split(",") if day.strip()]
    except ValueError:
        return None
    return pd.tseries.offsets.CustomBusinessDay(
        weekmask=" ".join(day for day in WEEKDAYS if day in days), holidays=holidays
    )


def week_name(offset: pd.tseries.offsets.CustomBusinessDay) -> str:
    """Return the name of such a calendar.

    Examples
    --------
    >>> week_name(week_of("C:sat,mon;2024-03-04"))
    'C:Mon Sat;2024-03-04'
    """
    holidays = offset.calendar.holidays
    return f"C:{' '.join(days_of(offset))}" + (f";{','.join(map(str, holidays))}" if len(holidays) else "")


def days_of(offset: pd.tseries.offsets.CustomBusinessDay) -> list[str]:
    """Return the weekdays of such a calendar.

    Examples
    --------
    >>> days_of(week_of("C:sat,mon"))
    ['Mon', 'Sat']
    """
    return [day for day, works in zip(WEEKDAYS, offset.calendar.weekmask, strict=True) if works]


def week_in(times: pd.DatetimeIndex) -> str | None:
    """Find the weekdays on which times without a zone follow each other without a gap; None: none that is sure.

    Examples
    --------
    >>> week_in(pd.DatetimeIndex([day for day in pd.date_range("2024-03-01", periods=21) if day.weekday() < 6]))
    'C:Mon Tue Wed Thu Fri Sat'
    """
    steps = np.diff(times.asi8)
    day = 86_400 * 10**9
    weekdays = np.asarray(times.weekday)
    known = sorted(set(weekdays.tolist()))
    if (steps % day).any() or not 1 < len(known) < 7 or len(times) <= 2 * len(known):
        return None
    following = {one: (known[(i + 1) % len(known)] - one) % 7 for i, one in enumerate(known)}
    expected = np.array([following[one] for one in weekdays[:-1].tolist()]) * day
    if not (steps == expected).all():
        return None
    return "B" if known == [0, 1, 2, 3, 4] else "C:" + " ".join(WEEKDAYS[one] for one in known)
