"""Ids of series, in the type that they came in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

_OF_ONE_KIND = {"string", "integer", "floating", "boolean", "bytes", "date", "datetime", "datetime64", "decimal"}


def plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own, which prints as a number; anything else as it is.

    Examples
    --------
    >>> plain(np.int64(7)), plain("7")
    (7, '7')
    """
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


class Known:
    """The ids seen so far: refuses two that a reader of the output could not tell apart, such as 7 and "7".

    Parameters
    ----------
    argument
        Name of the argument that errors are about.

    Examples
    --------
    >>> known = Known("series")
    >>> known.add(7, "row 0"), known.add(7, "row 1")
    (True, False)
    >>> known.add("7", "row 2")
    Traceback (most recent call last):
    ...
    flowrank.errors.FlowrankError: series: expected ids that differ as text, found '7' (str) in row 2 and 7 (int) \
before it; write the ids of a series in one type
    """

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self._found: dict[Hashable, tuple[type, Any]] = {}

    def add(self, value: Any, where: str) -> bool:
        """Take note of an id; whether it is new."""
        value = plain(value)
        mine = (type(value), value)
        new = True
        try:
            for key in {str(value), value}:  # 1.0 and True equal 1, though not as texts
                other = self._found.setdefault(key, mine)
                if other[0] is not mine[0] or other[1] != value:
                    raise FlowrankError(
                        self._argument,
                        expected="ids that differ as text",
                        found=f"{value!r} ({type(value).__name__}) in {where} and "
                        f"{other[1]!r} ({other[0].__name__}) before it",
                        todo="write the ids of a series in one type",
                    )
                new = new and other is mine
        except TypeError:
            raise self._no_id(value, where) from None
        return new

    def check(self, ids: pd.Series, rows: Sequence[int] | np.ndarray) -> None:
        """Refuse a column whose ids are alike as text only; one of a single type costs next to nothing."""
        if isinstance(ids.dtype, pd.CategoricalDtype):
            ids = ids.astype(ids.cat.categories.dtype)
        if ids.dtype != object or pd.api.types.infer_dtype(ids, skipna=True) in _OF_ONE_KIND:
            return
        for row, value in zip(rows, ids, strict=True):
            self.add(value, f"row {row}")

    def _no_id(self, value: Any, where: str) -> FlowrankError:
        return FlowrankError(
            self._argument,
            expected="ids that are one value each, such as a text or a whole number",
            found=f"a {type(value).__name__} in {where}",
            todo="for columns in a dictionary, pass pandas.DataFrame(...)",
        )


def id_column(ids: Iterable[Any], kind: Any = None) -> pd.Series:
    """Return ids as a column of the data type ``kind``, or, where they are not all of it, of what they are.

    Examples
    --------
    >>> str(id_column([7, 8], pd.Int64Dtype()).dtype), str(id_column(["a", 7]).dtype)
    ('Int64', 'object')
    """
    values = list(ids)
    if kind is not None:
        try:
            found = pd.Series(values, dtype=kind)
            if not found.isna().any():  # a category that is not among those of the type
                return found
        except (TypeError, ValueError, OverflowError):
            pass
    if len({type(value) for value in values}) > 1:
        return pd.Series(values, dtype=object)
    return pd.Series(values)


@dataclass(frozen=True)
class IdType:
    """The data type that the ids of a table have: of pandas, and of Arrow where the source has one; None: unknown.

    Examples
    --------
    >>> str(IdType(np.dtype("int32")).column([7, 8]).dtype)
    'int32'
    """

    pandas: Any = None
    arrow: Any = None

    @classmethod
    def of_field(cls, kind: Any) -> IdType:
        """Return the type of ids that Arrow holds as ``kind``."""
        import pyarrow as pa

        if pa.types.is_dictionary(kind):
            return cls("category", pa.dictionary(pa.int32(), kind.value_type))
        if isinstance(kind, pa.BaseExtensionType):
            return cls()
        return cls(pa.schema([("id", kind)]).empty_table().to_pandas()["id"].dtype, kind)

    def column(self, ids: Iterable[Any]) -> pd.Series:
        """Return ids as a column of this type, or, where they are not all of it, of what they are."""
        return id_column(ids, None if self.pandas == np.dtype(object) else self.pandas)
