"""Columns of dates and times, read as time stamps."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.date_texts import OFFSET, ORDERS, in_formats, is_iso, orders_of, parse

Where = Callable[[int], str]
_SPAN = "the years 1678 to 2261"
_MISSING = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "<na>"})
_IN_ORDER = "pass timestamp_column=None (--timestamp-column '') for rows in order of time"
_NUMBERS = {  # numbers that are no dates by themselves
    "days of a spreadsheet": (20_000, 80_000, "unit='D', origin='1899-12-30'"),
    "seconds since 1970": (10**8, 10**10, "unit='s'"),
    "milliseconds since 1970": (10**11, 10**13, "unit='ms'"),
    "microseconds since 1970": (10**14, 10**16, "unit='us'"),
    "nanoseconds since 1970": (10**17, 10**19, "unit='ns'"),
}
_EXAMPLE = "write them as e.g. 2024-01-31 or 2024-01-31 23:00:00"


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
        self._argument = argument
        self._name = name
        self._orders: list[str] | None = None
        self._iso = False
        self._evidence = ""  # the text that leaves one order
        self._both = ""  # a text that reads differently in the orders left

    def note(self, column: Any, where: Where) -> bool:
        """Take note of a piece of the column; whether no more is needed to know how it reads."""
        texts = _texts(_plain(column))
        if texts is None or self._form.date_format is not None:
            return True
        codes, unique = pd.factorize(_stripped(texts))
        if len(unique) == 0:
            return False
        unique = pd.Index(unique, dtype=object)
        if self._orders is None:
            self._begin(unique)
        if self._iso or len(self._orders or ()) == 1:
            return True

        def place(position: int) -> str:
            return f"{unique[position]!r} at {where(int((codes == position).argmax()))}"

        orders = self._orders or []
        found = {order: in_formats(unique, order, iso=False) for order in orders}
        fits = np.stack([~np.isnat(times) for times in found.values()])
        readable = fits.any(axis=0)  # others are refused where they are read
        for position in np.flatnonzero(readable & ~fits.all(axis=0)):
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

    def _begin(self, unique: pd.Index) -> None:
        first = next((text for text in unique if not is_iso(text) and not text.isdigit()), None)
        self._iso = unique[0].isdigit() or is_iso(unique[0])
        if self._iso:
            self._orders = [""]
            return
        self._orders = orders_of(first or "")
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
        column = _plain(column)
        if len(column) == 0:
            return pd.DatetimeIndex([], dtype="datetime64[ns]")
        dtype = column.dtype
        if pd.api.types.is_datetime64_any_dtype(dtype):
            return self._checked(pd.DatetimeIndex(column), column, where)
        if isinstance(dtype, pd.PeriodDtype):
            try:
                return self._checked(pd.DatetimeIndex(column.dt.start_time), column, where)
            except (ValueError, OverflowError):
                raise self._outside(column, [value.year for value in column], where) from None
        if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
            if self._form.date_format is not None and pd.api.types.is_integer_dtype(dtype):
                return self._text(column.astype("Int64").astype("string").astype(object), where)
            return self._numbers(column, where)
        kind = pd.api.types.infer_dtype(column, skipna=True)
        texts = _texts(column, kind)
        if texts is not None:
            return self._text(texts, where)
        if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
            return self._numbers(column.astype(object), where)
        if kind in ("datetime", "date", "datetime64"):
            return self._objects(column, where)
        if kind == "period":
            return self.read(pd.Series(pd.PeriodIndex(column)), where)
        if all(isinstance(value, datetime.date) for value in column):
            return self._objects(column, where)
        position = _odd_one(column)
        hints = {"time": "times of a day without a date", "timedelta": "durations", "timedelta64": "durations"}
        todo = f"add the date, or {_IN_ORDER}"
        raise FlowrankError(
            self._argument,
            expected=f"dates or times of one kind in {self._name!r}",
            found=f"{column.iloc[position]!r} ({type(column.iloc[position]).__name__}) at {where(position)}"
            + (f": {hints[kind]}" if kind in hints else ""),
            todo=todo if kind in hints else _EXAMPLE,
        )

    def _checked(self, times: pd.DatetimeIndex, column: pd.Series, where: Where) -> pd.DatetimeIndex:
        if times.hasnans:
            position = int(np.asarray(times.isna()).argmax())
            raise self._unreadable(f"{column.iloc[position]!r} at {where(position)}", missing=True)
        if times.unit != "ns":
            years = np.asarray(times.year)
            if (years < 1678).any() or (years > 2261).any():
                raise self._outside(column, years, where)
            times = times.as_unit("ns")
        return self._in_utc(times)

    def _in_utc(self, times: pd.DatetimeIndex) -> pd.DatetimeIndex:
        if not self._form.utc:
            return times
        return times.tz_localize("UTC") if times.tz is None else times.tz_convert("UTC")

    def _objects(self, column: pd.Series, where: Where) -> pd.DatetimeIndex:
        missing = column.isna().to_numpy()
        if missing.any():
            position = int(missing.argmax())
            raise self._unreadable(f"{column.iloc[position]!r} at {where(position)}", missing=True)
        years = [pd.Timestamp(one).year if isinstance(one, np.datetime64) else one.year for one in column]
        if min(years) < 1678 or max(years) > 2261:
            raise self._outside(column, years, where)
        zones = [str(getattr(value, "tzinfo", None)) for value in column]
        odd = next((position for position, zone in enumerate(zones) if zone != zones[0]), None)
        if odd is not None and (not self._form.utc or "None" in zones):
            raise self._mixed_offsets(f"{column.iloc[odd]!s} at {where(odd)}", f"{column.iloc[0]!s}")
        return self._in_utc(pd.DatetimeIndex(pd.to_datetime(column, utc=odd is not None)).as_unit("ns"))

    def _numbers(self, column: pd.Series, where: Where) -> pd.DatetimeIndex:
        """Whole numbers such as 2024, 202401 or 20240131; counters and serial numbers are refused."""
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)  # texts of digits as well
        if np.isnan(values).any():
            position = int(np.isnan(values).argmax())
            raise self._unreadable(f"{column.iloc[position]!r} at {where(position)}", missing=True)
        whole = bool((values == np.floor(values)).all()) and float(np.abs(values).max()) < 1e15
        digits = len(str(int(abs(values[0])))) if whole else 0
        text_format = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(digits)
        bad = 0
        if text_format is not None:
            texts = pd.Index([f"{value:.0f}" for value in values], dtype=object)
            times = parse(texts, text_format)
            fits = ~np.isnat(times) & np.array([len(text) == digits for text in texts])
            if digits == 4:
                fits &= values < 3000
            if fits.all():
                return self._in_utc(pd.DatetimeIndex(times))
            bad = int((~fits).argmax())
            if digits == 4 and 1000 <= values[bad] < 3000:
                raise self._outside(column, values.astype(int), where)
        hint = "convert them (pandas.to_datetime), or " + _IN_ORDER
        if digits in (6, 8):
            hint = 'pass their format (date_format=, --date-format), e.g. "%d%m%Y"'
        for kind, (least, most, unit) in _NUMBERS.items():
            if least <= values[bad] < most and text_format is None:
                hint = f"if they are {kind}, convert them: pandas.to_datetime(…, {unit})"
                break
        raise FlowrankError(
            self._argument,
            expected=f"dates or times in {self._name!r}",
            found=f"the number {column.iloc[bad]} at {where(bad)}",
            todo=hint,
        )

    def _text(self, texts: pd.Series, where: Where) -> pd.DatetimeIndex:
        codes, unique = pd.factorize(_stripped(texts))
        unique = pd.Index(unique, dtype=object)

        def place(position: int) -> str:
            return f"{unique[position]!r} at {where(int((codes == position).argmax()))}"

        missing = codes < 0
        if missing.any():
            position = int(missing.argmax())
            raise self._unreadable(f"{texts.iloc[position]!r} at {where(position)}", missing=True)
        if unique[0].isdigit() and self._form.date_format is None:
            return self._digits(texts, unique, codes, where)
        zoned = self._form.date_format is None or "%z" in self._form.date_format
        offsets, odd = _offsets(unique) if zoned else (None, -1)
        if odd >= 0 and (not self._form.utc or None in (offsets[odd], offsets[0])):
            raise self._mixed_offsets(place(odd), repr(unique[0]))
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
            raise self._unreadable(place(bad), text=unique[bad])
        found = pd.DatetimeIndex(times)
        if (offsets is not None or "%z" in (self._form.date_format or "")) and not self._form.utc:
            found = found.tz_localize("UTC")
            found = found.tz_convert(pd.Timestamp(f"2020-01-01T00:00{offsets[0]}").tz) if offsets else found
        return self._in_utc(found[codes])

    def _digits(self, texts: pd.Series, unique: pd.Index, codes: np.ndarray, where: Where) -> pd.DatetimeIndex:
        for position, text in enumerate(unique):
            if not text.isdigit():
                first = int((codes == position).argmax())
                raise self._unreadable(f"{text!r} at {where(first)}")
        return self._numbers(texts.astype(object), where)

    def _mixed_offsets(self, found: str, first: str) -> FlowrankError:
        return FlowrankError(
            self._argument,
            expected=f"times of one time zone in {self._name!r}, as the first, {first}",
            found=found,
            todo="pass utc=True (--utc) to read them all as UTC; each then needs its offset",
        )

    def _outside(self, column: pd.Series, years: Any, where: Where) -> FlowrankError:
        years = np.asarray(years)
        position = int(((years < 1678) | (years > 2261)).argmax())
        return self._unreadable(f"{column.iloc[position]!s} at {where(position)}", outside=True)

    def _unreadable(
        self, found: str, *, missing: bool = False, outside: bool = False, text: str | None = None
    ) -> FlowrankError:
        todo = _EXAMPLE
        year = re.search(r"(?<!\d)\d{4}(?!\d)", text or "")
        if outside or (year is not None and not 1678 <= int(year[0]) <= 2261):
            found += f", which lies outside {_SPAN}"
            todo = "correct it, or leave the row out"
        elif missing:
            found += ", a missing time"
            todo = "write its time, or leave the row out"
        elif text is not None and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?(\.\d+)?(\s?[ap]m)?", text, re.IGNORECASE):
            found += ", a time of a day without a date"
            todo = f"add the date, or {_IN_ORDER}"
        elif text is not None and re.fullmatch(r"[2-7]\d{4}\.\d+", text):
            found += ", like a serial number of Excel"
            todo = "write dates"
        elif self._form.date_format is not None:
            return FlowrankError(
                self._argument,
                expected=f"dates of the format {self._form.date_format!r} in {self._name!r}",
                found=found,
                todo="correct it, or the format (date_format=, --date-format)",
            )
        else:
            todo += ", or pass their format (date_format=, --date-format)"
        order = ORDERS.get((self._orders or [""])[0], "")
        shown = f" (each {order}, as {self._evidence} shows)" if self._evidence else ""
        return FlowrankError(
            self._argument,
            expected=f"dates or times of one format in {self._name!r}{shown}",
            found=found + (", unlike those before it" if shown else ""),
            todo=todo,
        )


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


def _plain(column: Any) -> pd.Series:
    column = pd.Series(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pd.ArrowDtype):
        import pyarrow as pa

        column = pa.array(column).to_pandas()
    return column


def _texts(column: pd.Series, kind: str | None = None) -> pd.Series | None:
    """The column if it holds texts, else None."""
    if pd.api.types.is_object_dtype(column.dtype):
        kind = kind or pd.api.types.infer_dtype(column, skipna=True)
        return column if kind == "string" else None
    return column if pd.api.types.is_string_dtype(column.dtype) else None


def _stripped(texts: pd.Series) -> pd.Series:
    """Texts without spaces around them; missing where they are words for that."""
    known = pd.unique(texts)
    odd = [one for one in known if isinstance(one, str) and (one != one.strip() or one.lower() in _MISSING)]
    if not odd:
        return texts.astype(object)
    stripped = texts.astype(object).str.strip()
    return stripped.where(~stripped.str.lower().isin(_MISSING), None)


def _offsets(texts: pd.Index) -> tuple[list[str | None] | None, int]:
    """The offsets from UTC of texts, None if they have none, and the position of the first unlike that of the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    has = pc.match_substring_regex(pa.array(texts, type=pa.string()), OFFSET).to_numpy(zero_copy_only=False)
    if not has.any():
        return None, -1
    found: list[str | None] = [None] * len(texts)
    for position in np.flatnonzero(has):
        match = re.search(OFFSET, texts[position])
        assert match is not None
        sign = match[1]
        bare = sign.replace(":", "")
        found[position] = "+00:00" if sign in ("Z", "UTC", "GMT") else f"{bare[:3]}:{bare[3:] or '00'}"
    return found, next((position for position, one in enumerate(found) if one != found[0]), -1)


def _odd_one(column: pd.Series) -> int:
    """The first value that is of another kind than the first value."""
    kinds = [type(value) for value in column]
    return next((position for position, kind in enumerate(kinds) if kind is not kinds[0]), 0)
