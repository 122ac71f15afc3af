"""Tables of any library: pandas with whatever index, Arrow, and all that narwhals or Arrow's interchange can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE = 65_536  # rows of a table that are turned into pandas together
_SPREAD = {"xarray", "darts", "zarr", "h5py"}  # have columns or coordinates of their own, and no rows


@dataclass(frozen=True)
class ArrowTables:
    """A table that comes in Arrow tables; ``numbers`` are those of its rows, for errors, if they are not from 0 on.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"item_id": [1, 1], "target": [2.0, 3.0]})
    >>> [piece.shape for piece in arrow_tables(table).pieces(["target"])]
    [(2, 1)]
    """

    schema: pa.Schema
    begin: Callable[[list[str]], Iterator[pa.Table]]
    numbers: np.ndarray | None = None

    def tables(self, names: list[str], rows: int = 128) -> Iterator[pa.Table]:
        """Yield the columns ``names`` in tables of at most ``rows`` rows."""
        for table in self.begin(names):
            for first in range(0, len(table), rows):
                yield table.slice(first, rows)

    def pieces(self, names: list[str]) -> Iterator[pd.DataFrame]:
        """Yield the columns ``names`` as data frames, whose index has the numbers of the rows if they are given."""
        first = 0
        for table in self.tables(names, _PIECE):
            frame = table.to_pandas(ignore_metadata=True)
            if self.numbers is not None:
                frame.index = pd.Index(self.numbers[first : first + len(frame)])
            yield frame
            first += len(frame)


def arrow_tables(table: pa.Table, numbers: np.ndarray | None = None) -> ArrowTables:
    """Return a table in memory as one of pieces."""
    return ArrowTables(table.schema, partial(_selected, table), numbers)


def _selected(table: pa.Table, names: list[str]) -> Iterator[pa.Table]:
    yield table.select(names)


def _scanned(dataset: Any, names: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in dataset.to_batches(columns=names):
        yield pa.Table.from_batches([batch])


def _collected(frame: Any, names: list[str]) -> Iterator[pa.Table]:
    yield _arrow_of(frame.select(names))


def _arrow_of(frame: Any) -> pa.Table:
    import narwhals as nw

    return (frame.collect() if isinstance(frame, nw.LazyFrame) else frame).to_arrow()


def foreign_table(source: Any, argument: str) -> pd.DataFrame | ArrowTables | None:
    """Return a table of any library as one of pandas or Arrow; None if it is no table.

    Raises
    ------
    FlowrankError
        If it has columns but is of a library that cannot be read, so that no table is taken for a list of columns.
    """
    if isinstance(source, (pd.DataFrame, ArrowTables)):
        return source
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return pd.DataFrame.from_records(source)
    package = type(source).__module__.split(".")[0]
    if package in _SPREAD:
        raise _refused(source, argument)
    if package == "pyarrow":
        return _of_pyarrow(source)
    if isinstance(source, (list, tuple, dict, str, bytes)) or package in ("torch", "numpy"):
        return None
    import narwhals as nw

    frame = nw.from_native(source, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        return ArrowTables(_arrow_of(frame.head(0)).schema, partial(_collected, frame))
    if isinstance(frame, nw.DataFrame):
        native = frame.to_native()
        return native if isinstance(native, pd.DataFrame) else arrow_tables(frame.to_arrow())
    if isinstance(source, type) or hasattr(source, "dtype"):  # a column of polars or pandas
        return None
    return _interchanged(source, argument)


def _of_pyarrow(source: Any) -> ArrowTables | None:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return arrow_tables(source)
    if isinstance(source, pa.RecordBatch):
        return arrow_tables(pa.Table.from_batches([source]))
    if isinstance(source, pa.RecordBatchReader):  # can be read once only
        return arrow_tables(source.read_all())
    if hasattr(source, "to_batches") and hasattr(source, "schema"):
        return ArrowTables(source.schema, partial(_scanned, source))
    return None


def _interchanged(source: Any, argument: str) -> ArrowTables | None:
    import pyarrow as pa
    from pyarrow.interchange import from_dataframe

    try:
        if hasattr(source, "__arrow_c_stream__"):
            return arrow_tables(pa.table(source))
        if hasattr(source, "__dataframe__"):
            return arrow_tables(from_dataframe(source))
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refused(source, argument) from error
    if hasattr(source, "columns"):
        raise _refused(source, argument)
    return None


def _refused(source: Any, argument: str) -> FlowrankError:
    kind = type(source)
    return FlowrankError(
        argument,
        expected="a table of pandas, polars, pyarrow or another library that narwhals or Arrow can read",
        found=f"{kind.__module__.split('.')[0]}.{kind.__name__}",
        todo="convert it to a long pandas data frame (.to_pandas(), .to_dataframe().reset_index() or the like)",
    )


def one_column(source: Any, columns: Columns) -> tuple[pd.DataFrame, Columns]:
    """Return a pandas Series as a table: its index holds the times, and the ids if it has a level of them.

    Examples
    --------
    >>> values = pd.Series([1.0, 2.0], pd.date_range("2024-01-01", periods=2))
    >>> frame, columns = one_column(values, Columns())
    >>> columns.needed, len(frame)
    (['timestamp', 'target'], 2)
    """
    index = source.index
    frame = pd.DataFrame({columns.target: source})
    ids = columns.id_column if columns.id_column in index.names else None
    times = columns.timestamp_column
    if index.nlevels == 1 and ids is None:
        if index.equals(pd.RangeIndex(len(index))):
            times = None
        elif times is not None:
            frame.index = index.rename(times)
    return frame, replace(columns, id_column=ids, timestamp_column=times)


def with_index(frame: pd.DataFrame, columns: Columns, argument: str) -> pd.DataFrame:
    """Return a frame whose index levels are columns where those are wanted and not there.

    An index of times without a name stands for the column of times.

    Examples
    --------
    >>> times = pd.date_range("2024-01-01", periods=2)
    >>> frame = pd.DataFrame({"item_id": "A", "target": [1, 2]}, index=times)
    >>> list(with_index(frame, Columns(), "series").columns)
    ['timestamp', 'item_id', 'target']
    """
    if type(frame) is not pd.DataFrame:
        frame = pd.DataFrame(frame)  # AutoGluon's TimeSeriesDataFrame, say, does not let its index go
    if frame.columns.nlevels > 1:
        raise FlowrankError(
            argument,
            expected="a data frame with one row of column names",
            found=f"{frame.columns.nlevels} rows of them, e.g. {tuple(frame.columns[0]) if len(frame.columns) else ()}",
            todo='join them: frame.columns = ["_".join(map(str, name)) for name in frame.columns]',
        )
    found = list(frame.columns)
    index = frame.index
    lacking = [name for name in columns.needed if name not in found]
    if not lacking:
        return frame
    levels = [name for name in lacking if name in index.names]
    time = columns.timestamp_column
    if time in lacking and time not in levels and index.nlevels == 1 and index.name is None and _holds_times(index):
        frame, levels = frame.rename_axis(time), [*levels, time]
    if not levels:
        named = [name for name in index.names if name is not None]
        if time in lacking and (named or index.nlevels > 1) and columns.target in found:
            raise FlowrankError(
                argument,
                expected=f"columns or levels of the index named {', '.join(map(repr, columns.needed))}",
                found=f"columns: {', '.join(map(repr, found))}; levels of the index: {list(index.names)}",
                todo="name yours with id_column=, timestamp_column=, target=, or give the levels names "
                "(frame.rename_axis)",
            )
        return frame
    return frame.reset_index(level=levels)


def _holds_times(index: pd.Index) -> bool:
    return isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)) or pd.api.types.is_datetime64_any_dtype(index.dtype)


def of_lists(frame: pd.DataFrame, columns: Columns) -> bool:
    """Tell whether the target column holds a list in each row: a table with one row a series."""
    if list(frame.columns).count(columns.target) != 1:
        return False
    column = frame[columns.target]
    kind = getattr(column.dtype, "pyarrow_dtype", None)
    if kind is not None:
        import pyarrow as pa

        return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
    if column.dtype != object or len(column) == 0:
        return False
    return isinstance(column.iloc[0], (list, tuple, np.ndarray, pd.Series))
