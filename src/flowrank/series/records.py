"""Records: one row, dictionary or array for each series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns
from flowrank.series.date_texts import is_iso
from flowrank.series.dates import DateReading, as_timestamps
from flowrank.series.frequency import anchored_frequency, normalize_frequency
from flowrank.series.ids import Known, plain
from flowrank.series.numbers import as_numbers
from flowrank.series.timed import timed_series
from flowrank.series.value import OnBad, Series

if TYPE_CHECKING:
    import pyarrow as pa


def array_series(
    arrays: Iterable[Any], *, padded: bool, freq: str | None, argument: str, on_bad: OnBad | None = None
) -> Iterator[Series]:
    """Yield a series for each array, tensor or list of numbers, named by its position.

    Parameters
    ----------
    arrays
        Values, shape ``(time,)`` each.
    padded
        Whether leading NaN are padding to drop, as in the rows of a two-dimensional tensor.

    Examples
    --------
    >>> [s.target.tolist() for s in array_series([[np.nan, 1.0]], padded=True, freq=None, argument="series")]
    [[1.0]]
    """
    for index, values in enumerate(arrays):
        name: Any = str(index)
        where = f"position {{}} of series {index}".format
        try:
            target = as_numbers(values, argument=argument, where=where)
            if isinstance(values, pd.Series) and isinstance(values.index, (pd.DatetimeIndex, pd.PeriodIndex)):
                name = name if values.name is None else plain(values.name)
                yield _with_times(name, values.index, target, freq=freq, argument=argument, where=where)
                continue
        except FlowrankError as error:
            if on_bad is None:
                raise
            on_bad(name, error)
            continue
        if padded:
            observed = ~np.isnan(target)
            target = target[int(observed.argmax()) if observed.any() else len(target) :]
        yield Series(name, target, None, None if freq is None else normalize_frequency(freq))


def _with_times(name: Any, index: pd.Index, target: np.ndarray, *, freq: str | None, **told: Any) -> Series:
    """Return the series of values whose pandas index holds their times."""
    if len(index) == 0:
        return Series(name, target)
    times = as_timestamps(index, name="the index", **told)
    return timed_series(name, times, target, freq=freq, usual_freq=lambda: None, **told)


def record_series(
    records: Iterable[Mapping[str, Any]],
    columns: Columns,
    *,
    freq: str | None,
    argument: str,
    on_bad: OnBad | None = None,
) -> Iterator[Series]:
    """Yield a series for each dictionary of GluonTS (``target``, ``start``, ``item_id``) or of a like form.

    ``start`` is a ``pandas.Period``, or a time with the frequency in ``freq``. In place of ``start``, the
    column of times may hold a list. A record without an id is named by its position.

    Examples
    --------
    >>> records = [{"target": [1, 2], "start": pd.Period("2020-01", "M")}]
    >>> next(record_series(records, Columns(), freq=None, argument="series")).freq
    'MS'
    """
    known = Known(argument)
    for index, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise FlowrankError(
                argument,
                expected="dictionaries only, as the first record is one",
                found=f"{type(record).__name__} at {index}",
            )
        name = record.get(columns.id_column) if columns.id_column is not None else None
        if name is None:
            name = str(index)
        else:
            name = plain(name)
            known.add(name, f"record {index}")
        try:
            series = _series(name, record, columns, freq=freq, argument=argument, index=index)
        except FlowrankError as error:
            if on_bad is None:
                raise
            on_bad(name, error)
        else:
            yield series


def row_series(
    tables: Callable[[list[str]], Iterable[pa.Table]],
    schema: pa.Schema,
    columns: Columns,
    *,
    freq: str | None,
    argument: str,
    on_bad: OnBad | None = None,
    numbers: Sequence[int] | np.ndarray | None = None,
) -> Iterator[Series]:
    """Yield a series for each row of tables whose target column holds lists.

    The columns are the id, the target and, where there are, ``start`` and ``freq`` or a list of times.
    Only one of the tables is in memory at a time. ``numbers`` are those of the rows, for errors; by default from 0 on.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"item_id": ["A"], "target": [[1.0, None]]})
    >>> next(row_series(lambda names: [table], table.schema, Columns(), freq=None, argument="series")).target
    array([ 1., nan])
    """
    Columns(columns.id_column, None, columns.target).check(schema.names, argument=argument)
    names = Columns(columns.id_column, None, columns.target).needed
    optional = [columns.timestamp_column or "start", "start", "freq"]
    names += [name for name in dict.fromkeys(optional) if name in schema.names and name not in names]
    known = Known(argument)
    index = 0
    for table in tables(names):
        for cells in zip(*(_cells(table.column(name)) for name in names), strict=True):
            record = dict(zip(names, cells, strict=True))
            number = index if numbers is None else int(numbers[index])
            name: Any = str(number)
            if columns.id_column is not None:
                if record[columns.id_column] is None:
                    raise FlowrankError(
                        argument,
                        expected=f"an id in each row of {columns.id_column!r}",
                        found=f"none in row {number}",
                        todo="write one, or leave the row out",
                    )
                name = record[columns.id_column]
                if not known.add(name, f"row {number}"):
                    raise FlowrankError(
                        argument,
                        expected="each id once in a table with one row a series",
                        found=f"{name!r} again in row {number}",
                        todo="give each series its own id",
                    )
            index += 1
            try:
                series = _series(name, record, columns, freq=freq, argument=argument, index=number)
            except FlowrankError as error:
                if on_bad is None:
                    raise
                on_bad(name, error)
            else:
                yield series
    if index == 0:
        raise FlowrankError(argument, expected="a table with rows", found="no rows")


def _cells(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values of a column; lists as arrays."""
    import pyarrow as pa

    for chunk in column.chunks:
        for scalar in chunk:
            if not isinstance(scalar, pa.ListScalar):  # the large and the fixed ones are its subclasses
                yield scalar.as_py()
            else:
                yield np.zeros(0) if scalar.values is None else _list(scalar.values)


