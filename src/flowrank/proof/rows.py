"""Series out of tables in which each row is one series and its values are lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series import Series
from flowrank.series.frequency import normalize_frequency
from flowrank.series.tabular_files import ParquetFile, is_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 64  # that are in memory together
_TIMES = "timestamp"


@dataclass(frozen=True)
class Rows:
    """The series of Parquet files that have one row a series.

    Their columns are ``id`` or ``item_id``; lists of numbers of any name, each of which is a series of its own; and
    ``freq`` (texts) or ``timestamp`` (lists of times). Without ``freq``, all series have the frequency of the first
    row, as in the evaluation that the published scores come from.

    Attributes
    ----------
    name
        Of the data set, for error messages.
    files
        Paths, in order.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "toy.parquet"
    >>> times = [list(pd.date_range("2024-01-01", periods=3, freq="MS"))]
    >>> pd.DataFrame({"id": ["A"], "timestamp": times, "target": [[1.0, 2.0, 4.0]]}).to_parquet(path)
    >>> [(one.item_id, one.freq, one.target) for one in Rows("toy", (path,))]
    [('A', 'MS', array([1., 2., 4.]))]
    """

    name: str
    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Series]:
        """Series in the order of the rows; of a row with several lists, in the order of the columns.

        Raises
        ------
        FlowrankError
            If a file is no Parquet file or not whole, or lacks the columns.
        """
        fixed: str | None = None
        for file in self.files:
            table = self._opened(file)
            names = table.schema().names
            lists = [name for name in _lists(table.schema()) if name != _TIMES]
            ids = next((name for name in ("id", "item_id") if name in names), None)
            if not lists:
                raise self._refused("a column with a list of numbers in each row", f"columns: {', '.join(names)}", file)
            if "freq" not in names and fixed is None:
                fixed = self._first_frequency(table, file)
            wanted = [*lists, *([ids] if ids else []), *(["freq"] if "freq" in names else [])]
            yield from _series(table, wanted, lists, ids, fixed)

    def _opened(self, file: Path) -> ParquetFile:
        argument = f"data set {self.name!r}"
        if not is_parquet(file, argument=argument):
            raise self._refused("a Parquet file", "a text file", file)
        return ParquetFile(str(file), argument)

    def _first_frequency(self, table: ParquetFile, file: Path) -> str:
        names = table.schema().names
        if _TIMES not in names:
            raise self._refused("a column 'freq', or 'timestamp' with lists of times", ", ".join(names), file)
        times = next(table.tables([_TIMES], rows=1))[_TIMES][0].as_py()
        try:
            freq = pd.infer_freq(pd.DatetimeIndex(times))
        except (TypeError, ValueError):
            freq = None
        if freq is None:
            found = f"{len(times or ())} times without one"
            raise self._refused("times of a regular frequency in the first row", found, file)
        return freq

    def _refused(self, expected: str, found: str, file: Path) -> FlowrankError:
        return FlowrankError(
            f"data set {self.name!r}",
            expected=expected,
            found=f"{found} ({str(file)!r})",
            todo="use the files as the hub has them",
        )


def _series(
    table: ParquetFile, wanted: list[str], lists: list[str], ids: str | None, fixed: str | None
) -> Iterator[Series]:
    number = 0
    for piece in table.tables(wanted, rows=_ROWS):
        for row in range(len(piece)):
            item = piece[ids][row].as_py() if ids else number
            freq = fixed or normalize_frequency(piece["freq"][row].as_py())
            for name in lists:
                label = item if len(lists) == 1 else f"{item}_{name}"
                yield Series(label, _values(piece[name][row]), None, freq)
            number += 1


def _lists(schema: pa.Schema) -> list[str]:
    """Names of the columns that hold lists of numbers."""
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    found = []
    for column in schema:
        if any(kind(column.type) for kind in kinds):
            inner = column.type.value_type
            if pa.types.is_floating(inner) or pa.types.is_integer(inner):
                found.append(column.name)
    return found


def _values(cell: Any) -> np.ndarray:
    """Values of a cell, (time,) in float64; NaN = missing."""
    values = cell.values
    return np.zeros(0) if values is None else values.to_numpy(zero_copy_only=False).astype(np.float64)
