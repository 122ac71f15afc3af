"""The order of day, month and year in a column of text dates: found out from all of it, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

PARTS = r"^\s*(\d{1,4})([./ -])(\d{1,2})\2(\d{2,4})(?:[T ,]+(.*?))?\s*$"
ORDERS = {"DMY": (2, 1, 0), "MDY": (2, 0, 1), "YMD": (0, 1, 2)}  # where year, month and day stand
_NAMES = {"DMY": "day-month-year", "MDY": "month-day-year", "YMD": "year-month-day"}
_REMEDY = "pass --day-first or --month-first (day_first=True or False), or --date-format"


@dataclass(frozen=True)
class DateReading:
    """How texts become times.

    Attributes
    ----------
    date_format
        As of ``datetime.strptime``, e.g. ``"%d.%m.%Y %H:%M"``; None: found out, for the whole column.
    day_first
        Whether 05/03/2024 is 5 March; None: found out from the whole column, or refused.
    utc
        Whether times of several UTC offsets are turned into UTC; else they are refused.

    Examples
    --------
    >>> DateReading(day_first=True).day_first
    True
    """

    date_format: str | None = None
    day_first: bool | None = None
    utc: bool = False


class OrderOfDates:
    """Finds out, over all pieces of a column, in which order day, month and year stand.

    Parameters
    ----------
    argument, name
        Of the source and its column, for errors.

    Examples
    --------
    >>> order = OrderOfDates("series", "day")
    >>> order.add(pd.Series(["05/03/2024", "13/03/2024"]), "row {}".format)
    >>> order.decided(DateReading()).day_first
    True
    """

    def __init__(self, argument: str, name: str) -> None:
        self._argument, self._name = argument, name
        self._possible = set(ORDERS)
        self._differs = False
        self._any = False
        self._first = ""

    def add(self, column: pd.Series, where: Callable[[int], str]) -> None:
        """Take more of the column into account."""
        parts = parts_of(column)
        if parts is None:
            return
        known = parts[0].notna().to_numpy()
        if not known.any():
            return
        if not self._any:
            self._any = True
            position = int(known.argmax())
            self._first = f"{column.iloc[position]!r} at {where(position)}"
        numbers = np.stack([parts[i][known].astype(np.int64).to_numpy() for i in (0, 2, 3)])
        long = np.stack([parts[i][known].str.len().to_numpy(dtype=np.int64) for i in (0, 2, 3)]) > 2
        failures = {}
        for order in self._possible:
            year, month, day = ORDERS[order]
            fits = (numbers[month] >= 1) & (numbers[month] <= 12) & (numbers[day] >= 1) & (numbers[day] <= 31)
            fits &= ~long[month] & ~long[day] & ~(long.any(axis=0) & ~long[year])
            if not fits.all():
                failures[order] = int((~fits).argmax())
        if len(failures) == len(self._possible):
            position = int(np.flatnonzero(known)[max(failures.values())])
            raise self._mixed(column.iloc[position], where(position))
        self._possible -= set(failures)
        self._differs = self._differs or bool((numbers[0] != numbers[1]).any())

    def _mixed(self, value: Any, where: str) -> FlowrankError:
        return FlowrankError(
            self._argument,
            expected=f"dates of one order of day, month and year in {self._name!r}",
            found=f"{value!r} at {where}, unlike those before it",
            todo="correct it; the order is the same for the whole column",
        )

    def decided(self, reading: DateReading) -> DateReading:
        """Return the reading with the order that the column has.

        Raises
        ------
        FlowrankError
            If the dates can be read in two ways.
        """
        if not self._any or reading.day_first is not None:
            return reading
        orders = self._possible - {"YMD"} if len(self._possible) > 1 and not self._two_digits_only() else self._possible
        if len(orders) == 1:
            return replace(reading, day_first={"DMY": True, "MDY": False, "YMD": None}[next(iter(orders))])
        if orders == {"DMY", "MDY"} and not self._differs:
            return replace(reading, day_first=True)  # 01/01 and 02/02 are the same either way
        both = " or ".join(name for one, name in _NAMES.items() if one in orders)
        raise FlowrankError(
            self._argument,
            expected=f"dates in {self._name!r} that can be read in one way",
            found=f"{self._first}, which can be {both}, as all others",
            todo=_REMEDY,
        )

    def _two_digits_only(self) -> bool:
        return "YMD" in self._possible


def needs_order(value: Any) -> bool:
    """Whether a text is a date of three numbers of which the year is not the first.

    Examples
    --------
    >>> needs_order("05/03/2024"), needs_order("2024-03-05"), needs_order("5 March 2024")
    (True, False, False)
    """
    if not isinstance(value, str):
        return False
    found = re.match(PARTS, value)
    return found is not None and len(found.group(1)) <= 2


def parts_of(column: pd.Series) -> pd.DataFrame | None:
    """Three numbers with separators (columns 0, 2, 3), and the time after them (4); None if there are no texts."""
    if column.dtype != object and not pd.api.types.is_string_dtype(column.dtype):
        return None
    texts = column.where(column.map(lambda value: isinstance(value, str)).astype(bool), None).astype(object)
    if texts.isna().all():
        return None
    return texts.astype("string").str.extract(PARTS)
