"""Dates and times of a column, read one way for the whole column or refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.date_order import ORDERS, DateReading, OrderOfDates, needs_order, parts_of

_FIRST, _LAST = 1678, 2261  # whole years that nanoseconds reach
_TIME_ALONE = re.compile(r"^\s*T?\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([ap]\.?m\.?)?\s*$", re.IGNORECASE)
_OFFSET = r"(?<=[\d ])(Z|[+-]\d{2}(?::?\d{2})?)\s*$"
_ISO = re.compile(r"^\s*\d{4}-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?)?\s*$")  # without a UTC offset
_SURE = re.compile(r"^\s*\d{4}(?!\d)|(?=.*(?<!\d)\d{4}(?!\d)).*[A-Za-z]{3}")  # year first, or a year and a month's name
_ISO_WEEK = re.compile(r"^\s*(\d{4})-?W(\d{2})\s*$")
_NUMBERS = {  # integers that are no dates by themselves
    "days of a spreadsheet": (range(20_000, 80_000), "unit='D', origin='1899-12-30'"),
    "seconds since 1970": (range(10**8, 10**10), "unit='s'"),
    "milliseconds since 1970": (range(10**11, 10**13), "unit='ms'"),
    "microseconds since 1970": (range(10**14, 10**16), "unit='us'"),
    "nanoseconds since 1970": (range(10**17, 10**19), "unit='ns'"),
}


def as_timestamps(
    column: Any,
    *,
    argument: str,
    where: Callable[[int], str],
    name: str,
    reading: DateReading | None = None,
    whole: bool = True,
) -> pd.DatetimeIndex:
    """Turn a column of dates, times or texts into time stamps of nanoseconds, shape ``(rows,)``.

    Integers from 1678 to 2261 are years, of six digits months (202401) and of eight days (20240131).

    Parameters
    ----------
    reading
        What is known of the texts; None: nothing.
    whole
        Whether the column is all there is, so that the order of day and month may be found out from it.

    Raises
    ------
    FlowrankError
        If one is missing, cannot be read, can be read in two ways, has another UTC offset than the first, or lies
        outside the years 1678 to 2261.

    Examples
    --------
    >>> texts = ["2020-01-01", "2020-01-01 12:00"]
    >>> as_timestamps(texts, argument="series", where="row {}".format, name="t")[1]
    Timestamp('2020-01-01 12:00:00')
    """
    reading = DateReading() if reading is None else reading
    given = pd.Series(column)
    column = given
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.start_time

    def refuse(position: int, expected: str, found: str, todo: str) -> FlowrankError:
        return FlowrankError(argument, expected=expected, found=f"{found} at {where(position)}", todo=todo)

    if _is_whole_numbers(column):
        column = _from_integers(column, refuse, name)
    elif pd.api.types.is_numeric_dtype(column.dtype):
        raise refuse(
            0,
            f"dates or times in {name!r}",
            f"{column.dtype} values",
            "convert them (pandas.to_datetime), or pass timestamp_column=None for rows in order of time",
        )
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.ArrowDtype):
        times = column
    else:
        times = _from_texts(column, reading, refuse, argument, name, where, whole)
    return _in_nanoseconds(times, given, reading, refuse, name)


def _is_whole_numbers(column: pd.Series) -> bool:
    if pd.api.types.is_integer_dtype(column.dtype):
        return True
    if column.dtype != object or not len(column):
        return False
    return all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in column)


def _from_integers(column: pd.Series, refuse: Any, name: str) -> pd.Series:
    """Years, months (202401) and days (20240131); all else is refused with what it may be."""
    missing = column.isna().to_numpy()
    numbers = column.fillna(0).to_numpy(dtype=np.int64)
    known = numbers[~missing]
    texts = pd.Series(numbers).astype(str).where(~missing, None)
    if len(known) and ((known >= _FIRST) & (known <= _LAST)).all():
        return texts.map(lambda text: None if text is None else f"{text}-01-01", na_action="ignore")
    if (
        len(known)
        and ((known // 100 >= _FIRST) & (known // 100 <= _LAST) & (known % 100 >= 1) & (known % 100 <= 12)).all()
    ):
        return texts.map(lambda text: f"{text[:4]}-{text[4:]}-01", na_action="ignore")
    if len(known) and ((known // 10_000 >= _FIRST) & (known // 10_000 <= _LAST)).all():
        return texts.map(lambda text: f"{text[:4]}-{text[4:6]}-{text[6:]}", na_action="ignore")
    first = int(known[0]) if len(known) else 0
    todo = "convert them (pandas.to_datetime), or pass timestamp_column=None for rows in order of time"
    for kind, (numbers_of_kind, unit) in _NUMBERS.items():
        if len(known) and known.min() >= numbers_of_kind.start and known.max() < numbers_of_kind.stop:
            todo = f"if they are {kind}, convert them: pandas.to_datetime(…, {unit})"
            break
    raise refuse(0, f"dates or times in {name!r}", f"the number {first}", todo)


def _from_texts(
    column: pd.Series,
    reading: DateReading,
    refuse: Any,
    argument: str,
    name: str,
    where: Callable[[int], str],
    whole: bool,
) -> pd.Series:
    """Time stamps of texts and of Python's own dates; NaT where one cannot be read."""
    if reading.date_format is None and len(column) and _is_plain_iso(column.iloc[0]):
        try:  # nearly always, and fast
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return pd.Series(pd.to_datetime(column, format="ISO8601", utc=reading.utc))
        except (ValueError, TypeError, OverflowError):
            pass
    for position, value in enumerate(column):
        if isinstance(value, str) and _TIME_ALONE.match(value):
            raise refuse(
                position,
                f"dates, or dates and times, in {name!r}",
                f"{value!r}, a time without a date,",
                "add the date, or pass timestamp_column=None for rows in order of time",
            )
        if value is not None and value == value:
            break
    texts = column.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool)
    if reading.date_format is not None and texts.any():
        return _quietly(column, format=reading.date_format, utc=reading.utc)
    if not texts.any():
        return _of_one_zone(column, reading, refuse, name)
    digits = column.map(lambda value: isinstance(value, str) and value.strip().isdigit()).to_numpy(dtype=bool)
    if digits[texts].all():
        numbers = column.map(lambda value: int(value) if isinstance(value, str) else None).astype("Int64")
        return _quietly(_from_integers(numbers, refuse, name), format="ISO8601", utc=reading.utc)
    _refuse_other_offsets(column, texts, reading, refuse, name)
    found = _quietly(column, format="ISO8601", utc=reading.utc)
    if found.notna().to_numpy()[~column.isna().to_numpy()].all() and not column.map(needs_order).any():
        return found
    parts = parts_of(column)
    if parts is not None and parts[0].notna().to_numpy()[texts].any():
        if reading.day_first is None and whole:
            order = OrderOfDates(argument, name)
            order.add(column, where)
            reading = order.decided(reading)
        return _from_parts(column, parts, reading)
    weeks = column.map(lambda text: _ISO_WEEK.match(text) if isinstance(text, str) else None)
    if weeks.notna().to_numpy()[texts].all():
        monday = weeks.map(lambda found: f"{found.group(1)}-W{found.group(2)}-1", na_action="ignore")
        return _quietly(monday, format="%G-W%V-%u")
    first = column[texts].iloc[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guessed = pd.tseries.api.guess_datetime_format(first)
    if guessed is not None and ("%Y" in guessed or "%y" in guessed):
        found = _quietly(column, format=guessed, utc=reading.utc)
        if found.notna().sum() == column.notna().sum():
            return found
    # Of a text without a year, today's would be taken; of numbers alone, an order of day and month.
    complete = column.map(lambda value: not isinstance(value, str) or _SURE.search(value) is not None).astype(bool)
    return _quietly(column.where(complete, "?"), format="mixed", utc=reading.utc)


def _is_plain_iso(value: Any) -> bool:
    return isinstance(value, str) and _ISO.match(value) is not None


def _from_parts(column: pd.Series, parts: pd.DataFrame, reading: DateReading) -> pd.Series:
    """Time stamps of dates that are three numbers, in the order that is known; NaT for all others."""
    long_first = parts[0].str.len() == 4
    order = ORDERS["DMY" if reading.day_first else "MDY" if reading.day_first is not None else "YMD"]
    numbers = [parts[i] for i in (0, 2, 3)]
    year, month, day = (numbers[i] for i in order)
    year, month, day = (
        year.where(~long_first, parts[0]),
        month.where(~long_first, parts[2]),
        day.where(~long_first, parts[3]),
    )
    short = year.str.len() == 2
    century = ("20" + year).where(pd.to_numeric(year, errors="coerce") < 69, "19" + year)  # as strptime's %y
    date = year.where(~short, century) + "-" + month.str.zfill(2) + "-" + day.str.zfill(2)
    times = parts[4].fillna("").str.strip()
    whole = date.where(times == "", date + " " + times).astype(object)
    whole = whole.where(whole.notna(), column.where(column.isna(), "?"))
    found = _quietly(whole, format="ISO8601", utc=reading.utc)
    return found if found.notna().sum() == whole.notna().sum() else _quietly(whole, format="mixed", utc=reading.utc)


def _refuse_other_offsets(column: pd.Series, texts: np.ndarray, reading: DateReading, refuse: Any, name: str) -> None:
    if reading.utc:
        return
    timed = column[texts].astype(str).str.contains(":", regex=False)
    offsets = column[texts].astype(str).str.extract(_OFFSET)[0].where(timed).fillna("").replace({"Z": "+00:00"})
    offsets = offsets.str.replace(":", "", regex=False)
    if offsets.nunique() <= 1:
        return
    position = int((offsets != offsets.iloc[0]).to_numpy().argmax())
    place = int(np.flatnonzero(texts)[position])
    raise refuse(
        place,
        f"times of one UTC offset in {name!r} (the first has {offsets.iloc[0] or 'none'})",
        repr(column.iloc[place]),
        "pass --utc (utc=True) to read them as UTC, or write local times without an offset",
    )


def _of_one_zone(column: pd.Series, reading: DateReading, refuse: Any, name: str) -> pd.Series:
    """Time stamps of Python's dates and times."""
    if not reading.utc:
        zones = [str(getattr(value, "tzinfo", None)) for value in column]
        for position, zone in enumerate(zones):
            if zone != zones[0] and not pd.isna(column.iloc[position]) and not pd.isna(column.iloc[0]):
                raise refuse(
                    position,
                    f"times of one time zone in {name!r} (the first has {zones[0]})",
                    repr(column.iloc[position]),
                    "pass --utc (utc=True) to read them as UTC",
                )
    return _quietly(column, utc=reading.utc)


def _quietly(column: pd.Series, **options: Any) -> pd.Series:
    """``pandas.to_datetime`` with NaT for what cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pd.Series(pd.to_datetime(column, errors="coerce", **options))
        except (ValueError, TypeError, OverflowError):
            return pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns]")


def _in_nanoseconds(
    times: pd.Series, given: pd.Series, reading: DateReading, refuse: Any, name: str
) -> pd.DatetimeIndex:
    try:
        index = pd.DatetimeIndex(times)
    except (ValueError, TypeError, OverflowError):
        index = pd.DatetimeIndex(_quietly(given))
    years = np.asarray(index.year)
    outside = np.flatnonzero(~index.isna() & ((years < _FIRST) | (years > _LAST)))
    if not len(outside):
        outside = np.array([i for i in np.flatnonzero(index.isna()) if _is_far(given.iloc[i])], dtype=int)
    if len(outside):
        position = int(outside[0])
        raise refuse(
            position,
            f"dates of the years {_FIRST} to {_LAST} in {name!r}",
            f"{_plain(given.iloc[position])}, which lies outside the years {_FIRST} to {_LAST},",
            "correct it, or leave the row out",
        )
    if index.hasnans:
        position = int(index.isna().argmax())
        raise refuse(
            position,
            f"dates or times of one format and time zone in {name!r}",
            _plain(given.iloc[position]),
            "write them as e.g. 2024-01-31 or 2024-01-31 23:00:00, or pass --date-format",
        )
    index = index.as_unit("ns")
    if reading.utc:
        index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    return index


def _plain(value: Any) -> str:
    return repr(str(value)) if isinstance(value, (pd.Timestamp, np.datetime64)) else repr(value)


def _is_far(value: Any) -> bool:
    """Whether a value that could not be read is a date of a year that nanoseconds do not reach."""
    if isinstance(value, str):
        years = [int(year) for year in re.findall(r"(?<!\d)\d{4}(?!\d)", value)]
        return bool(years) and not any(_FIRST <= year <= _LAST for year in years) and years[0] > 0
    year = getattr(value, "year", None)
    return isinstance(year, int) and not _FIRST <= year <= _LAST
