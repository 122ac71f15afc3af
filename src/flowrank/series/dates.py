"""Columns of dates and times, read as time stamps."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.date_columns import (
    from_numbers,
    from_objects,
    odd_one,
    offsets_of,
    plain_column,
    plain_iso,
    refuse_outside,
    stripped,
    texts_of,
)
from flowrank.series.date_faults import EXAMPLE, IN_ORDER, Faults, Where
from flowrank.series.date_texts import ORDERS, in_formats, is_iso, orders_of, parse


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


class TimeReader:
    """Reads a column of times that may come in pieces.

    The order of day and month is that which the whole column shows: `note` every piece, `settle`, then `read` them
    again. A column of one piece, or in another notation, needs no first pass.

    Parameters
    ----------
    reading
        What is known of the texts.
    argument, name
        Name of the argument that errors are about, and of the column.

    Examples
    --------
    >>> reader = TimeReader(DateReading(), argument="series", name="day")
    >>> pieces = [pd.Series(["01/02/2024"]), pd.Series(["31/12/2024"])]
    >>> [reader.note(piece, "row {}".format) for piece in pieces]
    [False, True]
    >>> reader.settle()
    >>> reader.read(pieces[0], "row {}".format)[0]
    Timestamp('2024-02-01 00:00:00')
    """

    def __init__(self, reading: DateReading, *, argument: str, name: Any) -> None:
        self._form = reading
        self._faults = Faults(argument, name, reading.date_format)
        self._argument = argument
        self._name = name
        self._orders: list[str] | None = None
        self._iso = False
        self._evidence = ""  # the text that leaves one order
        self._both = ""  # a text that reads differently in the orders left

    def note(self, column: Any, where: Where) -> bool:
        """Take note of a piece of the column; whether no more is needed to know how it reads."""
        texts = texts_of(plain_column(column))
        if texts is None or self._form.date_format is not None:
            return True
        if self._iso:
            return True
        codes, unique = pd.factorize(stripped(texts))
        if len(unique) == 0:
            return False
        unique = pd.Index(unique, dtype=object)
        if self._orders is None:
            self._begin(unique[0])
        if self._iso or len(self._orders or ()) == 1:
            return True

        def place(position: int) -> str:
            return f"{unique[position]!r} at {where(int((codes == position).argmax()))}"

        orders = self._orders or []
        found = {order: in_formats(unique, order, iso=False) for order in orders}
        fits = np.stack([~np.isnat(times) for times in found.values()])
        readable = fits.any(axis=0)  # others are refused where they are read
        for position in np.flatnonzero(readable & ~fits.all(axis=0)).tolist():
            left = [order for order in orders if not np.isnat(found[order][position])]
            if left and left != orders:  # else it says nothing, or contradicts an earlier one
                orders, self._evidence = left, place(position)
            if len(orders) == 1:
                break
        self._orders = orders
        if len(orders) > 1 and not self._both:
            differs = np.any([found[orders[0]] != found[other] for other in orders[1:]], axis=0) & readable
            if differs.any():
                position = int(differs.argmax())
                dates = " or ".join(dict.fromkeys(str(found[order][position])[:10] for order in orders))
                self._both = f"{place(position)}, which can be {_named(orders)} ({dates}), as all others"
        return len(orders) == 1

    def _begin(self, first: str) -> None:
        self._iso = first.isdigit() or is_iso(first)
        self._orders = [""] if self._iso else orders_of(first)
        if self._form.day_first is not None and "dmy" in self._orders:
            self._orders = ["dmy" if self._form.day_first else "mdy"]

    def settle(self) -> None:
        """Check that the column can be read in one way.

        Raises
        ------
        FlowrankError
            If day and month, or year and day, can be exchanged in every one of its dates.
        """
        orders = self._orders or []
        if len(orders) <= 1 or not self._both:
            return
        remedy = "pass --date-format (date_format=)"
        if "dmy" in orders:
            remedy = "pass --day-first or --month-first (day_first=True or False), or --date-format (date_format=)"
        example = {"my": "%b-%y", "ymd": "%y-%m-%d"}.get(orders[-1] if "my" not in orders else "my", "%d/%m/%Y")
        raise FlowrankError(
            self._argument,
            expected=f"dates in {self._name!r} that can be read in one way",
            found=self._both,
            todo=f'{remedy}, e.g. "{example}"',
        )

    def read(self, column: Any, where: Where) -> pd.DatetimeIndex:
        """Return a piece of the column as time stamps of nanoseconds, shape ``(rows,)``.

        Raises
        ------
        FlowrankError
            If one is missing, or is not a time that can be read, has another offset from UTC than the first, or lies
            outside the years 1678 to 2261.
        """
        column = plain_column(column)
        if len(column) == 0:
            return pd.DatetimeIndex([], dtype="datetime64[ns]")
        dtype = column.dtype
        if pd.api.types.is_datetime64_any_dtype(dtype):
            return self._checked(pd.DatetimeIndex(column), column, where)
        if isinstance(dtype, pd.PeriodDtype):
            try:
                return self._checked(pd.DatetimeIndex(column.dt.start_time), column, where)
            except (ValueError, OverflowError):
                refuse_outside(column, [value.year for value in column], self._faults, where)
                raise
        if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
            if self._form.date_format is not None and pd.api.types.is_integer_dtype(dtype):
                return self._text(column.astype("Int64").astype("string").astype(object), where)
            return self._in_utc(from_numbers(column, self._faults, where))
        kind = pd.api.types.infer_dtype(column, skipna=True)
        texts = texts_of(column, kind)
        if texts is not None:
            return self._text(texts, where)
        if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
            return self._in_utc(from_numbers(column.astype(object), self._faults, where))
        if kind in ("datetime", "date", "datetime64"):
            return self._in_utc(from_objects(column, self._faults, where, utc=self._form.utc))
        if kind == "period":
            return self.read(pd.Series(pd.PeriodIndex(column)), where)
        if all(isinstance(value, datetime.date) for value in column):
            return self._in_utc(from_objects(column, self._faults, where, utc=self._form.utc))
        position = odd_one(column)
        hints = {"time": "times of a day without a date", "timedelta": "durations", "timedelta64": "durations"}
        todo = f"add the date, or {IN_ORDER}"
        raise FlowrankError(
            self._argument,
            expected=f"dates or times of one kind in {self._name!r}",
            found=f"{column.iloc[position]!r} ({type(column.iloc[position]).__name__}) at {where(position)}"
            + (f": {hints[kind]}" if kind in hints else ""),
            todo=todo if kind in hints else EXAMPLE,
        )

    def _checked(self, times: pd.DatetimeIndex, column: pd.Series, where: Where) -> pd.DatetimeIndex:
        if times.hasnans:
            position = int(np.asarray(times.isna()).argmax())
            raise self._faults.missing(column.iloc[position], where(position))
        if times.unit != "ns":
            refuse_outside(column, times.year, self._faults, where)
            times = times.as_unit("ns")
        return self._in_utc(times)

    def _in_utc(self, times: pd.DatetimeIndex) -> pd.DatetimeIndex:
        if not self._form.utc:
            return times
        return times.tz_localize("UTC") if times.tz is None else times.tz_convert("UTC")

    def _text(self, texts: pd.Series, where: Where) -> pd.DatetimeIndex:
        if self._form.date_format is None:
            times = plain_iso(texts)
            if times is not None:
                return self._in_utc(times)
        codes, unique = pd.factorize(stripped(texts))
        unique = pd.Index(unique, dtype=object)

        def place(position: int) -> str:
            return f"{unique[position]!r} at {where(int((codes == position).argmax()))}"

        missing = codes < 0
        if missing.any():
            position = int(missing.argmax())
            raise self._faults.missing(texts.iloc[position], where(position))
        if unique[0].isdigit() and self._form.date_format is None:
            return self._digits(texts, unique, codes, where)
        zoned = self._form.date_format is None or "%z" in self._form.date_format
        offsets, odd = offsets_of(unique) if zoned else (None, -1)
        if offsets is not None and odd >= 0 and (not self._form.utc or None in (offsets[odd], offsets[0])):
            raise self._faults.mixed_offsets(place(odd), repr(unique[0]))
        if offsets is not None:
            unique = pd.Index(pd.Series(unique).str.replace(r"\s?(UTC|GMT)$", "Z", regex=True), dtype=object)
        if self._form.date_format is not None:
            times = parse(unique, self._form.date_format)
        else:
            if self._orders is None:
                self.note(texts, where)
                self.settle()
            times = in_formats(unique, (self._orders or [""])[0], iso=self._iso)
        if np.isnat(times).any():
            bad = int(np.isnat(times).argmax())
            order = ORDERS.get((self._orders or [""])[0], "")
            raise self._faults.unreadable(unique[bad], where(int((codes == bad).argmax())), order, self._evidence)
        found = pd.DatetimeIndex(times)
        if (offsets is not None or "%z" in (self._form.date_format or "")) and not self._form.utc:
            found = found.tz_localize("UTC")
            found = found.tz_convert(pd.Timestamp(f"2020-01-01T00:00{offsets[0]}").tz) if offsets else found
        return self._in_utc(found[codes])

    def _digits(self, texts: pd.Series, unique: pd.Index, codes: np.ndarray, where: Where) -> pd.DatetimeIndex:
        for position, text in enumerate(unique):
            if not text.isdigit():
                first = int((codes == position).argmax())
                raise self._faults.unreadable(text, where(first))
        return self._in_utc(from_numbers(texts.astype(object), self._faults, where))


def _named(orders: list[str]) -> str:
    return " or ".join(ORDERS[order] for order in orders)


def as_timestamps(
    column: Any, *, argument: str, where: Where, name: Any, reading: DateReading | None = None
) -> pd.DatetimeIndex:
    """Turn a whole column of dates, times or texts into time stamps of nanoseconds, shape ``(rows,)``.

    Raises
    ------
    FlowrankError
        As `TimeReader`.

    Examples
    --------
    >>> texts = ["2020-01-01", "2020-01-01 12:00"]
    >>> as_timestamps(texts, argument="series", where="row {}".format, name="t")[1]
    Timestamp('2020-01-01 12:00:00')
    """
    return TimeReader(reading or DateReading(), argument=argument, name=name).read(column, where)
