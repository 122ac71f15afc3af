"""Any source of series as one lazy stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.frequency import normalize_frequency
from flowrank.series.layout import Layout
from flowrank.series.records import array_series, record_series, row_series
from flowrank.series.tables import Columns, LongTable
from flowrank.series.tabular_files import CsvFile, ParquetFile, is_parquet
from flowrank.series.value import Series


class SeriesSource:
    """Series, one at a time; each iteration starts from the beginning.

    It can be pickled, and so sent to a worker process, whenever what it reads can: files go as their paths, data
    frames and lists with their contents.

    Parameters
    ----------
    begin
        Gives a new iterator over the series.

    Examples
    --------
    >>> import numpy as np
    >>> source = SeriesSource(lambda: iter([Series("A", np.ones(3))]))
    >>> [len(series) for series in source], [len(series) for series in source]
    ([3], [3])
    """

    def __init__(self, begin: Callable[[], Iterator[Series]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Series]:
        return self._begin()


def read_series(
    source: Any,
    *,
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str = "target",
    freq: str | None = None,
    date_format: str | None = None,
    day_first: bool | None = None,
    utc: bool = False,
    decimal: str | None = None,
    thousands: str | None = None,
    argument: str = "series",
) -> SeriesSource:
    """Open a source of time series; nothing but its beginning is read until it is iterated over.

    Parameters
    ----------
    source
        One of: a long data frame; the path of a long CSV or Parquet file; the path of a Parquet file with one
        row a series (``item_id``, ``target`` as a list, and ``start``, ``freq`` or a list of times); a list
        of one-dimensional arrays, tensors or lists; a two-dimensional array or tensor, shape ``(series,
        time)``, padded with NaN on the left; GluonTS records (dictionaries with ``target``, ``start``,
        ``item_id``); a Hugging Face ``datasets.Dataset``; a ``fev.Task`` (the past of its windows);
        ``Series``; or a function without arguments that returns an iterable of arrays, records or ``Series``.
        A one-shot iterator is read into a list, as each iteration must start again.
    id_column, timestamp_column, target
        Names of the columns. ``id_column=None``: all rows are one series. ``timestamp_column=None``: no
        times, and the rows are in order of time.
    freq
        pandas frequency. By default it is inferred for each series with times (series of one or two values
        take that of the others), and times with gaps are refused; when it is given, gaps become missing
        values.
    date_format
        Format of text dates, as of ``datetime.strptime``, e.g. ``"%d.%m.%Y"``.
    day_first
        Whether 05/03/2024 is 5 March. By default found out from the whole column; where both would do, refused.
    utc
        Whether times are turned into UTC, for columns of several UTC offsets, which are refused otherwise.
    decimal, thousands
        The marks in numbers that are texts, as in 1.234,5. By default a point, and none.
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
        return source
    if freq is not None:
        normalize_frequency(freq)
    layout = Layout.of(date_format=date_format, day_first=day_first, utc=utc, decimal=decimal, thousands=thousands)
    columns = Columns(id_column, timestamp_column, target, layout)
    if isinstance(source, (str, Path)):
        return _file(Path(source), columns, freq=freq, argument=argument)
    if isinstance(source, pd.DataFrame):
        return _frame(source, columns, freq=freq, argument=argument)
    package = type(source).__module__.split(".")[0]
    if package == "datasets":
        return _hugging_face(source, columns, freq=freq, argument=argument)
    if package == "fev":
        return SeriesSource(partial(_fev_windows, source, freq=freq, argument=argument))
    if isinstance(source, Mapping) and target in source:
        source = [source]
    if callable(source):
        return SeriesSource(partial(_made_items, source, columns, freq=freq, argument=argument))
    if isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes, pd.Series)):
        if isinstance(source, Iterator):
            source = list(source)
        return SeriesSource(partial(_items, source, columns, freq=freq, argument=argument))
    raise FlowrankError(
        argument,
        expected="a data frame, a CSV or Parquet path, arrays, tensors, GluonTS records, "
        "a datasets.Dataset or a fev.Task",
        found=type(source).__name__,
        todo="convert it to one of these",
    )


def _file(path: Path, columns: Columns, *, freq: str | None, argument: str) -> SeriesSource:
    if not is_parquet(path, argument=argument):
        csv = CsvFile(str(path), argument)
        columns.check(csv.names(), argument=argument)
        columns = replace(columns, layout=replace(columns.layout, semicolons=csv.delimiter() == ";"))
        return _long(csv.pieces, columns, freq=freq, argument=argument)
    parquet = ParquetFile(str(path), argument)
    schema = parquet.schema()
    if _one_row_a_series(schema, columns):
        Columns(columns.id_column, None, columns.target).check(schema.names, argument=argument)
        return SeriesSource(partial(row_series, parquet.tables, schema, columns, freq=freq, argument=argument))
    columns.check(schema.names, argument=argument)
    return _long(parquet.pieces, columns, freq=freq, argument=argument)


