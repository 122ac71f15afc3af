"""Texts of dates: the formats that they can have."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd

_TIME = (
    r"(?P<tail>(?P<gap>T|\s+)(?P<hour>\d{1,2}):\d{2}(?P<seconds>:\d{2}(?P<fraction>\.\d{1,9})?)?"
    r"(?P<half>\s?[AaPp][Mm])?(?P<zone>\s?(?:Z|[+-]\d{2}:?\d{2}))?)?$"
)
_WEEKDAY = r"(?P<weekday>(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*)(?P<pause>,?\s+)"
_NUMERIC = re.compile(
    r"(?P<a>\d{1,4})(?P<first>[-/.]\s?|\s)(?P<b>\d{1,2})(?P<second>[-/.]\s?|\s)(?P<c>\d{4}|\d{1,2})" + _TIME
)
_DAY_NAME = re.compile(
    rf"(?:{_WEEKDAY})?"
    + r"(?P<a>\d{1,2})(?P<first>[-/. ]+)(?P<name>[A-Za-z]{3,9})(?P<second>[-/., ]+)(?P<c>\d{4}|\d{2})"
    + _TIME
)
_NAME_DAY = re.compile(
    rf"(?:{_WEEKDAY})?" + r"(?P<name>[A-Za-z]{3,9})(?P<first>\.?\s)(?P<a>\d{1,2})(?P<second>,?\s)(?P<c>\d{4})" + _TIME
)
_YEAR_NAME = re.compile(r"(?P<a>\d{4})(?P<first>[-/. ])(?P<name>[A-Za-z]{3,9})(?P<second>[-/. ])(?P<c>\d{1,2})" + _TIME)
_MONTH = re.compile(r"(?P<b>\d{1,2})(?P<first>[-/.])(?P<c>\d{4})$")
_NAME_YEAR = re.compile(r"(?P<name>[A-Za-z]{3,9})(?P<first>[-/. ]+)(?P<c>\d{4}|\d{2})$")
_SPECIAL = {
    "quarter": re.compile(r"\d{4}[- ]?Q[1-4]$"),
    "week": re.compile(r"\d{4}-?W\d{2}$"),
    "%YM%m": re.compile(r"\d{4}M\d{2}$"),
}
_ISO = re.compile(r"\d{4}(?:$|[-/. ]\d{1,2}(?:$|[-/. ]\d{1,2}(?:$|[T ]))|\d{4}T?\d)")
OFFSET = r"(?:[T ]\d{2}|:\d{2}(?:\.\d+)?)\s?(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
"""Pattern of a text that ends in an offset from UTC."""

ORDERS = {
    "dmy": "day-month-year",
    "mdy": "month-day-year",
    "ymd": "year-month-day",
    "my": "month-year",
    "md": "month-day without a year",
}
"""Orders of day, month and year."""


def is_iso(text: str) -> bool:
    """Whether a text is a date that begins with the year.

    Examples
    --------
    >>> is_iso("2024-01-31T10:00"), is_iso("2024/01/31"), is_iso("31/01/2024"), is_iso("2024-Mar-01")
    (True, True, False, False)
    """
    return _ISO.match(text) is not None


def orders_of(text: str) -> list[str]:
    """Return the orders in which the parts of a date may be; one that is empty if only one is possible.

    Examples
    --------
    >>> orders_of("01/02/2024"), orders_of("01-02-24"), orders_of("1 Feb 2024"), orders_of("Mar-24")
    (['dmy', 'mdy'], ['dmy', 'mdy', 'ymd'], [''], ['my', 'md'])
    """
    parts = _NUMERIC.match(text)
    if parts is not None and len(parts["a"]) <= 2:
        short = len(parts["a"]) == len(parts["c"]) == 2 and parts["first"] == "-"
        return ["dmy", "mdy", "ymd"] if short else ["dmy", "mdy"]
    named = _NAME_YEAR.match(text)
    return ["my", "md"] if named is not None and len(named["c"]) == 2 else [""]


def format_of(text: str, order: str) -> str | None:
    """Return the format that a date in the given order has, None if it has none.

    Examples
    --------
    >>> format_of("5/3/2024 10:00", "dmy"), format_of("Mar 5, 2024", ""), format_of("10:00", "")
    ('%d/%m/%Y %H:%M', '%b %d, %Y', None)
    """
    for name, pattern in _SPECIAL.items():
        if pattern.match(text):
            return name
    parts = _NUMERIC.match(text)
    if parts is not None:
        if len(parts["a"]) == 4:
            signs = ("%Y", "%m", "%d") if len(parts["c"]) <= 2 else None
        elif len(parts["a"]) == 3:
            signs = None
        else:
            year = "%Y" if len(parts["c"]) == 4 else "%y"
            signs = {"dmy": ("%d", "%m", year), "mdy": ("%m", "%d", year), "ymd": ("%y", "%m", "%d")}.get(order)
            if len(parts["c"]) == 1:
                signs = None
        return (
            None if signs is None else signs[0] + parts["first"] + signs[1] + parts["second"] + signs[2] + _tail(parts)
        )
    for pattern, a, c in ((_DAY_NAME, "%d", ""), (_NAME_DAY, "%d", ""), (_YEAR_NAME, "%Y", "%d")):
        parts = pattern.match(text)
        if parts is not None:
            name = _name(parts["name"])
            last = c or ("%Y" if len(parts["c"]) == 4 else "%y")
            weekday = ""
            if parts.groupdict().get("weekday"):
                weekday = ("%a" if len(parts["weekday"]) == 3 else "%A") + parts["pause"]
            middle = (name, a) if pattern is _NAME_DAY else (a, name)
            return weekday + middle[0] + parts["first"] + middle[1] + parts["second"] + last + _tail(parts)
    parts = _MONTH.match(text)
    if parts is not None:
        return f"%m{parts['first']}%Y"
    parts = _NAME_YEAR.match(text)
    if parts is not None:
        last = "%Y" if len(parts["c"]) == 4 else "%y"
        return _name(parts["name"]) + parts["first"] + ("%d" if order == "md" else last)
    return None


def _name(word: str) -> str:
    return "%b" if len(word) == 3 else "%B"


def _tail(parts: re.Match[str]) -> str:
    if parts["tail"] is None:
        return ""
    seconds = "" if parts["seconds"] is None else ":%S" + (".%f" if parts["fraction"] else "")
    half = "" if parts["half"] is None else (" " if parts["half"][0] == " " else "") + "%p"
    zone = "" if parts["zone"] is None else (" " if parts["zone"][0] == " " else "") + "%z"
    return parts["gap"] + ("%I" if half else "%H") + ":%M" + seconds + half + zone


def parse(texts: pd.Index, text_format: str) -> np.ndarray:
    """Return the times of texts of one format, in UTC or as they stand, shape ``(texts,)``; NaT where they have none.

    Examples
    --------
    >>> parse(pd.Index(["2024Q2", "x"]), "quarter")
    array(['2024-04-01T00:00:00.000000000',                           'NaT'],
          dtype='datetime64[ns]')
    """
    if text_format in _SPECIAL:
        fits = np.array([_SPECIAL[text_format].match(text) is not None for text in texts], dtype=bool)
        found = np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[ns]")
        chosen = texts[fits]
        if text_format == "quarter":
            bare = [text.replace("-", "").replace(" ", "") for text in chosen]
            found[fits] = pd.PeriodIndex(bare, freq="Q").start_time.as_unit("ns").to_numpy() if bare else []
        elif text_format == "week":
            mondays = [f"{text[:4]}-W{text[-2:]}-1" for text in chosen]
            found[fits] = _coerced(pd.Index(mondays, dtype=object), "%G-W%V-%u")
        else:
            found[fits] = _coerced(chosen, text_format)
        return found
    return _coerced(texts, text_format)


def _coerced(texts: pd.Index, text_format: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = pd.to_datetime(texts, format=text_format, errors="coerce", utc=True)
        except (ValueError, TypeError, OverflowError):  # a format that pandas does not know
            return np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[ns]")
    inside = pd.DatetimeIndex(found).tz_localize(None)
    years = inside.year
    with np.errstate(invalid="ignore"):
        outside = np.asarray((years < 1678) | (years > 2261))
    if outside.any():
        inside = inside.where(~outside)
    return inside.as_unit("ns").to_numpy()


def in_formats(texts: pd.Index, order: str, *, iso: bool) -> np.ndarray:
    """Return the times of texts whose parts have one order, shape ``(texts,)``; NaT where they have none.

    Examples
    --------
    >>> in_formats(pd.Index(["5/3/2024", "5/3/2024 10:00", "13/13/2024"]), "dmy", iso=False).astype("datetime64[m]")
    array(['2024-03-05T00:00', '2024-03-05T10:00',              'NaT'],
          dtype='datetime64[m]')
    """
    found = np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[ns]")
    left = np.arange(len(texts))
    if iso:
        found = parse(texts, "ISO8601")
        left = np.flatnonzero(np.isnat(found))
    tried: set[str | None] = {None}
    while len(left):
        text = texts[left[0]]
        text_format = format_of(text, order) if is_iso(text) == iso else None
        if text_format in tried:
            left = left[1:]
            continue
        tried.add(text_format)
        assert text_format is not None
        times = parse(texts[left], text_format)
        read = ~np.isnat(times)
        found[left[read]] = times[read]
        left = left[~read]
    return found
