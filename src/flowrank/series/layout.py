"""How the texts of a file are to be read, where they can be read in several ways."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowrank.errors import FlowrankError
from flowrank.series.dates import DateReading


@dataclass(frozen=True)
class Layout:
    """How dates and numbers are written.

    Attributes
    ----------
    dates
        How texts become times.
    decimal, thousands
        The marks in numbers, as in 1.234,5; None: a point, and none.
    semicolons
        Whether the cells of the file are separated by semicolons, as where commas are decimal marks.

    Examples
    --------
    >>> Layout.of(decimal=",", day_first=True).decimal
    ','
    """

    dates: DateReading = field(default_factory=DateReading)
    decimal: str | None = None
    thousands: str | None = None
    semicolons: bool = False

    @classmethod
    def of(
        cls,
        *,
        date_format: str | None = None,
        day_first: bool | None = None,
        utc: bool = False,
        decimal: str | None = None,
        thousands: str | None = None,
    ) -> Layout:
        """Check the arguments of `flowrank.series.read_series`.

        Raises
        ------
        FlowrankError
            If two of them contradict each other, or one makes no sense.
        """
        if date_format is not None and day_first is not None:
            raise FlowrankError(
                "day_first", expected="date_format or day_first, one of them", found="both", todo="leave one out"
            )
        if date_format is not None and "%" not in date_format:
            raise FlowrankError(
                "date_format", expected="a format as of strptime", found=repr(date_format), todo='pass e.g. "%d.%m.%Y"'
            )
        for name, mark, known in (("decimal", decimal, ".,"), ("thousands", thousands, ".,' _\u00a0\u202f")):
            if mark is not None and (len(mark) != 1 or mark not in known):
                raise FlowrankError(name, expected=f"one of {' '.join(map(repr, known))}", found=repr(mark))
        if (decimal or ".") == thousands:
            raise FlowrankError(
                "thousands",
                expected="another mark than that of decimals",
                found=f"{thousands!r} for both",
                todo="pass decimal too (--decimal ,)",
            )
        return cls(DateReading(date_format, day_first, bool(utc)), decimal, thousands)
