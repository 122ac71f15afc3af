"""Any source of series as one lazy stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.excel import is_excel, read_excel
from flowrank.series.foreign import ArrowTables, arrow_tables, foreign_table, of_lists, one_column, with_index
from flowrank.series.frequency import normalize_frequency
from flowrank.series.ids import IdType
from flowrank.series.layout import Layout
from flowrank.series.records import array_series, record_series, row_series
from flowrank.series.tables import Columns, LongTable
from flowrank.series.tabular_files import CsvFile, ParquetFile, is_parquet
from flowrank.series.value import OnBad, Series
from flowrank.series.wide import WideTable, load_of, wide_columns


class SeriesSource:
    """Series, one at a time; each iteration starts from the beginning.

    It can be pickled, and so sent to a worker process, whenever what it reads can: files go as their paths, data
    frames and lists with their contents.

    Parameters
    ----------
    begin
        Gives a new iterator over the series.
    ids
        Data type of the ids.
    again
        Reads the source once more, given ``on_bad``.

    Examples
    --------
    >>> import numpy as np
    >>> source = SeriesSource(lambda: iter([Series("A", np.ones(3))]))
    >>> [len(series) for series in source], [len(series) for series in source]
    ([3], [3])
    """

    def __init__(
        self,
        begin: Callable[[], Iterator[Series]],
        *,
        ids: IdType | None = None,
        again: Callable[..., SeriesSource] | None = None,
    ) -> None:
        self._begin = begin
        self._again = again
        self.ids = IdType() if ids is None else ids

    def __iter__(self) -> Iterator[Series]:
        return self._begin()

    def leaving_out(self, on_bad: OnBad | None) -> SeriesSource:
        """Return the same source without the series that cannot be read, each of which is told to ``on_bad``."""
        return self if self._again is None or on_bad is None else self._again(on_bad=on_bad)


def read_series(
    source: Any,
    *,
    id_column: Any = "item_id",
    timestamp_column: Any = "timestamp",
    target: Any = "target",
    freq: str | None = None,
    wide: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
    date_format: str | None = None,
    day_first: bool | None = None,
    utc: bool = False,
    decimal: str | None = None,
    thousands: str | None = None,
    on_bad: OnBad | None = None,
    argument: str = "series",
) -> SeriesSource:
    """Open a source of time series; nothing but its beginning is read until it is iterated over.

    Parameters
    ----------
    source
        One of: a long table of pandas, polars, pyarrow, DuckDB or another library that narwhals reads, its ids and
        times in columns or in levels of a pandas index; the path of a long CSV, Parquet or Excel file, CSV also
        compressed; such a table or Parquet file with one row a series (``item_id``, ``target`` as a list, and
        ``start``, ``freq`` or a list of times); a pandas Series; a list of one-dimensional arrays, tensors or
        lists; a two-dimensional array or tensor, shape ``(series, time)``, padded with NaN on the left; GluonTS
        records (dictionaries with ``target``, ``start``, ``item_id``); a Hugging Face ``datasets.Dataset``; a
        ``fev.Task`` (the past of its windows); ``Series``; or a function without arguments that returns an iterable
        of arrays, records or ``Series``. A one-shot iterator is read into a list, as each iteration must start again.
    id_column, timestamp_column, target
        Names of the columns. ``id_column=None``: all rows are one series. ``timestamp_column=None``: no
        times, and the rows are in order of time.
    freq
        pandas frequency. By default it is inferred for each series with times (series of one or two values
        take that of the others), and times with gaps are refused; when it is given, gaps become missing
        values.
    wide
        Whether each column is a series, but for that of the times; ids are then the names of the columns.
    encoding
        Encoding of a CSV file. None: UTF-8, or what its byte order mark says.
    sheet
        Name of the sheet of an Excel file; needed if several hold something.
    date_format
        Format of text dates, as of ``datetime.strptime``, e.g. ``"%d.%m.%Y"``.
    day_first
        Whether 05/03/2024 is 5 March. By default found out from the whole column; where both would do, refused.
    utc
        Whether times are turned into UTC, for columns of several UTC offsets, which are refused otherwise.
    decimal, thousands
        The marks in numbers that are texts, as in 1.234,5. By default a point, and none.
    on_bad
        Called with the id and the error of each series that cannot be used; it is left out. None: the error is
        raised.
    argument
        Name of the argument that errors are about.

    Returns
    -------
    SeriesSource
        Iterates over ``Series``. Rows in error messages count from 0.

    Raises
    ------
    FlowrankError
        If the source is of no known kind, is empty, lacks columns, or holds values that are not finite
        numbers, times that cannot be read, are not increasing or irregular. Faults in rows show while
        iterating.

    Examples
    --------
    >>> frame = pd.DataFrame({"id": ["A"] * 3, "day": pd.date_range("2024-01-01", periods=3), "y": [1, 2, 3]})
    >>> [series] = read_series(frame, id_column="id", timestamp_column="day", target="y")
    >>> series.item_id, series.freq, series.target
    ('A', 'D', array([1., 2., 3.]))
    """
    if isinstance(source, SeriesSource):
        return source.leaving_out(on_bad)
    if freq is not None:
        normalize_frequency(freq)
    source = _again_and_again(source, argument)
    given = {"id_column": id_column, "timestamp_column": timestamp_column, "target": target, "freq": freq}
    written: dict[str, Any] = {
        "date_format": date_format,
        "day_first": day_first,
        "utc": utc,
        "decimal": decimal,
        "thousands": thousands,
    }
    given |= {"wide": wide, "encoding": encoding, "sheet": sheet, "argument": argument, **written}
    columns = Columns(id_column, timestamp_column, target, Layout.of(**written))
    found = _opened(source, _Wanted(columns, freq, wide, encoding, sheet, on_bad, argument))
    if on_bad is None:
        found._again = partial(read_series, source, **given)
    return found


def _again_and_again(source: Any, argument: str) -> Any:
    """Return a table, or an iterator, as something that can be read more than once; anything else as it is."""
    if isinstance(source, (str, Path, pd.Series)) or type(source).__module__.split(".")[0] in ("datasets", "fev"):
        return source
    table = foreign_table(source, argument)
    if table is not None:
        return table
    return list(source) if isinstance(source, Iterator) else source


@dataclass(frozen=True)
class _Wanted:
    """What `read_series` was asked for."""

    columns: Columns
    freq: str | None
    wide: bool
    encoding: str | None
    sheet: str | None
    on_bad: OnBad | None
    argument: str

    @property
    def options(self) -> dict[str, Any]:
        """What every reader takes."""
        return {"freq": self.freq, "on_bad": self.on_bad, "argument": self.argument}


def _opened(source: Any, wanted: _Wanted) -> SeriesSource:
    columns, argument, options = wanted.columns, wanted.argument, wanted.options
    if isinstance(source, (str, Path)):
        return _file(Path(source), wanted)
    package = type(source).__module__.split(".")[0]
    if package == "datasets":
        return _hugging_face(source, wanted)
    if package == "fev":
        return SeriesSource(partial(_fev_windows, source, **options))
    if isinstance(source, pd.Series):
        frame, columns = one_column(source, columns)
        return _frame(frame, replace(wanted, columns=columns))
    if isinstance(source, ArrowTables):
        return _arrow(source, wanted)
    if isinstance(source, pd.DataFrame):
        return _frame(source, wanted)
    if package in ("pyarrow", "polars") and hasattr(source, "to_numpy"):  # a column
        source = source.to_numpy() if package == "polars" else source.to_pandas().to_numpy()
    if isinstance(source, Mapping) and columns.target in source:
        source = [source]
    if callable(source):
        return SeriesSource(partial(_made_items, source, columns, **options))
    if isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        return SeriesSource(partial(_items, source, columns, **options))
    raise FlowrankError(
        argument,
        expected="a data frame, a CSV, Parquet or Excel path, arrays, tensors, GluonTS records, "
        "a datasets.Dataset or a fev.Task",
        found=type(source).__name__,
        todo="convert it to one of these",
    )


def _file(path: Path, wanted: _Wanted) -> SeriesSource:
    argument = wanted.argument
    if path.is_file() and is_excel(path):
        return _frame(read_excel(path, wanted.sheet, argument), wanted)
    if wanted.sheet is not None:
        raise FlowrankError("sheet", expected="no sheet, as only Excel files have some", found=repr(wanted.sheet))
    if is_parquet(path, argument=argument, encoding=wanted.encoding):
        parquet = ParquetFile(str(path), argument)
        return _arrow(parquet, wanted)
    csv = CsvFile(str(path), argument, wanted.encoding)
    names = csv.names()
    if wanted.wide:
        return _wide(load_of(csv.pieces, names), names, wanted)
    wanted.columns.check(names, argument=argument)
    layout = replace(wanted.columns.layout, semicolons=csv.delimiter() == ";")
    return _long(csv.pieces, replace(wanted, columns=replace(wanted.columns, layout=layout)))


def _arrow(table: ArrowTables | ParquetFile, wanted: _Wanted) -> SeriesSource:
    schema = table.schema() if isinstance(table, ParquetFile) else table.schema
    if wanted.wide:
        names = [name for name in schema.names if not name.startswith("__index_level_")]
        return _wide(load_of(table.pieces, names), names, wanted)
    if _one_row_a_series(schema, wanted.columns):
        return _rows(table.tables, schema, wanted)
    wanted.columns.check(schema.names, argument=wanted.argument)
    return _long(table.pieces, wanted, _ids_of(schema, wanted.columns))


def _rows(tables: Any, schema: Any, wanted: _Wanted) -> SeriesSource:
    columns = wanted.columns
    Columns(columns.id_column, None, columns.target).check(schema.names, argument=wanted.argument)
    begin = partial(row_series, tables, schema, columns, **wanted.options)
    return SeriesSource(begin, ids=_ids_of(schema, columns))


def _ids_of(schema: Any, columns: Columns) -> IdType:
    return IdType() if columns.id_column is None else IdType.of_field(schema.field(columns.id_column).type)


def _frame(frame: pd.DataFrame, wanted: _Wanted) -> SeriesSource:
    columns, argument = wanted.columns, wanted.argument
    if wanted.wide:
        wanted_times = Columns(None, columns.timestamp_column, object())
        frame = with_index(frame, wanted_times, argument)
        return _wide(partial(_same, frame), list(frame.columns), wanted)
    if of_lists(frame, columns):
        import pyarrow as pa

        table = arrow_tables(pa.Table.from_pandas(pd.DataFrame(frame).reset_index(), preserve_index=False))
        return _arrow(table, wanted)
    frame = with_index(frame, columns, argument)
    columns.check(list(frame.columns), argument=argument)
    if len(frame) == 0:
        raise FlowrankError(argument, expected="a data frame with rows", found="no rows")
    ids = IdType() if columns.id_column is None else IdType(frame[columns.id_column].dtype)
    return _long(partial(_whole, frame), wanted, ids)


def _same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def _whole(frame: pd.DataFrame, names: list[Any]) -> Iterator[pd.DataFrame]:
    yield frame[names]


def _long(pieces: Any, wanted: _Wanted, ids: IdType | None = None, *, numbered: bool = False) -> SeriesSource:
    return SeriesSource(LongTable(pieces, wanted.columns, **wanted.options, numbered=numbered).__iter__, ids=ids)


def _wide(load: Callable[[], pd.DataFrame], names: list[Any], wanted: _Wanted) -> SeriesSource:
    columns = wide_columns(names, wanted.columns, argument=wanted.argument)
    return _long(WideTable(load, columns).pieces, replace(wanted, columns=columns), numbered=True)


def _one_row_a_series(schema: Any, columns: Columns) -> bool:
    import pyarrow as pa

    if columns.target not in schema.names:
        return False
    kind = schema.field(columns.target).type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _hugging_face(dataset: Any, wanted: _Wanted) -> SeriesSource:
    if not hasattr(dataset, "with_format") or isinstance(dataset, Mapping):
        raise FlowrankError(
            wanted.argument,
            expected="one datasets.Dataset",
            found=type(dataset).__name__,
            todo='choose a split, e.g. dataset["train"]',
        )
    if getattr(dataset, "features", None) is None:  # an iterable data set that does not know its columns
        return SeriesSource(partial(record_series, dataset, wanted.columns, **wanted.options))
    return _arrow(ArrowTables(dataset.features.arrow_schema, partial(_arrow_tables, dataset)), wanted)


def _arrow_tables(dataset: Any, names: list[str]) -> Iterator[Any]:
    return (table.select(names) for table in dataset.with_format("arrow").iter(batch_size=4096))


def _fev_windows(task: Any, *, freq: str | None, on_bad: OnBad | None, argument: str) -> Iterator[Series]:
    import fev

    for number, window in enumerate(task.iter_windows()):
        past, _, _ = fev.convert_input_data(window, adapter="pandas", as_univariate=True)
        columns = Columns(window.id_column, window.timestamp_column, "target")
        for series in read_series(
            past,
            id_column=columns.id_column,
            timestamp_column=columns.timestamp_column,
            freq=freq if freq is not None else task.freq,
            on_bad=on_bad,
            argument=argument,
        ):
            name = series.item_id if task.num_windows == 1 else f"{series.item_id}@{number}"
            yield Series(name, series.target, series.start, series.freq)


def _made_items(make: Callable[[], Iterable[Any]], columns: Columns, **options: Any) -> Iterator[Series]:
    return _items(make(), columns, **options)


def _items(
    items: Iterable[Any], columns: Columns, *, freq: str | None, on_bad: OnBad | None, argument: str
) -> Iterator[Series]:
    """Yield the series of a collection, whose first item shows of what kind they are."""
    if hasattr(items, "ndim"):
        if items.ndim == 1:
            return array_series([items], padded=False, freq=freq, on_bad=on_bad, argument=argument)
        if items.ndim != 2:
            raise FlowrankError(
                argument,
                expected="an array of shape (series, time)",
                found=f"shape {tuple(items.shape)}",  # type: ignore[attr-defined]
                todo="pass one row for each variable",
            )
        return array_series(items, padded=True, freq=freq, on_bad=on_bad, argument=argument)
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:
        raise FlowrankError(argument, expected="at least one series", found="none") from None
    rest = _chained(first, iterator)
    if isinstance(first, Series):
        return rest
    if isinstance(first, Mapping):
        return record_series(rest, columns, freq=freq, on_bad=on_bad, argument=argument)
    if first is None or isinstance(first, (bool, int, float)) or getattr(first, "ndim", 1) == 0:
        return array_series([list(rest)], padded=False, freq=freq, on_bad=on_bad, argument=argument)
    return array_series(rest, padded=False, freq=freq, on_bad=on_bad, argument=argument)


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
