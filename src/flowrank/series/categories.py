"""Covariates that are texts or booleans: each text is a category."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.ids import plain
from flowrank.series.numbers import MISSING_WORDS, as_numbers

UNKNOWN = -1.0
"""Code of a category that the table did not have where the categories were found."""
_BOOLEANS = {"true": "True", "false": "False"}


class CategoryFinder:
    """Finds out whether a column holds numbers or categories, and which categories.

    A column with a number in it is one of numbers: texts in it are refused where it is read. Texts, booleans and what a
    table declares as a category are categories.

    Parameters
    ----------
    decimal, thousands
        The marks in numbers that are texts; None: a point, and none.

    Examples
    --------
    >>> finder = CategoryFinder()
    >>> finder.note(pd.Series(["rain", "sun", None]))
    False
    >>> finder.found
    ('rain', 'sun')
    >>> finder.note(pd.Series(["rain", "1.5"])), finder.found
    (True, None)
    """

    def __init__(self, decimal: str | None = None, thousands: str | None = None) -> None:
        self._marks: dict[str, Any] = {"decimal": decimal, "thousands": thousands}
        self._words: set[str] = set()
        self._numbers = False

    @property
    def found(self) -> tuple[str, ...] | None:
        """The categories, sorted; None for a column of numbers, or of nothing."""
        return None if self._numbers or not self._words else tuple(sorted(self._words))

    def note(self, column: pd.Series) -> bool:
        """Take note of a piece of the column; whether it is known to be one of numbers."""
        if self._numbers:
            return True
        declared = isinstance(column.dtype, pd.CategoricalDtype)
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            self._numbers = bool(column.notna().any())
            return self._numbers
        for value, word in _words(column)[1]:
            if word is None or word in self._words:
                continue
            if not declared and self.is_number(value):
                self._numbers = True
                break
            self._words.add(word)
        return self._numbers

    def is_number(self, value: Any) -> bool:
        """Whether a value that is not missing is to be read as a number: all but booleans and other texts are."""
        if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
            return False
        if isinstance(value, (bool, np.bool_)):
            return False
        if not isinstance(value, str):
            return True  # what is neither, reading refuses
        try:
            as_numbers(pd.Series([value], dtype=object), argument="series", where=str, **self._marks)
        except FlowrankError:
            return False
        return True


def as_codes(
    column: pd.Series, categories: tuple[str, ...], *, argument: str, where: Callable[[int], str], name: Any
) -> np.ndarray:
    """Turn a column of categories into their places among ``categories``; NaN where missing, `UNKNOWN` for another.

    Raises
    ------
    FlowrankError
        If a value is a number.

    Examples
    --------
    >>> column = pd.Series(["sun", None, "hail"])
    >>> as_codes(column, ("rain", "sun"), argument="series", where="row {}".format, name="sky")
    array([ 1., nan, -1.])
    """
    places = {word: float(place) for place, word in enumerate(categories)}
    codes, words = _words(column)
    declared = isinstance(column.dtype, pd.CategoricalDtype)
    finder = CategoryFinder()
    for number, (value, word) in enumerate(words):
        if word is not None and word not in places and not declared and finder.is_number(value):
            raise FlowrankError(
                argument,
                expected=f"categories in {name!r}, as {', '.join(map(repr, categories[:3]))}",
                found=f"{value!r} at {where(int((codes == number).argmax()))}",
                todo="write the column as in the history",
            )
    known = [np.nan if word is None else places.get(word, UNKNOWN) for _, word in words]
    return np.array([*known, np.nan])[codes]  # the last place, -1, stands for a missing value


def _words(column: pd.Series) -> tuple[np.ndarray, list[tuple[Any, str | None]]]:
    """Return a number for each row (-1: missing), and by number the value and the category it is; None: missing."""
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column.dtype):
        column = column.astype(object)
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) != "string":
        column = column.map(_distinct)  # True equals 1
    codes, uniques = pd.factorize(column)
    return codes, [(value, _word(value)) for value in map(plain, uniques)]


def _distinct(value: Any) -> Any:
    return str(value) if isinstance(value, (bool, np.bool_)) else value


def _word(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers turn into floats where some are missing
    text = str(value).strip()
    return None if text.lower() in MISSING_WORDS else _BOOLEANS.get(text.lower(), text)
