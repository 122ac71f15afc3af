"""Partitions of Parquet files: planned once, forecast one by one, each with a record of what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrank.distributed.addresses import File, Folder
from flowrank.distributed.faults import missing_ids
from flowrank.distributed.forecaster import ERROR, Forecaster
from flowrank.distributed.time_columns import of_lists
from flowrank.errors import FlowrankError
from flowrank.forecasting.sources import several

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = "_flowrank"
"""Folder in the output for what a run needs to go on; readers of Parquet folders pass over it."""
_ROWS = 2048  # series that are held at once


@dataclass(frozen=True)
class Partition:
    """A part of the input.

    Attributes
    ----------
    number
        From 0 on.
    file
        Name in the input's folder.
    row_groups
        Of the file, where it has one row a series; None: the whole file.
    """

    number: int
    file: str
    row_groups: tuple[int, int] | None = None

    @property
    def output(self) -> str:
        """Name of its forecasts."""
        return f"part-{self.number:05}.parquet"

    @property
    def record(self) -> str:
        """Name of its record."""
        return f"{KEPT}/part-{self.number:05}.json"

    def __str__(self) -> str:
        groups = "" if self.row_groups is None else f", row groups {self.row_groups[0]} to {self.row_groups[1] - 1}"
        return f"{self.file or 'the file'}{groups}"


def is_parquet(one: File) -> bool:
    """Whether a file is read: its name ends so, or it was named itself."""
    return not one.name or one.name.lower().endswith((".parquet", ".pq"))


def check_files(source: Folder, files: list[File], forecaster: Forecaster) -> None:
    """Refuse folders without Parquet files, and files that say by where they lie what is not read.

    Raises
    ------
    FlowrankError
        If there are none, several hold the one series that has no id, or a folder's name holds the value of a column
        that is asked for.
    """
    if not files:
        raise FlowrankError(
            "series", expected="Parquet files", found=f"none in {source.address!r}", todo="check the address"
        )
    if forecaster.id_column is None and len(files) > 1:
        raise FlowrankError(
            "id_column",
            expected="the column that tells series apart, where there are several files",
            found=f"None, and {len(files)} files",
            todo="name it, or write the series into one file",
        )
    asked = {forecaster.id_column, forecaster.time_column, "start", "freq", *(name for _, name in forecaster.lists)}
    for one in files:
        for part in one.name.split("/")[:-1]:
            if (column := part.partition("=")[0]) != part and column in asked:
                raise FlowrankError(
                    "series",
                    expected=f"{column!r} as a column of each file",
                    found=f"the folder {part!r}, whose name is not read",
                    todo="write the column into the files",
                )


def planned(
    source: Folder,
    files: list[File],
    target: Any,
    series: int,
    *,
    skip_bad: bool = False,
) -> list[Partition]:
    """Divide the Parquet files of a folder into partitions.

    Files with one row a series are divided between row groups, into parts of about so many ``series``; others, with a
    row a value, are a partition each, as a series may lie anywhere in them.

    Raises
    ------
    FlowrankError
        If their columns differ, or, without ``skip_bad``, one cannot be read; with it, its partition is refused later.
    """
    import pyarrow.parquet as pq

    found: list[Partition] = []
    first: tuple[str, pa.Schema] | None = None
    for name in (one.name for one in files):
        try:
            with source.open(name) as opened:
                file = pq.ParquetFile(opened)
                schema, groups = file.schema_arrow.remove_metadata(), file.metadata.num_row_groups
                rows = [file.metadata.row_group(i).num_rows for i in range(groups)]
        except (OSError, ValueError) as error:
            if not skip_bad:
                raise _unreadable(name or source.address, error) from error
            found.append(Partition(len(found), name))
            continue
        if first is None:
            first = name, schema
        _check_same(name, schema, *first)
        column = several(target)[0]
        if column not in schema.names or not of_lists(schema.field(column).type):
            found.append(Partition(len(found), name))
            continue
        start, held = 0, 0
        for i, count in enumerate(rows):
            held += count
            if held >= series or i == groups - 1:
                found.append(Partition(len(found), name, (start, i + 1)))
                start, held = i + 1, 0
    return found


def _check_same(name: str, schema: pa.Schema, first: str, expected: pa.Schema) -> None:
    if schema.equals(expected):
        return
    mine, theirs = (
        {one.name: f"{one.type}{'' if one.nullable else ' not null'}" for one in some} for some in (schema, expected)
    )
    differ = sorted(one for one in {*mine, *theirs} if mine.get(one) != theirs.get(one))
    told = "; ".join(f"{one!r}: {mine.get(one, 'missing')}, not {theirs.get(one, 'missing')}" for one in differ)
    raise FlowrankError(
        "series",
        expected=f"the columns of {first!r} in every file, in their order",
        found=f"{name!r} ({told or 'in another order'})",
        todo="write the files with one schema",
    )


def forecast_partition(forecaster: Forecaster, source: Folder, output: Folder, one: Partition) -> dict[str, Any]:
    """Forecast a partition into its file, and write its record.

    Returns
    -------
    dict
        ``series``, ``forecast``, ``skipped``: how many; ``rows`` and ``bytes`` of its file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    series, rows, skipped = 0, 0, 0
    with _opened(source, one) as file, output.writing(one.output) as stream:
        schema = forecaster.schema(file.schema_arrow)
        with pq.ParquetWriter(stream, schema) as writer:
            for found, count in _parts(forecaster, file, one):
                wrong = pa.compute.sum(found[ERROR].is_valid()).as_py() or 0 if forecaster.skip_bad else 0
                skipped, rows, series = skipped + wrong, rows + len(found), series + count
                writer.write_table(found)
    steps = forecaster.horizon * len(several(forecaster.target))
    if rows - skipped != (series - skipped) * steps:
        raise FlowrankError(
            "series",
            expected=f"{steps} rows for each of {series - skipped} series of {one}",
            found=f"{rows - skipped}",
            todo="report this as a fault of flowrank",
        )
    record = {"partition": asdict(one), "series": series, "forecast": series - skipped, "skipped": skipped}
    record |= {"rows": rows, "bytes": output.size(one.output)}
    output.write_json(one.record, record)
    return record


