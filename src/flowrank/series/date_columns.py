"""Columns of dates as they come: texts, numbers, dates of Python."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd

from flowrank.series.date_faults import Faults, Where
from flowrank.series.date_texts import OFFSET, parse
from flowrank.series.numbers import MISSING_WORDS

_PLAIN_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?")
_FORMATS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # by the number of digits


def from_numbers(column: pd.Series, faults: Faults, where: Where) -> pd.DatetimeIndex:
    """Return the times of whole numbers such as 2024, 202401 or 20240131, all of one kind.

    Raises
    ------
    FlowrankError
        If they are something else: counters, serial numbers, seconds since 1970.

    Examples
    --------
    >>> from_numbers(pd.Series([202401, 202402]), Faults("series", "month"), "row {}".format)[1]
    Timestamp('2024-02-01 00:00:00')
    """
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)  # texts of digits as well
    if np.isnan(values).any():
        position = int(np.isnan(values).argmax())
        raise faults.missing(column.iloc[position], where(position))
    whole = bool((values == np.floor(values)).all()) and float(np.abs(values).max()) < 1e15
    digits = len(str(int(abs(values[0])))) if whole else 0
    bad = 0
    if digits in _FORMATS:
        texts = pd.Index([f"{value:.0f}" for value in values], dtype=object)
        times = parse(texts, _FORMATS[digits])
        fits = ~np.isnat(times) & np.array([len(text) == digits for text in texts])
        if digits == 4:
            fits &= values < 3000
        if fits.all():
            return pd.DatetimeIndex(times)
        bad = int((~fits).argmax())
        if digits == 4 and 1000 <= values[bad] < 3000:
            raise faults.outside(column.iloc[bad], where(bad))
    raise faults.number(column.iloc[bad], where(bad), digits)


def from_objects(column: pd.Series, faults: Faults, where: Where, *, utc: bool) -> pd.DatetimeIndex:
    """Return the times of dates of Python, all of one time zone, or, with ``utc``, each of its own.

    Raises
    ------
    FlowrankError
        If one is missing, out of reach, or of another zone than the first.
    """
    missing = column.isna().to_numpy()
    if missing.any():
        position = int(missing.argmax())
        raise faults.missing(column.iloc[position], where(position))
    years = [pd.Timestamp(one).year if isinstance(one, np.datetime64) else one.year for one in column]
    refuse_outside(column, years, faults, where)
    zones = [str(getattr(value, "tzinfo", None)) for value in column]
    odd = next((position for position, zone in enumerate(zones) if zone != zones[0]), None)
    if odd is not None and (not utc or "None" in zones):
        raise faults.mixed_offsets(f"{column.iloc[odd]!s} at {where(odd)}", f"{column.iloc[0]!s}")
    return pd.DatetimeIndex(pd.to_datetime(column, utc=odd is not None)).as_unit("ns")


def refuse_outside(column: pd.Series, years: Any, faults: Faults, where: Where) -> None:
    """Refuse the first time whose year nanoseconds do not reach."""
    outside = np.flatnonzero((np.asarray(years) < 1678) | (np.asarray(years) > 2261))
    if len(outside):
        raise faults.outside(column.iloc[outside[0]], where(int(outside[0])))


def plain_iso(texts: pd.Series) -> pd.DatetimeIndex | None:
    """Return the times of texts such as 2024-01-31 23:00, fast; None: some are others."""
    first = texts.iloc[0]
    if not isinstance(first, str) or _PLAIN_ISO.fullmatch(first) is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = pd.DatetimeIndex(pd.to_datetime(texts, format="ISO8601"))
    except (ValueError, TypeError, OverflowError):
        return None
    if times.tz is not None or times.hasnans or (times.unit != "ns" and not times.year.isin(range(1678, 2262)).all()):
        return None
    return times.as_unit("ns")


def plain_column(column: Any) -> pd.Series:
    """Return anything one-dimensional as a column of pandas, without categories and Arrow's types."""
    column = pd.Series(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pd.ArrowDtype):
        import pyarrow as pa

        column = pa.array(column).to_pandas()
    return column


def texts_of(column: pd.Series, kind: str | None = None) -> pd.Series | None:
    """Return the column if it holds texts, else None."""
    if pd.api.types.is_object_dtype(column.dtype):
        kind = kind or pd.api.types.infer_dtype(column, skipna=True)
        return column if kind == "string" else None
    return column if pd.api.types.is_string_dtype(column.dtype) else None


def stripped(texts: pd.Series) -> pd.Series:
    """Return texts without spaces around them; missing where they are words for that."""
    known = pd.unique(texts)
    odd = [one for one in known if isinstance(one, str) and (one != one.strip() or one.lower() in MISSING_WORDS)]
    if not odd:
        return texts.astype(object)
    bare = texts.astype(object).str.strip()
    return bare.where(~bare.str.lower().isin(MISSING_WORDS), None)


def offsets_of(texts: pd.Index) -> tuple[list[str | None] | None, int]:
    """Return the offsets from UTC of texts, None if they have none; and the position of the first that is another."""
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


def odd_one(column: pd.Series) -> int:
    """Return the position of the first value that is of another kind than the first value."""
    kinds = [type(value) for value in column]
    return next((position for position, kind in enumerate(kinds) if kind is not kinds[0]), 0)
