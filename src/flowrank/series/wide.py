"""Wide tables: a column for each series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns
from flowrank.series.ids import Known


@dataclass(frozen=True)
class WideTable:
    """A table with a column for each series, and perhaps one of times, that reads as a long one.

    A series begins with its first value: what is missing above belongs to the other columns.

    Parameters
    ----------
    load
        Gives the table.
    columns
        Of the long table: its names of ids and values are made up; that of times is the wide one's too.

    Examples
    --------
    >>> frame = pd.DataFrame({"timestamp": ["2024-01-01", "2024-01-02"], "A": [1, 2], "B": [None, 4]})
    >>> for piece in WideTable(lambda: frame, Columns()).pieces(["item_id", "target"]):
    ...     print(piece.to_dict("list"), list(piece.index))
    {'item_id': ['A', 'A'], 'target': [1, 2]} [0, 1]
    {'item_id': ['B'], 'target': [4.0]} [1]
    """

    load: Callable[[], pd.DataFrame]
    columns: Columns

    def pieces(self, names: list[Any]) -> Iterator[pd.DataFrame]:
        """Yield a long data frame for each column; its index has the numbers of the rows."""
        frame = self.load()
        time = self.columns.timestamp_column
        times = None if time is None else frame[time].reset_index(drop=True)
        rows = np.arange(len(frame))
        for name in frame.columns:
            if name == time and time is not None:
                continue
            values = frame[name].reset_index(drop=True)
            given = values.notna().to_numpy()
            first = int(given.argmax()) if given.any() else 0
            made = {
                self.columns.id_column: pd.Series([name] * (len(frame) - first), rows[first:], dtype=object),
                self.columns.target: values.iloc[first:],
            }
            if times is not None:
                made[time] = times.iloc[first:]
            yield pd.DataFrame({one: made[one] for one in names}, index=rows[first:])


def wide_columns(found: Sequence[Any], columns: Columns, *, argument: str) -> Columns:
    """Return what the long table's columns are called, or refuse a table that is not wide.

    Examples
    --------
    >>> wide_columns(["timestamp", "A", "B"], Columns(), argument="series").needed
    ['item_id', 'timestamp', 'target']
    """
    names, time = list(found), columns.timestamp_column
    series = [name for name in names if time is None or name != time]
    repeated = [name for name in names if names.count(name) > 1]
    nameless = [name for name in series if name is None or str(name).strip() == "" or str(name).startswith("Unnamed: ")]
    fault = ""
    if time is not None and time not in names:
        fault = f"no column of times {time!r} among {', '.join(map(repr, names[:20]))}"
    elif columns.id_column is not None and columns.id_column in names:
        fault = f"a column of ids {columns.id_column!r}, as of a long table"
    elif repeated:
        fault = f"the column {repeated[0]!r} {names.count(repeated[0])} times"
    elif nameless:
        fault = f"a column without a name (number {names.index(nameless[0]) + 1})"
    elif not series:
        fault = "no column but the times"
    if fault:
        raise FlowrankError(
            argument,
            expected="a wide table: a column for each series, with its name, and one of times",
            found=fault,
            todo="name the times with timestamp_column= (None: there are none), remove columns that are no series, or "
            "leave out wide (--wide)",
        )
    known = Known(argument)
    for number, name in enumerate(series):
        known.add(name, f"the name of column {number + 1}")
    ids, target = columns.id_column, columns.target
    return replace(columns, id_column="item_id" if ids is None else ids, target="target" if target == time else target)


def load_of(pieces: Callable[[list[str]], Iterator[pd.DataFrame]], names: list[str]) -> Callable[[], pd.DataFrame]:
    """Return what loads a whole file that comes in pieces."""
    return partial(_whole, pieces, names)


def _whole(pieces: Callable[[list[str]], Iterator[pd.DataFrame]], names: list[str]) -> pd.DataFrame:
    return pd.concat(list(pieces(names)), ignore_index=True)
