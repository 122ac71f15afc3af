"""What is wrong with a time, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowrank.errors import FlowrankError

Where = Callable[[int], str]
EXAMPLE = "write them as e.g. 2024-01-31 or 2024-01-31 23:00:00"
IN_ORDER = "pass timestamp_column=None (--timestamp-column '') for rows in order of time"
_SPAN = "the years 1678 to 2261"
_NUMBERS = {  # numbers that are no dates by themselves
    "days of a spreadsheet": (20_000, 80_000, "unit='D', origin='1899-12-30'"),
    "seconds since 1970": (10**8, 10**10, "unit='s'"),
    "milliseconds since 1970": (10**11, 10**13, "unit='ms'"),
    "microseconds since 1970": (10**14, 10**16, "unit='us'"),
    "nanoseconds since 1970": (10**17, 10**19, "unit='ns'"),
}
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2})?(\.\d+)?(\s?[ap]m)?", re.IGNORECASE)


@dataclass(frozen=True)
class Faults:
    """Makes the errors about a column of times.

    Attributes
    ----------
    argument, name
        Name of the argument that errors are about, and of the column.
    date_format
        The format that was told.

    Examples
    --------
    >>> print(Faults("series", "day").unreadable("10:00", "row 3"))
    series: expected dates or times of one format in 'day', found '10:00' at row 3, a time of a day without a date; \
add the date, or pass timestamp_column=None (--timestamp-column '') for rows in order of time
    """

    argument: str
    name: Any
    date_format: str | None = None

    def _error(self, found: str, todo: str, expected: str = "dates or times of one format in {}") -> FlowrankError:
        return FlowrankError(self.argument, expected=expected.format(repr(self.name)), found=found, todo=todo)

    def missing(self, value: Any, where: str) -> FlowrankError:
        """Return the error about a time that is missing."""
        return self._error(f"{value!r} at {where}, a missing time", "write its time, or leave the row out")

    def outside(self, value: Any, where: str) -> FlowrankError:
        """Return the error about a time that nanoseconds do not reach."""
        shown = repr(value) if isinstance(value, str) else str(value)
        return self._error(
            f"{shown} at {where}, which lies outside {_SPAN}",
            "correct it, or leave the row out",
            f"dates of {_SPAN} in {{}}",
        )

    def mixed_offsets(self, found: str, first: str) -> FlowrankError:
        """Return the error about a time with another offset from UTC than the first."""
        return self._error(
            found,
            "pass utc=True (--utc) to read them all as UTC; each then needs its offset",
            f"times of one time zone in {{}}, as the first, {first}",
        )

    def number(self, value: Any, where: str, digits: int) -> FlowrankError:
        """Return the error about a number that is no date; ``digits``, where it is whole and shorter than 16."""
        todo = f"convert them (pandas.to_datetime), or {IN_ORDER}"
        if digits in (6, 8):
            todo = 'pass their format (date_format=, --date-format), e.g. "%d%m%Y"'
        for kind, (least, most, unit) in _NUMBERS.items():
            if least <= float(value) < most and digits not in (4, 6, 8, 12, 14):
                todo = f"if they are {kind}, convert them: pandas.to_datetime(…, {unit})"
        return self._error(f"the number {value} at {where}", todo, "dates or times in {}")

    def unreadable(self, text: str, where: str, order: str = "", evidence: str = "") -> FlowrankError:
        """Return the error about a text; ``evidence`` is one that shows the order of the column."""
        found = f"{text!r} at {where}"
        year = re.search(r"(?<!\d)\d{4}(?!\d)", text)
        if year is not None and not 1678 <= int(year[0]) <= 2261:
            return self.outside(text, where)
        if _TIME.fullmatch(text):
            return self._error(f"{found}, a time of a day without a date", f"add the date, or {IN_ORDER}")
        if re.fullmatch(r"[2-7]\d{4}\.\d+", text):
            return self._error(f"{found}, like days of a spreadsheet", "write dates")
        if self.date_format is not None:
            todo = "correct it, or the format (date_format=, --date-format)"
            return self._error(found, todo, f"dates of the format {self.date_format!r} in {{}}")
        todo = f"{EXAMPLE}, or pass their format (date_format=, --date-format)"
        if not evidence:
            return self._error(found, todo)
        shown = f"dates or times of one format in {{}} (each {order}, as {evidence} shows)"
        return self._error(f"{found}, unlike those before it", todo, shown.replace("{}", "{0}", 1))
