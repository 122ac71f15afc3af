"""Calendars that pandas has no name for: certain days of the month, certain days of the week."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

_MONTH_DAYS = re.compile(r"^(\d*)MS-(\d{1,2}(?:-\d{1,2}){0,5})$")
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_WEEK = re.compile(rf"^C:\s*({_DAY}(?:[ ,]+{_DAY})*)\s*$", re.IGNORECASE)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class MonthDays:
    """Certain days of every month, or one day of every n-th: ``"MS-15"``, ``"3MS-15"``, dekads as ``"MS-1-11-21"``.

    In months that are too short the last day stands for a later one. The time of day is that of the first value.

    Attributes
    ----------
    months
        n.
    days
        Rising, 1 to 31; several only for n = 1.

    Examples
    --------
    >>> dekads = MonthDays.parsed("MS-1-11-21")
    >>> [str(day.date()) for day in dekads.range(pd.Timestamp("2024-02-11"), 3)]
    ['2024-02-11', '2024-02-21', '2024-03-01']
    """

    months: int
    days: tuple[int, ...]

    @classmethod
    def parsed(cls, text: str) -> MonthDays | None:
        """Read the name of such a calendar; None: it is none."""
        found = _MONTH_DAYS.match(text)
        if found is None:
            return None
        months, days = int(found.group(1) or 1), tuple(map(int, found.group(2).split("-")))
        ordered = all(a < b for a, b in pairwise(days))
        if months < 1 or not ordered or not all(1 <= day <= 31 for day in days) or (months > 1 and len(days) > 1):
            return None
        return cls(months, days)

    @property
    def name(self) -> str:
        """As ``--freq`` takes it."""
        return f"{'' if self.months == 1 else self.months}MS-{'-'.join(map(str, self.days))}"

    def holds(self, time: pd.Timestamp) -> bool:
        """Whether a time lies on one of the days."""
        return time.day in self.days or (time.is_month_end and time.day < self.days[-1])

    def range(self, start: pd.Timestamp, count: int, unit: str = "ns") -> pd.DatetimeIndex:
        """Return ``count`` times from ``start``, which lies on a day of the calendar and has no zone."""
        first = next((i for i, day in enumerate(self.days) if day >= start.day), len(self.days) - 1)
        places = first + np.arange(count)
        months = 12 * (start.year - 1970) + start.month - 1 + self.months * (places // len(self.days))
        begins = months.astype("datetime64[M]")
        lengths = ((begins + 1).astype("datetime64[D]") - begins.astype("datetime64[D]")).astype(np.int64)
        days = np.minimum(np.array(self.days)[places % len(self.days)], lengths)
        dates = begins.astype("datetime64[D]") + (days - 1)
        return pd.DatetimeIndex(dates.astype(f"datetime64[{unit}]")) + (start - start.normalize())

    @classmethod
    def of(cls, times: pd.DatetimeIndex) -> MonthDays | None:
        """Find the calendar on which times without a zone follow each other without a gap; None: none that is sure."""
        if len(times) < 3:
            return None
        days = np.asarray(times.day)
        months = 12 * np.asarray(times.year) + np.asarray(times.month)
        steps = np.diff(months)
        if (steps == steps[0]).all() and steps[0] > 0:
            found = cls(int(steps[0]), (int(days.max()),))
        else:
            known = tuple(int(day) for day in np.unique(days))
            if len(known) > 6 or len(times) <= 2 * len(known) or steps.max() > 1:
                return None
            found = cls(1, known)
        return found if (found.range(times[0], len(times)) == times).all() else None


def week_of(text: str) -> pd.tseries.offsets.CustomBusinessDay | None:
    """Read a calendar of certain weekdays, ``"C:Mon Tue Wed Thu Fri Sat"``; None: it is none.

    Examples
    --------
    >>> pd.Timestamp("2024-03-02") + week_of("C:Mon Tue Wed Thu Fri Sat")  # a Saturday
    Timestamp('2024-03-04 00:00:00')
    """
    found = _WEEK.match(text)
    if found is None:
        return None
    days = {day.capitalize() for day in re.split(r"[ ,]+", found.group(1))}
    return pd.tseries.offsets.CustomBusinessDay(weekmask=" ".join(day for day in WEEKDAYS if day in days))


def week_name(offset: pd.tseries.offsets.CustomBusinessDay) -> str:
    """Return the name of such a calendar.

    Examples
    --------
    >>> week_name(week_of("C:sat,mon"))
    'C:Mon Sat'
    """
    return f"C:{offset.weekmask}"


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
