"""Calendars that pandas has no name for: certain days of the month, and times told one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

_MONTH_DAYS = re.compile(r"^(\d*)MS-(\d{1,2}(?:-\d{1,2}){0,5})$")
_LISTED = "times:"


@dataclass(frozen=True)
class MonthDays:
    """Certain days of every month, or one day of every n-th: ``"MS-15"``, ``"3MS-15"``, dekads as ``"MS-1-11-21"``.

    In months that are too short the last day stands for a later one. The time of day is that of the first value.

    Attributes
    ----------
    months
        n.
    days
        Rising, 1 to 31; several only for n = 1. 0 alone stands for the day of the first value.

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
        if days == (0,) and months > 0:
            return cls(months, days)
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

    def anchored(self, start: pd.Timestamp) -> MonthDays:
        """Return the calendar whose days are known, given the first value."""
        return MonthDays(self.months, (start.day,)) if self.days == (0,) else self

    def between(self, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
        """Return all times from the first, which lies on a day of the calendar, at least to the last."""
        months = 12 * (last.year - first.year) + last.month - first.month
        return self.range(first, len(self.days) * (months // self.months + 1))

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
        days, last = np.asarray(times.day), np.asarray(times.is_month_end)
        return cls._of_days(times, days) or cls._of_days(times, np.where(last, 31, days))

    @classmethod
    def _of_days(cls, times: pd.DatetimeIndex, days: np.ndarray) -> MonthDays | None:
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


@dataclass(frozen=True)
class Listed:
    """Times that are told one by one, of the past and the future: the sessions of an exchange, say.

    Attributes
    ----------
    name
        ``"times:"`` and the times, with commas between.
    times
        Rising, without a zone: as the clocks show them where the series are.

    Examples
    --------
    >>> sessions = Listed.of(["2024-12-24", "2024-12-27", "2024-12-30"])
    >>> [str(day.date()) for day in sessions.range(pd.Timestamp("2024-12-27"), 2)]
    ['2024-12-27', '2024-12-30']
    """

    name: str
    times: pd.DatetimeIndex

    @classmethod
    def of(cls, times: object) -> Listed:
        """Make a calendar of times.

        Raises
        ------
        FlowrankError
            If they have a zone, are not rising or cannot be read.
        """
        try:
            found = pd.DatetimeIndex(pd.to_datetime(list(times), errors="raise"))  # type: ignore[call-overload]
            fault = "" if len(found) and not found.hasnans else "a missing time, or none"
        except (ValueError, TypeError, OverflowError):
            fault = f"{times!r}"[:80]
        if not fault and found.tz is not None:
            fault = f"times in the zone {found.tz}"
        if not fault and not (found.is_monotonic_increasing and found.is_unique):
            fault = "times that go back, or twice the same"
        if fault:
            raise FlowrankError(
                "freq",
                expected="a frequency, or increasing times without a zone that hold the past and the future",
                found=fault,
                todo='pass e.g. "D", or pandas.DatetimeIndex([…]).tz_localize(None)',
            )
        return cls(_LISTED + ",".join(time.isoformat() for time in found), found.as_unit("ns"))

    @classmethod
    def parsed(cls, text: str) -> Listed | None:
        """Read the name of such a calendar; None: it is none."""
        return cls.of(text[len(_LISTED) :].split(",")) if text.startswith(_LISTED) else None

    def holds(self, time: pd.Timestamp) -> bool:
        """Whether a time is one of them."""
        return time.tz_localize(None) in self.times

    def between(self, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
        """Return the times from the first to the last."""
        return self.times[(self.times >= first) & (self.times <= last)]

    def range(self, start: pd.Timestamp, count: int, unit: str = "ns") -> pd.DatetimeIndex:
        """Return ``count`` times from ``start``.

        Raises
        ------
        FlowrankError
            If there are fewer.
        """
        first = int(self.times.searchsorted(start))
        if first + count > len(self.times):
            raise FlowrankError(
                "freq",
                expected=f"a calendar of {count} times from {start}, the future with the past",
                found=f"{len(self.times) - first}, the last {self.times[-1]}",
                todo="add later times, or forecast fewer steps",
            )
        return self.times[first : first + count].as_unit(unit)