def _list(values: Any) -> Any:
    """An Arrow list as an array, or as a column of pandas where times have a zone."""
    import pyarrow as pa

    zoned = pa.types.is_timestamp(values.type) and values.type.tz is not None
    return pd.Series(values.to_pandas()) if zoned else values.to_numpy(zero_copy_only=False)


def _series(
    name: Any, record: Mapping[str, Any], columns: Columns, *, freq: str | None, argument: str, index: int
) -> Series:
    def where(position: int) -> str:
        return f"position {position} of series {name!r} (record {index})"

    if columns.target not in record:
        raise FlowrankError(
            argument,
            expected=f"a key {columns.target!r} in each record",
            found=f"keys {sorted(map(str, record))} in record {index}",
            todo="name yours with target=",
        )
    target = as_numbers(
        record[columns.target],
        argument=argument,
        where=where,
        name=columns.target,
        decimal=columns.layout.decimal,
        thousands=columns.layout.thousands,
    )
    times = None if columns.timestamp_column is None else record.get(columns.timestamp_column)
    if times is not None and np.ndim(times) == 1:
        if len(times) != len(target):
            raise FlowrankError(
                argument,
                expected=f"as many times as values in series {name!r}",
                found=f"{len(times)} times, {len(target)} values (record {index})",
            )
        if len(times) == 0:
            return Series(name, target)
        stamps = as_timestamps(
            times, argument=argument, where=where, name=str(columns.timestamp_column), reading=columns.layout.dates
        )
        own = freq if freq is not None else _told(record.get("freq"), f"record {index}")
        return timed_series(name, stamps, target, freq=own, usual_freq=lambda: None, argument=argument, where=where)
    own = freq if freq is not None else _told(record.get("freq"), f"record {index}")
    return _started(name, target, record.get("start"), own, argument, columns.layout.dates, index)


def _told(freq: Any, where: str) -> str | None:
    """Return the frequency that a record tells, by its usual name."""
    if freq is None or (isinstance(freq, float) and np.isnan(freq)):
        return None
    try:
        return normalize_frequency(freq)
    except FlowrankError as error:
        raise FlowrankError(
            error.argument, expected=error.expected, found=f"{error.found} in {where}", todo=error.todo
        ) from None


def _started(
    name: Any, target: np.ndarray, start: Any, freq: str | None, argument: str, reading: DateReading, index: int
) -> Series:
    if isinstance(start, pd.Period):
        freq = start.freqstr if freq is None else freq
        start = start.start_time
    if start is None:
        return Series(name, target, None, None if freq is None else normalize_frequency(freq))
    if isinstance(start, str) and (not is_iso(start.strip()) or reading.date_format is not None):
        where = f"the start of series {name!r} (record {index})"
        start = as_timestamps([start], argument=argument, where=lambda _: where, name="start", reading=reading)[0]
    try:
        first = pd.Timestamp(start)  # may lie outside the years of nanoseconds: records without a date use year 1
    except (ValueError, TypeError, OverflowError):
        first = pd.NaT
    if first is pd.NaT or isinstance(start, (int, float)):
        raise FlowrankError(
            argument,
            expected=f"a time or a pandas.Period as the start of series {name!r}",
            found=repr(start),
            todo="write it as e.g. 2024-01-31",
        )
    if reading.utc:
        first = first.tz_localize("UTC") if first.tz is None else first.tz_convert("UTC")
    return Series(name, target, first, None if freq is None else anchored_frequency(freq, first))
