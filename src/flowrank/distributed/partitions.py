"""Partitions of Parquet files: planned once, forecast one by one, each with a record of what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrank.distributed.addresses import Folder
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

    @property
    def ids(self) -> str:
        """Name of the file of 64-bit hashes of its ids."""
        return f"{KEPT}/part-{self.number:05}.ids.npy"

    def __str__(self) -> str:
        groups = "" if self.row_groups is None else f", row groups {self.row_groups[0]} to {self.row_groups[1] - 1}"
        return f"{self.file or 'the file'}{groups}"


def planned(source: Folder, target: Any, series: int, argument: str = "series") -> list[Partition]:
    """Divide the Parquet files of a folder into partitions.

    Files with one row a series are divided between row groups, into parts of about so many ``series``; others, with a
    row a value, are a partition each, as a series may lie anywhere in them.

    Raises
    ------
    FlowrankError
        If there are none, or their columns differ.
    """
    import pyarrow.parquet as pq

    found: list[Partition] = []
    first: tuple[str, pa.Schema] | None = None
    files = source.files(".parquet")
    if not files:
        raise FlowrankError(
            argument, expected="Parquet files", found=f"none in {source.address!r}", todo="check the address"
        )
    for name, _ in files:
        try:
            with source.open(name) as opened:
                file = pq.ParquetFile(opened)
                schema, groups = file.schema_arrow.remove_metadata(), file.metadata.num_row_groups
                rows = [file.metadata.row_group(i).num_rows for i in range(groups)]
        except (OSError, ValueError) as error:
            raise _unreadable(name or source.address, error, argument) from error
        if first is None:
            first = name, schema
        _check_same(name, schema, *first, argument)
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


def _check_same(name: str, schema: pa.Schema, first: str, expected: pa.Schema, argument: str) -> None:
    if schema.equals(expected):
        return
    mine, theirs = ({one.name: str(one.type) for one in some} for some in (schema, expected))
    differ = sorted(one for one in {*mine, *theirs} if mine.get(one) != theirs.get(one))
    told = "; ".join(f"{one!r}: {mine.get(one, 'missing')}, not {theirs.get(one, 'missing')}" for one in differ)
    raise FlowrankError(
        argument,
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

    series, ids, rows, skipped = 0, list[np.ndarray](), 0, 0
    with source.open(one.file) as opened, output.writing(one.output) as stream:
        file = pq.ParquetFile(opened)
        schema = forecaster.schema(file.schema_arrow)
        with pq.ParquetWriter(stream, schema) as writer:
            for found, hashes in _parts(forecaster, file, one):
                wrong = pa.compute.sum(found[ERROR].is_valid()).as_py() or 0 if forecaster.skip_bad else 0
                skipped, rows, series = skipped + wrong, rows + len(found), series + len(hashes)
                ids.append(hashes)
                writer.write_table(found)
    steps = forecaster.horizon * len(several(forecaster.target))
    if rows - skipped != (series - skipped) * steps:
        raise FlowrankError(
            "series",
            expected=f"{steps} rows for each of {series - skipped} series of {one}",
            found=f"{rows - skipped}",
            todo="report this as a fault of flowrank",
        )
    with output.writing(one.ids) as stream:
        np.save(stream, np.concatenate([np.empty(0, np.uint64), *ids]))
    record = {"partition": asdict(one), "series": series, "forecast": series - skipped, "skipped": skipped}
    record |= {"rows": rows, "bytes": output.size(one.output)}
    output.write_json(one.record, record)
    return record


def _parts(forecaster: Forecaster, file: Any, one: Partition) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Forecasts, and hashes of the ids that they are of, a part at a time."""
    import pyarrow as pa

    if one.row_groups is not None:
        first, last = one.row_groups
        row = sum(file.metadata.row_group(i).num_rows for i in range(first))
        for batch in _readable(file.iter_batches(_ROWS, row_groups=list(range(first, last))), one):
            found = forecaster(batch, first_row=row)
            ids = batch.column(batch.schema.get_field_index(forecaster.id_column))
            yield found, _marks(ids, [f"row {row + place} of {one.file}" for place in missing_ids(ids)])
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
    ids = pa.array(["all"]) if forecaster.id_column is None else table[forecaster.id_column]
    hashes = _marks(ids, [f"rows without an id of {one.file}"] if len(missing_ids(ids)) else [])
    for found in forecaster.tables(table):
        yield found, hashes
        hashes = hashes[:0]


def _marks(ids: pa.Array | pa.ChunkedArray, places: list[str]) -> np.ndarray:
    """Hashes of ids, each once, and of the places of what has none, as no other part has them."""
    import pyarrow as pa

    named = ids.unique()
    return np.concatenate([np.delete(hashes_of(named), missing_ids(named)), hashes_of(pa.array(places, pa.string()))])


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


def _unreadable(name: str, error: Exception, argument: str = "series") -> FlowrankError:
    return FlowrankError(
        argument, expected="a Parquet file that can be read", found=f"{name!r} ({error})", todo="write it anew"
    )


def hashes_of(ids: pa.Array) -> np.ndarray:
    """64-bit hashes of ids, the same in every process."""
    import pandas as pd

    return pd.util.hash_array(np.array([str(one) for one in ids.to_pylist()], dtype=object), categorize=False)


def twice(output: Folder, partitions: list[Partition]) -> tuple[Partition, Partition, int] | None:
    """Two partitions with an id of the same hash, and the hash; 8 bytes a series are held."""
    held = []
    for one in partitions:
        with output.open(one.ids) as stream:
            held.append(np.load(stream))
    every = np.concatenate([np.empty(0, np.uint64), *held])
    values = np.sort(every)
    again = values[1:][values[1:] == values[:-1]]
    if not len(again):
        return None
    where = [one for one, hashes in zip(partitions, held, strict=True) if again[0] in hashes]
    return where[0], where[-1], int(again[0])


def id_of(source: Folder, one: Partition, column: str, wanted: int) -> Any:
    """The id of a hash in a partition."""
    import pyarrow.parquet as pq

    with source.open(one.file) as opened:
        ids = pq.ParquetFile(opened).read(columns=[column])[column].unique()
    found = np.flatnonzero(hashes_of(ids) == np.uint64(wanted))
    return ids[int(found[0])].as_py() if len(found) else None