@contextmanager
def _opened(source: Folder, one: Partition) -> Iterator[Any]:
    """The file of a partition; one that is no Parquet file, or no more, is told as such."""
    import pyarrow.parquet as pq

    try:
        opened = source.open(one.file)
        file = pq.ParquetFile(opened)
    except (OSError, ValueError) as error:
        raise _unreadable(one.file, error) from error
    with opened:
        yield file


def _parts(forecaster: Forecaster, file: Any, one: Partition) -> Iterator[tuple[pa.Table, int]]:
    """Forecasts, and of how many series, a part at a time."""
    import pyarrow as pa

    if one.row_groups is not None:
        first, last = one.row_groups
        row = sum(file.metadata.row_group(i).num_rows for i in range(first))
        for batch in _readable(file.iter_batches(_ROWS, row_groups=list(range(first, last))), one):
            yield forecaster(batch, first_row=row), len(batch)
            row += len(batch)
        return
    if further := [name for argument, name in forecaster.lists if argument != "target"]:
        raise FlowrankError(
            "past_covariates" if forecaster.options.get("past_covariates") else "future",
            expected="files with one row a series where there are covariates",
            found=f"a row for each value in {one}, and {', '.join(map(repr, further))}",
            todo="put each series into one row, with a list for each column",
        )
    table = pa.Table.from_batches(list(_readable(file.iter_batches(), one)), file.schema_arrow)
    series = 1 if forecaster.id_column is None else len(table[forecaster.id_column].unique())
    for found in forecaster.tables(table):
        yield found, series
        series = 0


def _readable(batches: Iterator[pa.RecordBatch], one: Partition) -> Iterator[pa.RecordBatch]:
    """The batches of a file, whose faults are told as such."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, ValueError) as error:
            raise _unreadable(one.file, error) from error
        yield batch


def _unreadable(name: str, error: Exception) -> FlowrankError:
    return FlowrankError(
        "series", expected="a Parquet file that can be read", found=f"{name!r} ({error})", todo="write it anew"
    )


def refuse_twice(source: Folder, partitions: list[Partition], id_column: str) -> None:
    """Refuse ids that come twice, before anything is forecast; 8 bytes a series are held.

    Raises
    ------
    FlowrankError
        With an id, and where it is.
    """
    held = [_hashes(_ids(source, one, id_column)) for one in partitions]
    values = np.sort(np.concatenate([np.empty(0, np.uint64), *held]))
    again = values[1:][values[1:] == values[:-1]]
    if not len(again):
        return
    where = [one for one, hashes in zip(partitions, held, strict=True) if again[0] in hashes]
    ids = _ids(source, where[0], id_column)
    name = ids[int(np.flatnonzero(_hashes(ids) == again[0])[0])].as_py()
    raise FlowrankError(
        "series",
        expected="all values of a series in one row, or in one file",
        found=f"series {name!r} in {where[0]}" + (f" and in {where[-1]}" if where[1:] else ", twice"),
        todo="write each series once",
    )


def _ids(source: Folder, one: Partition, column: str) -> pa.ChunkedArray:
    """The ids of a partition, of a file with a row a value each once; none where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with source.open(one.file) as opened:
            file = pq.ParquetFile(opened)
            if one.row_groups is None:
                ids = pa.chunked_array([file.read(columns=[column])[column].unique()])
            else:
                ids = file.read_row_groups([*range(*one.row_groups)], columns=[column])[column]
        has = np.ones(len(ids), bool)
        has[missing_ids(ids)] = False
        return ids.filter(pa.array(has))
    except (OSError, ValueError, KeyError):  # told when the partition is forecast
        return pa.chunked_array([], pa.string())


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes of ids."""
    import pandas as pd

    return pd.util.hash_array(np.array([str(one) for one in ids.to_pylist()], dtype=object), categorize=False)
