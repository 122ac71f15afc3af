"""Forecasts in a file that appears when it is whole."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file, refuse_existing
from flowrank.forecasting.skipping import Skipped, skipped_path, write_skipped
from flowrank.forecasting.sources import check_asked, opened
from flowrank.forecasting.tables import iter_forecasts
from flowrank.forecasting.texts import write_csv
from flowrank.series import read_series
from flowrank.series.ids import IdType

if TYPE_CHECKING:
    import pyarrow as pa
    from chronos import BaseChronosPipeline

_READING = {*inspect.signature(read_series).parameters, "past_covariates", "future"} - {"source", "argument", "on_bad"}
_ASKED = ("target", "past_covariates", "future", "cross_learning")
_ROW_GROUP = 65_536  # rows of a Parquet file that are written together


def write_forecasts(
    pipeline: BaseChronosPipeline,
    source: Any,
    output: str | Path,
    *,
    horizon: int,
    overwrite: bool = False,
    skip_bad: bool = False,
    skipped: list[Skipped] | None = None,
    **options: Any,
) -> Path:
    """Forecast every series of a source into a CSV or Parquet file, batch by batch.

    The file appears when it is whole; an error or an interruption leaves what was there before. Parameters
    are those of `forecast`, and ``output``, a path that ends in ``.csv`` or ``.parquet``. In a CSV file all times are
    written alike; series that ``skip_bad`` leaves out are listed in a file beside it, ``NAME.skipped.csv``.

    Raises
    ------
    FlowrankError
        As `forecast`, and if ``output`` exists while ``overwrite`` is false, or has another ending.
    """
    output = refuse_existing(output, overwrite=overwrite)
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise FlowrankError(
            "output",
            expected="a path that ends in .csv or .parquet",
            found=repr(str(output)),
            todo="rename it",
        )
    skipped = [] if skipped is None else skipped
    check_asked(pipeline, **{name: options[name] for name in _ASKED if name in options})
    source = opened(source, **{name: options[name] for name in _READING if name in options})
    frames = iter_forecasts(pipeline, source, horizon=horizon, skip_bad=skip_bad, skipped=skipped, **options)
    listed = skipped_path(output)
    if skip_bad:
        refuse_existing(listed, overwrite=overwrite, kind="file")
    with atomic_file(output, overwrite=overwrite) as temporary:
        if output.suffix.lower() == ".csv":
            write_csv(frames, temporary)
        else:
            _write_parquet(frames, temporary, source.ids)
        if skipped:
            with atomic_file(listed, overwrite=overwrite) as other:
                write_skipped(skipped, other)
        elif skip_bad:
            listed.unlink(missing_ok=True)  # of an earlier run
    return output


def _write_parquet(frames: Iterator[pd.DataFrame], path: Path, ids: IdType) -> None:
    import pyarrow.parquet as pq

    writer = None
    waiting: list[pd.DataFrame] = []
    try:
        for frame in chain(frames, [None]):
            if frame is not None:
                waiting.append(frame)
            if not waiting or (frame is not None and sum(map(len, waiting)) < _ROW_GROUP):
                continue
            table = _joined([_arrow(one, ids) for one in waiting], writer and writer.schema)
            waiting = []
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _joined(tables: list[pa.Table], schema: pa.Schema | None) -> pa.Table:
    """Join tables, of the schema of those before them."""
    import pyarrow as pa

    schema = schema or tables[0].schema
    for table in tables:
        if not table.schema.equals(schema):
            pair = next((one, other) for one, other in zip(table.schema, schema, strict=True) if not one.equals(other))
            raise FlowrankError(
                "output",
                expected=f"values of one type in {pair[0].name!r}, as a Parquet file is to hold them",
                found=f"{pair[1].type} and {pair[0].type}",
                todo="write a CSV file, or pass values of one type",
            )
    return pa.concat_tables(tables)


def _arrow(frame: pd.DataFrame, ids: IdType) -> pa.Table:
    """Return a table with ids of their type, and times in microseconds, which reach every year of another batch."""
    import pyarrow as pa

    name = frame.columns[0]
    values = frame.iloc[:, 0]
    try:
        column = pa.array(values, type=ids.arrow, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if not all(isinstance(one, uuid.UUID) for one in values):
            raise FlowrankError(
                "output",
                expected="ids of one type, as a Parquet file is to hold them",
                found=f"ids of types {', '.join(sorted({type(one).__name__ for one in values}))} in {name!r}",
                todo="write a CSV file, or pass ids of one type",
            ) from error
        column = pa.array(values.map(str), type=pa.string())
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    table = pa.Table.from_pandas(frame.iloc[:, 1:].rename(columns=str), preserve_index=False)
    table = table.replace_schema_metadata(None).add_column(0, str(name), column)
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if number and pa.types.is_timestamp(field.type) else field
        for number, field in enumerate(table.schema)
    ]
    return table.cast(pa.schema(fields))
