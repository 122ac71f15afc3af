"""CSV and Parquet files, read piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.opening import arrow_stream, encoding_of, head_of, undecodable

if TYPE_CHECKING:
    import pyarrow as pa

_PARQUET_SUFFIXES = (".parquet", ".pq")
_ROWS = 128  # rows of a table with one row a series that are in memory together


def is_parquet(path: str | Path, *, argument: str = "series", encoding: str | None = None) -> bool:
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
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        raise FlowrankError(
            argument,
            expected="a Parquet file",
            found=f"{str(path)!r}, which begins with {head[:8]!r}",
            todo="pass a Parquet file, or rename it if it is a CSV file",
        )
    text = head_of(path, argument, 4096)
    if text.startswith(b"PAR1") or not text:
        raise FlowrankError(
            argument,
            expected="a CSV file with rows in the compressed file",
            found=f"{str(path)!r}, which holds " + ("a Parquet file" if text else "nothing"),
            todo="unpack it" if text else "check that it is complete",
        )
    encoding_of(text, path, encoding, argument)
    return False


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
            yield table.select(names).to_pandas(ignore_metadata=True)

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
    encoding: str | None = None

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
            except _faults() as error:
                raise self._damaged(error) from error

    def _open(self, names: list[str] | None):
        import pyarrow as pa
        from pyarrow import csv

        try:
            types = dict.fromkeys(names or (), pa.string())
            encoding, delimiter, block = self._form()
            return csv.open_csv(
                arrow_stream(self.path, self.argument),
                read_options=csv.ReadOptions(block_size=block, encoding=encoding),
                parse_options=csv.ParseOptions(delimiter=delimiter),
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=names, strings_can_be_null=True, null_values=[""]
                ),
            )
        except _faults() as error:
            raise self._damaged(error) from error

    def delimiter(self) -> str:
        """Return what separates the cells of the header."""
        return self._form()[1]

    def _form(self) -> tuple[str, str, int]:
        """Return the encoding, the delimiter and the bytes to read at once, as the beginning shows them."""
        head = head_of(self.path, self.argument)
        encoding = encoding_of(head, self.path, self.encoding, self.argument)
        header = head.decode(encoding, errors="replace").split("\n", 1)[0]
        block = 1 << 20 if len(header) < 8192 else 32 << 20  # of a wide table, a line may have megabytes
        return "utf-8" if encoding == "utf-8-sig" else encoding, max(",;\t|", key=header.count), block

    def _damaged(self, error: Exception) -> FlowrankError:
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            other = undecodable(self.path, self.encoding or "utf-8", self.argument)
            if other is not None:
                return other
        return FlowrankError(
            self.argument,
            expected="a CSV file with a header line and equally many cells in each line",
            found=f"{self.path!r}, which cannot be read ({error})",
            todo="correct the file",
        )


def _faults() -> tuple[type[Exception], ...]:
    """What reading a damaged text file may raise."""
    import pyarrow as pa

    return pa.ArrowException, OSError, EOFError, UnicodeError, zlib.error
