"""CSV and Parquet files, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from flowrank.errors import FlowrankError

if TYPE_CHECKING:
    import pyarrow as pa

_PARQUET_SUFFIXES = (".parquet", ".pq")
_ROWS = 128  # rows of a table with one row a series that are in memory together


def is_parquet(path: str | Path, *, argument: str = "series") -> bool:
    """Tell a Parquet file from a text file; refuse all else.

    Raises
    ------
    FlowrankError
        If there is no such file, or it is empty, or neither of the two formats.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("item_id,timestamp,target")
    >>> is_parquet(path)
    False
    """
    path = Path(path)
    if not path.is_file():
        raise FlowrankError(
            argument,
            expected="a CSV or Parquet file",
            found=f"{str(path)!r}, which is " + ("a folder" if path.is_dir() else "not there"),
            todo="check the path",
        )
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise FlowrankError(argument, expected="a file with rows", found=f"{str(path)!r}, which is empty")
    if head.startswith(b"PAR1"):
        return True
    compressed = head.startswith(b"\x1f\x8b") and path.suffix == ".gz"
    if path.suffix.lower() in _PARQUET_SUFFIXES or (not compressed and not _is_text(head)):
        kind = "a Parquet file" if path.suffix.lower() in _PARQUET_SUFFIXES else "a CSV text file"
        raise FlowrankError(
            argument,
            expected=kind,
            found=f"{str(path)!r}, which begins with {head[:8]!r}",
            todo="pass a CSV file, or a Parquet file",
        )
    return False


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the end of the sample cuts
    return True


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file, read a few rows or a row group at a time.

    Examples
    --------
    >>> ParquetFile("a.parquet").path
    'a.parquet'
    """

    path: str
    argument: str = "series"

    def schema(self) -> pa.Schema:
        """Return the names and types of the columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(self.path)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def tables(self, names: list[str], rows: int = _ROWS) -> Iterator[pa.Table]:
        """Yield the columns ``names`` in tables of at most ``rows`` rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=names):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def pieces(self, names: list[str]) -> Iterator[pd.DataFrame]:
        """Yield the columns ``names`` as data frames."""
        for table in self.tables(names, rows=65536):
            yield table.select(names).to_pandas()

    def _damaged(self, error: Exception) -> FlowrankError:
        return FlowrankError(
            self.argument,
            expected="a whole Parquet file",
            found=f"{self.path!r}, which cannot be read ({error})",
            todo="write it again",
        )


@dataclass(frozen=True)
class CsvFile:
    r"""A text file with a header line, separated by commas, semicolons, tabs or bars; gzip is allowed.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("item_id;target\nA;1\n")
    >>> CsvFile(str(path)).names()
    ['item_id', 'target']
    """

    path: str
    argument: str = "series"

    def names(self) -> list[str]:
        """Return the names of the columns."""
        with self._open(None) as reader:
            return reader.schema.names

    def pieces(self, names: list[str]) -> Iterator[pd.DataFrame]:
        """Yield the columns ``names``, as text, in data frames of a few megabytes."""
        import pyarrow as pa

        with self._open(names) as reader:
            try:
                for batch in reader:
                    yield pa.Table.from_batches([batch]).select(names).to_pandas()
            except pa.ArrowException as error:
                raise self._damaged(error) from error

    def _open(self, names: list[str] | None):
        import pyarrow as pa
        from pyarrow import csv

        try:
            types = dict.fromkeys(names or (), pa.string())
            return csv.open_csv(
                pa.input_stream(self.path, compression="detect"),
                read_options=csv.ReadOptions(block_size=4 << 20),
                parse_options=csv.ParseOptions(delimiter=self.delimiter()),
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=names, strings_can_be_null=True, null_values=[""]
                ),
            )
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def delimiter(self) -> str:
        """Return what separates the cells of the header."""
        import pyarrow as pa

        with pa.input_stream(self.path, compression="detect") as stream:
            header = stream.read(65536).split(b"\n", 1)[0].decode("utf-8", errors="replace")
        return max(",;\t|", key=header.count)

    def _damaged(self, error: Exception) -> FlowrankError:
        return FlowrankError(
            self.argument,
            expected="a CSV file with a header line and equally many cells in each line",
            found=f"{self.path!r}, which cannot be read ({error})",
            todo="correct the file",
        )
