"""Folders wherever they are: on this machine, in an object store, or at any address that Arrow or fsspec opens."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.graphs.folder import digest

_UNFINISHED = re.compile(r"\.(part-\d{5,}\.(parquet|json)|run\.json|manifest\.json)\.[0-9a-f]{8}")


@dataclass(frozen=True)
class File:
    """A file in a folder.

    Attributes
    ----------
    name
        Relative to the folder; empty where the folder is a file itself.
    bytes
        Its size.
    changed
        When it was written last, in nanoseconds since 1970; None where the place does not tell.
    """

    name: str
    bytes: int
    changed: int | None


@dataclass(frozen=True)
class Folder:
    """A folder, by its address.

    Parameters
    ----------
    address
        A path, or an address such as ``s3://bucket/folder``; credentials come from the store's own chain (environment,
        profile, role), never from here.

    Examples
    --------
    >>> Folder("no-such-folder").files()
    []
    """

    address: str

    @property
    def _opened(self) -> tuple[Any, str]:
        from pyarrow import fs

        if "://" not in self.address:
            return fs.LocalFileSystem(), str(Path(self.address).expanduser().absolute())
        try:
            return fs.FileSystem.from_uri(self.address)
        except Exception as error:
            return _by_fsspec(self.address, error)

    def _told(self, path: str) -> Any:
        """What is at a path."""
        try:
            return self._opened[0].get_file_info(path)
        except OSError as error:
            raise FlowrankError(
                "address",
                expected="a place that can be reached",
                found=f"{self.address!r} ({error})",
                todo="check its spelling, and the access that the environment, a profile or a role gives",
            ) from error

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return "://" not in self.address or self.address.startswith("file://")

    def files(self) -> list[File]:
        """The files in it and in its folders, sorted by name; of a file, itself.

        What begins with a point or an underline belongs to whoever wrote the folder, and is left out.

        Raises
        ------
        FlowrankError
            If the place cannot be reached.
        """
        from pyarrow import fs

        system, path = self._opened
        info = self._told(path)
        if info.type == fs.FileType.File:
            return [File("", info.size, info.mtime_ns)]
        chosen = fs.FileSelector(path, allow_not_found=True, recursive=True)
        found = [
            File(one.path[len(path) :].lstrip("/"), one.size, one.mtime_ns)
            for one in system.get_file_info(chosen)
            if one.type == fs.FileType.File
        ]
        shown = [one for one in found if not any(part.startswith((".", "_")) for part in one.name.split("/"))]
        return sorted(shown, key=lambda one: one.name)

    def open(self, name: str) -> Any:
        """Open a file to read it at any place."""
        system, path = self._opened
        return system.open_input_file(f"{path}/{name}" if name else path)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        from pyarrow import fs

        info = self._told(f"{self._opened[1]}/{name}")
        return info.size if info.type == fs.FileType.File else None

    def read_json(self, name: str) -> Any:
        """What a JSON file holds; None if it is not there."""
        if self.size(name) is None:
            return None
        with self.open(name) as file:
            return json.loads(file.read())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        with self.writing(name) as file:
            file.write((json.dumps(value, indent=1) + "\n").encode())

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """Open a file to write; it appears when it is whole.

        On disks it is written under another name and renamed. For an object store it is written on this machine, and
        uploaded when it is whole.
        """
        system, path = self._opened
        place = f"{path}/{name}"
        parent, _, last = place.rpartition("/")
        if not self.is_local:
            with tempfile.TemporaryFile() as whole:
                yield whole
                whole.seek(0)
                with system.open_output_stream(place) as stream:
                    shutil.copyfileobj(whole, stream)
            return
        system.create_dir(parent, recursive=True)
        temporary = f"{parent}/.{last}.{secrets.token_hex(4)}"
        try:
            with system.open_output_stream(temporary) as stream:
                yield stream
            system.move(temporary, place)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Remove a file, and on a disk the folders that become empty by it; nothing if it is not there."""
        if self.size(name) is None:
            return
        system, path = self._opened
        system.delete_file(f"{path}/{name}")
        if self.is_local:
            with suppress(OSError):  # something else lies there
                for one in Path(path, name).parents[: len(Path(name).parts)]:
                    one.rmdir()

    def remove_unfinished(self) -> None:
        """Remove what writers that were killed left on a disk."""
        if self.is_local:
            for one in Path(self._opened[1]).rglob(".*"):
                if _UNFINISHED.fullmatch(one.name):
                    one.unlink(missing_ok=True)


def absolute(place: str | Path) -> str:
    """A path that means the same wherever it is read; an address as it is."""
    return str(place) if "://" in str(place) else str(Path(place).expanduser().absolute())


def model_path(model: str | Path) -> str:
    """A model's name as it is; the path of one in a folder as an absolute path."""
    return absolute(model) if Path(model).expanduser().exists() else str(model)


def model_identity(model: str | Path) -> str:
    """What tells a model from others: its name, and of a folder a digest of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return str(model)
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    told = [(one.relative_to(folder).as_posix(), digest(one)) for one in files]
    found = hashlib.sha256(json.dumps(told).encode())
    return f"{folder.name} {found.hexdigest()[:16]}"


def _by_fsspec(address: str, error: Exception) -> tuple[Any, str]:
    """What fsspec opens and Arrow does not."""
    from pyarrow import fs

    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(address)
    except Exception as other:
        raise FlowrankError(
            "address",
            expected="a path, or an address that Arrow or fsspec opens",
            found=f"{address!r} ({error}; {other})",
            todo="check its spelling, and install what fsspec needs for it",
        ) from other
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path.rstrip("/")
