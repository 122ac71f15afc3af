"""One time series as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "nat"})
"""Texts (in lower case, stripped) that stand for a missing value in a text column."""
OnBad = Callable[[Any, FlowrankError], None]
"""Called with the id and the error of a series that is left out."""
_BOOLEANS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, eq=False)
class Series:
    """One univariate, regularly spaced time series.

    Parameters
    ----------
    item_id
        Name of the series, in the type that it has in its source: a text, a whole number, a date …
    target
        Values in order of time, shape ``(time,)``, float64; NaN is a missing value.
    start
        Time of the first value; None if the series has no calendar.
    freq
        pandas frequency on which ``start`` lies (``"h"``, ``"ME"``, ``"W-MON"``); None if it is not known.

    Examples
    --------
    >>> import numpy as np
    >>> series = Series("A", np.array([1.0, 2.0, np.nan]))
    >>> series.item_id, len(series)
    ('A', 3)
    """

    item_id: Any
    target: np.ndarray
    start: pd.Timestamp | None = None
    freq: str | None = None

    def __len__(self) -> int:
        return len(self.target)


def as_numbers(column: Any, *, argument: str, where: Callable[[int], str], name: str = "target") -> np.ndarray:
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
        column = pd.Series(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_bool_dtype(column.dtype) or (
        pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype)
    ):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
        numbers = _numbers_in_text(column, argument=argument, where=where, name=name)
    else:
        raise FlowrankError(
            argument,
            expected=f"numbers in {name!r}",
            found=f"{column.dtype} at {where(0)}",
            todo="choose the column of values with target=",
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


def _numbers_in_text(column: pd.Series, *, argument: str, where: Callable[[int], str], name: str) -> np.ndarray:
    import pyarrow as pa

    try:  # correctly rounded, and fast; all that it does not know is left to the loop below
        return pa.array(column, type=pa.string(), from_pandas=True).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, TypeError, ValueError):
        pass
    numbers = np.full(len(column), np.nan)
    for position, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        word = value.strip().lower() if isinstance(value, str) else value
        if missing or (isinstance(word, str) and word in MISSING_WORDS):
            continue
        try:
            numbers[position] = _BOOLEANS[word] if word in _BOOLEANS else float(word)
        except (TypeError, ValueError):
            raise FlowrankError(
                argument,
                expected=f"numbers in {name!r}",
                found=f"{value!r} at {where(position)}",
                todo="correct it, or choose the column of values with target=",
            ) from None
    return numbers
