"""Rows of many series in any order, put together series by series in little memory."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import IO, cast

import numpy as np

from flowrank.series.runs import runs_of

_BUCKET = 1 << 17  # rows, after which no further series begins in a bucket
_MEMORY = 1 << 24  # bytes that are held before a file takes them


def row_type(columns: int | None = None) -> np.dtype:
    """Return the type of a row with one value, or with an array of so many.

    Examples
    --------
    >>> row_type(3)["value"].shape
    (3,)
    """
    value = ("value", "<f8") if columns is None else ("value", "<f8", (columns,))
    return np.dtype([("code", "<i8"), ("row", "<i8"), ("time", "<i8"), value])


ROW = row_type()


class GroupedRows:
    """Rows in any order, given back with those of each series together, in the order they came in.

    Series are numbered from 0. The rows are written down as they come and counted. Then neighbouring numbers share a
    bucket, a stretch of a second temporary file. In memory is one bucket: 2 ** 17 rows (4 MB; of several values, more)
    and the rest of its last series, however many rows there are. Up to 16 MB there is no file.

    Parameters
    ----------
    row
        Type of the rows, by `row_type`.

    Examples
    --------
    >>> grouped = GroupedRows()
    >>> rows = np.zeros(3, ROW)
    >>> rows["code"], rows["value"] = [0, 1, 0], [1.0, 2.0, 3.0]
    >>> grouped.add(rows)
    >>> [bucket["value"].tolist() for bucket in grouped]
    [[1.0, 3.0, 2.0]]
    >>> grouped.of(1)["value"].tolist()
    [2.0]
    """

    def __init__(self, row: np.dtype = ROW) -> None:
        self._row = row
        self._counts = np.zeros(0, dtype=np.int64)
        self._as_they_came = _temporary(self)
        self._grouped: IO[bytes] | None = None
        self._begins: list[int] = []  # of the buckets, and the end of the last
        self._places: np.ndarray | None = None  # of the first row of each series, once they are sorted
        self._lock = threading.Lock()

    def add(self, rows: np.ndarray) -> None:
        """Take some rows, of the given type; not after the first iteration."""
        counts = np.bincount(rows["code"], minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        self._as_they_came.write(rows.tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all rows of some series at a time, by rising numbers."""
        grouped = self._group()
        for first, last in zip(self._begins[:-1], self._begins[1:], strict=True):
            if first < last:
                with self._lock:
                    rows = self._read(grouped, first, last)
                yield rows[np.argsort(rows["code"], kind="stable")]

    def of(self, code: int) -> np.ndarray:
        """Return the rows of one series, in the order they came in; series may be asked for in any order."""
        grouped = self._group()
        with self._lock:
            if self._places is None:
                self._places = self._sorted(grouped)
            first = int(self._places[code])
            return self._read(grouped, first, first + int(self._counts[code]))

    def _sorted(self, grouped: IO[bytes]) -> np.ndarray:
        """Bring the rows of each series in a bucket together; return where each series begins."""
        for first, last in zip(self._begins[:-1], self._begins[1:], strict=True):
            rows = self._read(grouped, first, last)
            grouped.seek(first * self._row.itemsize)
            grouped.write(rows[np.argsort(rows["code"], kind="stable")].tobytes())
        return np.cumsum(self._counts) - self._counts

    def _group(self) -> IO[bytes]:
        with self._lock:
            if self._grouped is None:
                self._grouped = self._in_buckets()
            return self._grouped

    def _read(self, file: IO[bytes], first: int, last: int) -> np.ndarray:
        file.seek(first * self._row.itemsize)
        return np.frombuffer(file.read((last - first) * self._row.itemsize), self._row)

    def _in_buckets(self) -> IO[bytes]:
        total = int(self._counts.sum())
        bucket_of = (np.cumsum(self._counts) - self._counts) // _BUCKET  # by the row with which a series would begin
        sizes = np.bincount(bucket_of, weights=self._counts).astype(np.int64)
        self._begins = [0, *np.cumsum(sizes).tolist()]
        filled = self._begins[:-1]
        grouped = _temporary(self)
        for first in range(0, total, _BUCKET):
            rows = self._read(self._as_they_came, first, min(first + _BUCKET, total))
            buckets = bucket_of[rows["code"]]
            order = np.argsort(buckets, kind="stable")
            starts = runs_of(buckets[order])
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                bucket = int(buckets[order[start]])
                grouped.seek(filled[bucket] * self._row.itemsize)
                grouped.write(rows[order[start:end]].tobytes())
                filled[bucket] += end - start
        self._as_they_came.close()
        return grouped


def _temporary(owner: object) -> IO[bytes]:
    """Return a file that is gone with its owner."""
    file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(max_size=_MEMORY))  # noqa: SIM115
    weakref.finalize(owner, file.close)
    return file
