"""Any source of series as one lazy stream."""

from __future__ import annotations

from functools import partial
from typing import Any

from flowrank.series.columns import Columns
from flowrank.series.frequency import normalize_frequency
from flowrank.series.kinds import Wanted, open_source, repeatable
from flowrank.series.layout import Layout
from flowrank.series.source import SeriesSource
from flowrank.series.value import OnBad


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
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"id": ["A"] * 3, "day": pd.date_range("2024-01-01", periods=3), "y": [1, 2, 3]})
    >>> [series] = read_series(frame, id_column="id", timestamp_column="day", target="y")
    >>> series.item_id, series.freq, series.target
    ('A', 'D', array([1., 2., 3.]))
    """
    if isinstance(source, SeriesSource):
        return source.leaving_out(on_bad)
    source = repeatable(source, argument)
    given = {"id_column": id_column, "timestamp_column": timestamp_column, "freq": freq, "wide": wide}
    given |= {"encoding": encoding, "sheet": sheet, "argument": argument, "date_format": date_format}
    given |= {"day_first": day_first, "utc": utc, "decimal": decimal, "thousands": thousands}
    found = open_source(source, wanted(target, on_bad=on_bad, **given))
    if on_bad is None:
        found._again = partial(read_series, source, target=target, **given)
    return found


def wanted(
    target: Any,
    *,
    more_targets: tuple[Any, ...] = (),
    covariates: tuple[Any, ...] = (),
    id_column: Any = "item_id",
    timestamp_column: Any = "timestamp",
    freq: str | None = None,
    wide: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
    on_bad: OnBad | None = None,
    argument: str = "series",
    **written: Any,
) -> Wanted:
    """Check the arguments of `read_series`, and put them together.

    Raises
    ------
    FlowrankError
        If the frequency is unknown, or two arguments contradict each other.
    """
    if freq is not None:
        normalize_frequency(freq)
    columns = Columns(id_column, timestamp_column, target, Layout.of(**written), more_targets, covariates)
    return Wanted(columns, freq, wide, encoding, sheet, on_bad, argument)
