"""Every kind of source: files, tables, data sets, collections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns
from flowrank.series.excel import is_excel, read_excel
from flowrank.series.foreign import ArrowTables, arrow_tables, foreign_table, of_lists, one_column, with_index
from flowrank.series.ids import IdType
from flowrank.series.items import items_of, made_items
from flowrank.series.records import record_series, row_series
from flowrank.series.source import SeriesSource
from flowrank.series.tables import LongTable
from flowrank.series.tabular_files import CsvFile, ParquetFile, is_parquet
from flowrank.series.value import OnBad, Series
from flowrank.series.values import Categories
from flowrank.series.wide import WideTable, load_of, wide_columns


def repeatable(source: Any, argument: str) -> Any:
    """Return a table, or an iterator, as something that can be read more than once; anything else as it is."""
    if isinstance(source, (str, Path, pd.Series)) or type(source).__module__.split(".")[0] in ("datasets", "fev"):
        return source
    table = foreign_table(source, argument)
    if table is not None:
        return table
    return list(source) if isinstance(source, Iterator) else source


def column_names(source: Any, encoding: str | None, sheet: str | None, argument: str) -> list[Any] | None:
    """Return the names of the columns of a table or a file, without levels of an index; None if it is neither."""
    if isinstance(source, (str, Path)):
        if Path(source).is_file() and is_excel(source):
            return list(read_excel(source, sheet, argument).columns)
        if is_parquet(source, argument=argument, encoding=encoding):
            return _without_index(ParquetFile(str(source), argument).schema().names)
        return CsvFile(str(source), argument, encoding).names()
    if isinstance(source, pd.DataFrame):
        return list(source.columns)
    if isinstance(source, ArrowTables):
        return _without_index(source.schema.names)
    features = getattr(source, "features", None)  # of a Hugging Face data set
    return None if features is None else list(features)


def _without_index(names: list[str]) -> list[str]:
    """Leave out the columns that hold the index of a pandas frame."""
    return [name for name in names if not name.startswith("__index_level_")]


@dataclass(frozen=True)
class Wanted:
    """What `read_series` was asked for."""

    columns: Columns
    freq: str | None
    wide: bool
    encoding: str | None
    sheet: str | None
    on_bad: OnBad | None
    argument: str
    categories: Categories | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What every reader takes."""
        return {"freq": self.freq, "on_bad": self.on_bad, "argument": self.argument}


def open_source(source: Any, wanted: Wanted) -> SeriesSource:
    """Open a source by its kind; `repeatable` has made it one of tables, collections and files."""
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
        return SeriesSource(partial(made_items, source, columns, **options))
    if isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        return SeriesSource(partial(items_of, source, columns, **options))
    raise FlowrankError(
        argument,
        expected="a data frame, a CSV, Parquet or Excel path, arrays, tensors, GluonTS records, "
        "a datasets.Dataset or a fev.Task",
        found=type(source).__name__,
        todo="convert it to one of these",
    )


def _file(path: Path, wanted: Wanted) -> SeriesSource:
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
    layout = replace(wanted.columns.layout, semicolons=csv.delimiter() == ";")
    wanted = replace(wanted, columns=replace(wanted.columns, layout=layout))
    if wanted.wide:
        return _wide(load_of(csv.pieces, names), names, wanted)
    wanted.columns.check(names, argument=argument)
    return _long(csv.pieces, wanted)


def _arrow(table: ArrowTables | ParquetFile, wanted: Wanted) -> SeriesSource:
    schema = table.schema() if isinstance(table, ParquetFile) else table.schema
    if wanted.wide:
        names = _without_index(schema.names)
        return _wide(load_of(table.pieces, names), names, wanted)
    if _one_row_a_series(schema, wanted.columns):
        return _rows(table, schema, wanted)
    wanted.columns.check(schema.names, argument=wanted.argument)
    numbered = isinstance(table, ArrowTables) and table.numbers is not None
    return _long(table.pieces, wanted, _ids_of(schema, wanted.columns), numbered=numbered)


def _rows(table: ArrowTables | ParquetFile, schema: Any, wanted: Wanted) -> SeriesSource:
    columns = wanted.columns
    Columns(columns.id_column, None, columns.target).check(schema.names, argument=wanted.argument)
    numbers = table.numbers if isinstance(table, ArrowTables) else None
    begin = partial(row_series, table.tables, schema, columns, numbers=numbers, **wanted.options)
    return SeriesSource(begin, ids=_ids_of(schema, columns))


def _ids_of(schema: Any, columns: Columns) -> IdType:
    return IdType() if columns.id_column is None else IdType.of_field(schema.field(columns.id_column).type)


def _frame(frame: pd.DataFrame, wanted: Wanted) -> SeriesSource:
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


def _long(pieces: Any, wanted: Wanted, ids: IdType | None = None, *, numbered: bool = False) -> SeriesSource:
    table = LongTable(pieces, wanted.columns, **wanted.options, numbered=numbered, categories=wanted.categories)
    return SeriesSource(table.__iter__, ids=ids, table=table)


def _wide(load: Callable[[], pd.DataFrame], names: list[Any], wanted: Wanted) -> SeriesSource:
    columns = wide_columns(names, wanted.columns, argument=wanted.argument)
    return _long(WideTable(load, columns).pieces, replace(wanted, columns=columns), numbered=True)


def _one_row_a_series(schema: Any, columns: Columns) -> bool:
    import pyarrow as pa

    if columns.target not in schema.names:
        return False
    kind = schema.field(columns.target).type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _hugging_face(dataset: Any, wanted: Wanted) -> SeriesSource:
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

    from flowrank.series.reading import read_series

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
