"""Text files as they come: compressed, with a byte order mark, in another encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from flowrank.errors import FlowrankError

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}
_OTHER_FORMATS = {
    b"ARROW1": "an Arrow or Feather file",
    b"FEA1": "a Feather file",
    b"ORC": "an ORC file",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls)",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF file",
    b"SQLite format 3": "an SQLite file",
    b"\x93NUMPY": "a NumPy file",
}
_SUFFIXES = {".json": "a JSON file", ".jsonl": "a JSON file", ".xls": "an old Excel file (.xls)", ".ods": "an ODS file"}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def _packing(path: str | Path) -> str | None:
    """Tell how a file is compressed, from its beginning."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def opened(path: str | Path, argument: str) -> IO[bytes]:
    """Open a text file for reading, unpacked if it is compressed: gzip, bz2, zstd, xz, or a zip archive of one file.

    Raises
    ------
    FlowrankError
        If the archive holds none or several files.
    """
    kind = _packing(path)
    if kind == "gzip":
        return cast("IO[bytes]", gzip.open(path))
    if kind == "bz2":
        return cast("IO[bytes]", bz2.open(path))
    if kind == "xz":
        return cast("IO[bytes]", lzma.open(path))
    if kind == "zstd":
        import pyarrow as pa

        return cast("IO[bytes]", pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    if kind == "zip":
        return _member(path, argument)
    return open(path, "rb")


def arrow_stream(path: str | Path, argument: str) -> Any:
    """Open a text file, unpacked, for Arrow to read: by its own means where it has some."""
    import pyarrow as pa

    kind = _packing(path)
    if kind in ("xz", "zip"):
        return pa.PythonFile(opened(path, argument), mode="r")
    return pa.OSFile(str(path)) if kind is None else pa.CompressedInputStream(pa.OSFile(str(path)), kind)


def _member(path: str | Path, argument: str) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX")]
    if len(names) != 1:
        raise FlowrankError(
            argument,
            expected="a zip archive that holds one CSV file",
            found=f"{str(path)!r} with {len(names)} files" + (f": {', '.join(names[:5])}" if names else ""),
            todo="unpack it, and pass one file",
        )
    return archive.open(names[0])


def head_of(path: str | Path, argument: str, size: int = 65536) -> bytes:
    """Return the beginning of a text file, unpacked.

    Raises
    ------
    FlowrankError
        If it cannot be unpacked.
    """
    try:
        with opened(path, argument) as file:
            return bytes(file.read(size))
    except FlowrankError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, RuntimeError, NotImplementedError) as error:
        raise FlowrankError(
            argument,
            expected="a CSV file, a Parquet file or a compressed CSV file",
            found=f"{str(path)!r}, which cannot be unpacked ({error})",
            todo="pass the unpacked file",
        ) from error


def encoding_of(head: bytes, path: str | Path, encoding: str | None, argument: str) -> str:
    """Return the encoding of a text that begins so: by its byte order mark, else UTF-8, if none is given.

    Raises
    ------
    FlowrankError
        If the given encoding is unknown, or the text is none: another format, or UTF-16 without a mark.

    Examples
    --------
    >>> encoding_of("id".encode("utf-16"), "a.csv", None, "series"), encoding_of(b"id", "a.csv", None, "series")
    ('utf-16', 'utf-8')
    """
    if encoding is not None:
        try:
            name = codecs.lookup(encoding).name
            "a".encode(name)
        except LookupError:
            raise FlowrankError(
                "encoding",
                expected="the name of a text encoding",
                found=repr(encoding),
                todo='pass e.g. "latin-1", "cp1252", "utf-16"',
            ) from None
        return "utf-8-sig" if name == "utf-8" and head.startswith(codecs.BOM_UTF8) else name
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    kind = next((kind for magic, kind in _OTHER_FORMATS.items() if head.startswith(magic)), None)
    kind = kind or _SUFFIXES.get(Path(path).suffix.lower())
    if kind is not None or b"\0" in head:
        wide = kind is None and head.count(b"\0") > len(head) // 4
        raise FlowrankError(
            argument,
            expected="a CSV text file, a Parquet file or an Excel file (.xlsx)",
            found=f"{str(path)!r}, " + (kind or f"which begins with {head[:8]!r}"),
            todo="name its encoding (encoding=, --encoding utf-16-le or utf-16-be)"
            if wide
            else "convert it to CSV or Parquet",
        )
    return "utf-8"


def undecodable(path: str | Path, encoding: str, argument: str) -> FlowrankError | None:
    """Return the error that names the first line of a file that is not text in ``encoding``; None if all of it is."""
    with opened(path, argument) as file:
        if not encoding.startswith("utf-8"):
            return None
        for number, line in enumerate(cast(Any, file)):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                shown = line[max(0, error.start - 10) : error.start + 10].decode("latin-1").strip()
                where = f"row {number - 1} (line {number + 1} of the file)" if number else "the header line"
                return FlowrankError(
                    argument,
                    expected=f"UTF-8 text in the CSV file {str(path)!r}",
                    found=f"other bytes in {where}: {shown!r} if they are latin-1",
                    todo="name the encoding (encoding=, --encoding, e.g. latin-1, cp1252, shift-jis)",
                )
    return None