def _frame(frame: pd.DataFrame, columns: Columns, *, freq: str | None, argument: str) -> SeriesSource:
    columns.check(list(map(str, frame.columns)), argument=argument)
    if len(frame) == 0:
        raise FlowrankError(argument, expected="a data frame with rows", found="no rows")
    return _long(partial(_whole, frame), columns, freq=freq, argument=argument)


def _whole(frame: pd.DataFrame, names: list[str]) -> Iterator[pd.DataFrame]:
    yield frame[names]


def _long(pieces: Any, columns: Columns, *, freq: str | None, argument: str) -> SeriesSource:
    return SeriesSource(LongTable(pieces, columns, freq=freq, argument=argument).__iter__)


def _one_row_a_series(schema: Any, columns: Columns) -> bool:
    import pyarrow as pa

    if columns.target not in schema.names:
        return False
    kind = schema.field(columns.target).type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _hugging_face(dataset: Any, columns: Columns, *, freq: str | None, argument: str) -> SeriesSource:
    if not hasattr(dataset, "with_format") or isinstance(dataset, Mapping):
        raise FlowrankError(
            argument,
            expected="one datasets.Dataset",
            found=type(dataset).__name__,
            todo='choose a split, e.g. dataset["train"]',
        )
    if getattr(dataset, "features", None) is None:  # an iterable data set that does not know its columns
        return SeriesSource(partial(record_series, dataset, columns, freq=freq, argument=argument))
    schema = dataset.features.arrow_schema
    if _one_row_a_series(schema, columns):
        Columns(columns.id_column, None, columns.target).check(schema.names, argument=argument)
        return SeriesSource(
            partial(row_series, partial(_arrow_tables, dataset), schema, columns, freq=freq, argument=argument)
        )
    columns.check(schema.names, argument=argument)
    return _long(partial(_arrow_pieces, dataset), columns, freq=freq, argument=argument)


def _arrow_tables(dataset: Any, names: list[str], rows: int = 128) -> Iterator[Any]:
    return (table.select(names) for table in dataset.with_format("arrow").iter(batch_size=rows))


def _arrow_pieces(dataset: Any, names: list[str]) -> Iterator[pd.DataFrame]:
    return (table.to_pandas() for table in _arrow_tables(dataset, names, rows=65536))


def _fev_windows(task: Any, *, freq: str | None, argument: str) -> Iterator[Series]:
    import fev

    for number, window in enumerate(task.iter_windows()):
        past, _, _ = fev.convert_input_data(window, adapter="pandas", as_univariate=True)
        columns = Columns(window.id_column, window.timestamp_column, "target")
        for series in read_series(
            past,
            id_column=columns.id_column,
            timestamp_column=columns.timestamp_column,
            freq=freq if freq is not None else task.freq,
            argument=argument,
        ):
            name = series.item_id if task.num_windows == 1 else f"{series.item_id}@{number}"
            yield Series(name, series.target, series.start, series.freq)


def _made_items(make: Callable[[], Iterable[Any]], columns: Columns, **options: Any) -> Iterator[Series]:
    return _items(make(), columns, **options)


def _items(items: Iterable[Any], columns: Columns, *, freq: str | None, argument: str) -> Iterator[Series]:
    """Yield the series of a collection, whose first item shows of what kind they are."""
    if hasattr(items, "ndim"):
        if items.ndim == 1:
            return array_series([items], padded=False, freq=freq, argument=argument)
        if items.ndim != 2:
            raise FlowrankError(
                argument,
                expected="an array of shape (series, time)",
                found=f"shape {tuple(items.shape)}",  # type: ignore[attr-defined]
                todo="pass one row for each variable",
            )
        return array_series(items, padded=True, freq=freq, argument=argument)
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:
        raise FlowrankError(argument, expected="at least one series", found="none") from None
    rest = _chained(first, iterator)
    if isinstance(first, Series):
        return rest
    if isinstance(first, Mapping):
        return record_series(rest, columns, freq=freq, argument=argument)
    if first is None or isinstance(first, (bool, int, float)) or getattr(first, "ndim", 1) == 0:
        return array_series([list(rest)], padded=False, freq=freq, argument=argument)
    return array_series(rest, padded=False, freq=freq, argument=argument)


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
