"""Numbers of a column, in whatever type or notation they come."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "nat"})
"""Texts (in lower case, stripped) that stand for a missing value in a text column."""
_SPACES = "[ \u00a0\u2009\u202f]"  # a space, and those of no break or little width, are one mark of thousands
_BOOLEANS = {"true": 1.0, "false": 0.0}


def as_numbers(
    column: Any,
    *,
    argument: str,
    where: Callable[[int], str],
    name: str = "target",
    decimal: str | None = None,
    thousands: str | None = None,
    otherwise: str = "choose the column of values with target=",
) -> np.ndarray:
    """Turn a column of numbers, booleans or texts that are numbers into float64.

    Parameters
    ----------
    column
        Anything one-dimensional: a pandas column, an array, a tensor, a list. Shape ``(rows,)``.
    argument
        Name of the argument that an error is about.
    where
        From a position in the column to words that say where it is, for errors.
    name
        Name of the column, for errors.
    decimal, thousands
        The marks in texts, as in 1.234,5; None: a point, and none.
    otherwise
        What to do about a text that is no number, other than to correct it.

    Returns
    -------
    np.ndarray
        Shape ``(rows,)``, float64, NaN where the value is missing, never infinite.

    Raises
    ------
    FlowrankError
        If a value is not a number, or infinite.

    Examples
    --------
    >>> as_numbers(["1", None, True], argument="series", where="position {}".format)
    array([ 1., nan,  1.])
    """
    if not isinstance(column, pd.Series):
        if hasattr(column, "detach"):  # a torch tensor, of any device and dtype
            column = column.detach().cpu().double().numpy()
        if not isinstance(column, np.ndarray):
            column = _array(column, argument=argument, where=where, name=name)
        if column.ndim != 1:
            raise FlowrankError(
                argument,
                expected=f"one-dimensional values in {name!r}",
                found=f"shape {tuple(column.shape)} at {where(0)}",
                todo="pass one series for each variable",
            )
        if column.dtype.kind not in "biuf":  # making a column takes ten times as long as reading an array
            column = pd.Series(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column, np.ndarray):
        numbers = np.asarray(column, np.float64)
    elif pd.api.types.is_bool_dtype(column.dtype) or (
        pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype)
    ):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
        numbers = _numbers_in_text(
            column, decimal or ".", thousands, argument=argument, where=where, name=name, otherwise=otherwise
        )
    else:
        raise FlowrankError(
            argument,
            expected=f"numbers in {name!r}",
            found=f"{column.dtype} at {where(0)}",
            todo=otherwise,
        )
    infinite = np.isinf(numbers)
    if infinite.any():
        raise FlowrankError(
            argument,
            expected=f"finite values in {name!r}",
            found=f"an infinite value at {where(int(infinite.argmax()))}",
            todo="correct it, or make it missing (NaN)",
        )
    return numbers


def _array(values: Any, *, argument: str, where: Callable[[int], str], name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise FlowrankError(
            argument, expected=f"one-dimensional values in {name!r}", found=f"nested lists at {where(0)}"
        ) from error


def _numbers_in_text(
    column: pd.Series,
    decimal: str,
    thousands: str | None,
    *,
    argument: str,
    where: Callable[[int], str],
    name: str,
    otherwise: str,
) -> np.ndarray:
    import pyarrow as pa

    if decimal == "." and thousands is None:
        try:  # correctly rounded, and fast; all that it does not know is left to the loop below
            return (
                pa.array(column, type=pa.string(), from_pandas=True).cast(pa.float64()).to_numpy(zero_copy_only=False)
            )
        except (pa.ArrowException, TypeError, ValueError):
            pass
    mark = None if thousands is None else _SPACES if re.fullmatch(_SPACES, thousands) else re.escape(thousands)
    pattern = _pattern(decimal, mark)
    numbers = np.full(len(column), np.nan)
    for position, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        word = value.strip().lower() if isinstance(value, str) else value
        if missing or (isinstance(word, str) and word in MISSING_WORDS):
            continue
        try:
            if isinstance(word, str) and word not in _BOOLEANS and not pattern.match(word):
                raise ValueError
            if isinstance(word, str) and word not in _BOOLEANS:
                word = re.sub(mark, "", word) if mark else word
                word = word.replace(decimal, ".")
            numbers[position] = _BOOLEANS[word] if word in _BOOLEANS else float(word)
        except (TypeError, ValueError):
            raise FlowrankError(
                argument,
                expected=f"numbers in {name!r}",
                found=f"{value!r} at {where(position)}",
                todo=_remedy(value, decimal, thousands, f"correct it, or {otherwise}"),
            ) from None
    return numbers


def _pattern(decimal: str, thousands: str | None) -> re.Pattern[str]:
    """What a number looks like: groups of three digits where there is a mark of thousands, which is a pattern."""
    point = re.escape(decimal)
    whole = r"\d+" if thousands is None else rf"(\d{{1,3}}({thousands}\d{{3}})+|\d+)"
    return re.compile(rf"^[+-]?(({whole}({point}\d*)?|{point}\d+)(e[+-]?\d+)?|inf(inity)?)$", re.IGNORECASE)


def _remedy(value: Any, decimal: str, thousands: str | None, general: str) -> str:
    if not isinstance(value, str):
        return general
    text = value.strip()
    if re.search(r"[€$£¥%]|[A-Za-z]{2,}$", text) and re.search(r"\d", text):
        return "write it without its sign or unit"
    found = re.match(r"^[+-]?\d{1,3}(?:([.,' \u00a0\u2009\u202f])\d{3})+(?:([.,])\d+)?$", text)
    if found is not None and (found.group(2) or found.group(1) not in ".,"):
        more = f" --decimal {found.group(2)}" if found.group(2) == "," else ""
        mark = found.group(1) if found.group(1) in ".,'" else "' '"
        return f"pass --thousands {mark}{more}"
    if re.match(r"^[+-]?\d*,\d+$", text) and decimal == ".":
        return "pass --decimal , if commas are decimal marks, or --thousands , if they part thousands"
    return general


class MarksOfNumbers:
    """Finds out whether points in a column are decimal marks or part thousands, as in 950 and 1.000.

    Parameters
    ----------
    argument, name
        Of the source and its column, for errors.

    Examples
    --------
    >>> marks = MarksOfNumbers("series", "target")
    >>> marks.add(pd.Series(["950", "1.5"]), "row {}".format)
    >>> marks.check()  # 1.5 is no thousands
    """

    def __init__(self, argument: str, name: str) -> None:
        self._argument, self._name = argument, name
        self._first: str | None = None
        self._decided = False

    def add(self, column: pd.Series, where: Callable[[int], str]) -> None:
        """Take more of the column into account."""
        if self._decided or not (column.dtype == object or pd.api.types.is_string_dtype(column.dtype)):
            return
        texts = column.astype("string").str.strip()
        dotted = texts.str.contains(".", regex=False).fillna(False).to_numpy(dtype=bool)
        grouped = texts.str.match(r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$").fillna(False).to_numpy(dtype=bool)
        self._decided = bool((dotted & ~grouped).any())
        if self._first is None and dotted.any():
            position = int(dotted.argmax())
            self._first = f"{column.iloc[position]!r} at {where(position)}"

    def check(self) -> None:
        """Refuse a column whose points can be both."""
        if self._decided or self._first is None:
            return
        raise FlowrankError(
            self._argument,
            expected=f"numbers in {self._name!r} that can be read in one way",
            found=f"{self._first}: every point in this file of semicolons has three digits after it",
            todo="pass --decimal . (decimal='.') if points are decimal marks, or --thousands . --decimal , "
            "(thousands='.', decimal=',') if they part thousands",
        )
