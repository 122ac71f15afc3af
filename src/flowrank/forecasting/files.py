"""Forecasts in a file that appears when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file, refuse_existing
from flowrank.forecasting.tables import iter_forecasts

if TYPE_CHECKING:
    import pyarrow as pa
    from chronos import BaseChronosPipeline

_ROW_GROUP = 65_536  # rows of a Parquet file that are written together


def write_forecasts(
    pipeline: BaseChronosPipeline,
    source: Any,
    output: str | Path,
    *,
    horizon: int,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Forecast every series of a source into a CSV or Parquet file, batch by batch.

    The file appears when it is whole; an error or an interruption leaves what was there before. Parameters
    are those of `forecast`, and ``output``, a path that ends in ``.csv`` or ``.parquet``.

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
    frames = iter_forecasts(pipeline, source, horizon=horizon, **options)
    with atomic_file(output, overwrite=overwrite) as temporary:
        if output.suffix.lower() == ".csv":
            for number, frame in enumerate(frames):
                frame.to_csv(temporary, mode="a" if number else "w", header=number == 0, index=False)
        else:
            _write_parquet(frames, temporary)
    return output


def _write_parquet(frames: Iterator[pd.DataFrame], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    waiting: list[pd.DataFrame] = []
    try:
        for frame in chain(frames, [None]):
            if frame is not None:
                waiting.append(frame)
            if not waiting or (frame is not None and sum(map(len, waiting)) < _ROW_GROUP):
                continue
            table = pa.concat_tables([_arrow(one) for one in waiting])
            waiting = []
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Return a table with times in microseconds, which reach every year that another batch may need."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
