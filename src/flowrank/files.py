"""Outputs that are whole or absent: written under a temporary name, then renamed; and the logs of runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flowrank.errors import FlowrankError


def refuse_existing(
    path: str | Path,
    *,
    overwrite: bool,
    argument: str = "output",
    kind: Literal["file", "folder"] | None = None,
    owned: Sequence[str] = ("*",),
) -> Path:
    """Return ``path``, or refuse it if something is there and ``overwrite`` is false.

    Call it before long work, so that nobody waits for an hour to be told that a name is taken.

    Parameters
    ----------
    path
        Where the output is to go.
    overwrite
        Whether what is there may be replaced. A file is never replaced by a folder, nor a folder by a file where
        ``kind`` says which of them comes, nor a folder that holds the current one.
    argument
        Name of the argument that errors are about.
    kind
        What is to be written.
    owned
        Name patterns of what a folder may hold to be replaced; anything else in it is somebody's work.

    Raises
    ------
    FlowrankError
        If ``path`` exists and may not be replaced, or a parent of it is not a folder.

    Examples
    --------
    >>> refuse_existing("no-such-file.csv", overwrite=False).name
    'no-such-file.csv'
    """
    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise FlowrankError(
            argument,
            expected="a path that does not exist yet",
            found=f"{str(path)!r}, which exists",
            todo="choose another name or ask for overwriting (overwrite=True, --overwrite)",
        )
    if path.exists() and kind is not None and path.is_dir() != (kind == "folder"):
        raise FlowrankError(
            argument,
            expected=f"a {kind} to replace, or a path that does not exist yet",
            found=f"{str(path)!r}, which is a {'folder' if path.is_dir() else 'file'}",
            todo="choose another path",
        )
    if path.is_dir() and Path.cwd().is_relative_to(path.resolve()):
        raise FlowrankError(
            argument,
            expected="a folder that may be replaced as a whole",
            found=f"{str(path)!r}, which holds the current folder",
            todo="choose another path",
        )
    strangers = sorted(
        entry.name
        for entry in (path.iterdir() if path.is_dir() else ())
        if not any(fnmatch(entry.name, pattern) for pattern in owned)
    )
    if strangers:
        raise FlowrankError(
            argument,
            expected="a folder that holds nothing but an earlier output, to replace it",
            found=f"{str(path)!r} with {', '.join(map(repr, strangers[:3]))}{' …' if strangers[3:] else ''}",
            todo="choose another path, or move those files away",
        )
    for parent in path.absolute().parents:
        if parent.exists():
            if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
                raise FlowrankError(
                    argument,
                    expected="a path in a folder that may be written to",
                    found=f"{str(path)!r}, where {str(parent)!r} may not",
                    todo="choose another path",
                )
            if not parent.is_dir():
                raise FlowrankError(
                    argument,
                    expected="a path inside a folder",
                    found=f"{str(path)!r}, where {str(parent)!r} is a file",
                    todo="choose another path",
                )
            break
    return path


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False, argument: str = "output") -> Iterator[Path]:
    """Give a temporary path next to ``path``; rename it to ``path`` when the block ends without an error.

    The file has the permissions of any new one.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = refuse_existing(path, overwrite=overwrite, argument=argument, kind="file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, partial(Path.touch, exist_ok=False))
    try:
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(stat.S_IMODE(permissions))  # safetensors puts a private file in its place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    path: str | Path, *, overwrite: bool = False, argument: str = "output", owned: Sequence[str] = ("*",)
) -> Iterator[Path]:
    """Give a temporary folder next to ``path``; rename it to ``path`` when the block ends without an error.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "model"
    >>> with atomic_folder(target) as temporary:
    ...     _ = (temporary / "config.json").write_text("{}")
    >>> sorted(p.name for p in target.iterdir())
    ['config.json']
    """
    path = refuse_existing(path, overwrite=overwrite, argument=argument, kind="folder", owned=owned)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, Path.mkdir)
    retired: Path | None = None
    try:
        yield temporary
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, retired / path.name)
        os.replace(temporary, path)
    finally:
        if retired is not None:
            if not path.exists():  # interrupted between the two renames
                os.replace(retired / path.name, path)
            shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path, make: Callable[[Path], None]) -> Path:
    """Make something under a new hidden name; unlike `tempfile`'s, others may read it as far as the umask lets them."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
        try:
            make(temporary)
        except FileExistsError:
            continue
        return temporary


def refuse_existing_in(folder: str | Path, names: Sequence[str], *, overwrite: bool, argument: str = "output") -> Path:
    """Return ``folder``, or refuse it if it cannot take files of those names; others in it do not matter.

    Raises
    ------
    FlowrankError
        If one of the files exists and ``overwrite`` is false, or ``folder`` is or lies in a file.

    Examples
    --------
    >>> refuse_existing_in("no-such-folder", ["analysis.json"], overwrite=False).name
    'no-such-folder'
    """
    folder = Path(folder).expanduser()
    for name in names:
        refuse_existing(folder / name, overwrite=overwrite, argument=argument)
    return folder


@contextmanager
def atomic_files(
    folder: str | Path, names: Sequence[str], *, overwrite: bool = False, argument: str = "output"
) -> Iterator[Path]:
    """Give a temporary folder; move the files of those names from it to ``folder`` when the block ends well.

    What else lies in ``folder`` stays; a file of those names that was not written this time goes.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (target / "scores.csv").write_text("mine")
    >>> with atomic_files(target, ["analysis.json"]) as temporary:
    ...     _ = (temporary / "analysis.json").write_text("{}")
    >>> sorted(p.name for p in target.iterdir())
    ['analysis.json', 'scores.csv']
    """
    folder = refuse_existing_in(folder, names, overwrite=overwrite, argument=argument)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".flowrank.", dir=folder) as temporary:
        yield Path(temporary)
        for name in names:
            written = Path(temporary) / name
            if written.exists():
                os.replace(written, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def read_json_lines(path: Path, *, broken: Literal["skip", "stop", "refuse"]) -> list[Any]:
    r"""Values of a log of one JSON value a line, whose last line may have been cut off.

    Parameters
    ----------
    path
        The log.
    broken
        What to do about a line that is no JSON: pass over it, end there, or raise a ``ValueError`` unless it is the
        beginning of a last one.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = path.write_text('{"step": 1}\n{"st')
    >>> read_json_lines(path, broken="refuse")
    [{'step': 1}]
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found: list[Any] = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except ValueError:
            if broken == "refuse" and (number < len(lines) - 1 or not (found or line.startswith("{"))):
                raise
            if broken == "stop":
                break
    return found


def refuse_other_run(
    folder: Path,
    record: str,
    settings: Mapping[str, Any],
    *,
    run: str,
    argument: str = "folder",
    harmless: Collection[str] = (),
    leftover: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Refuse a folder that holds something else than the same run, which can go on there.

    Parameters
    ----------
    folder
        Where a run keeps what it needs to go on.
    record
        Name of the JSON file there that tells one run from another.
    settings
        What this run would write into it.
    run
        What such a run is called.
    argument
        Name of the argument that errors are about.
    harmless
        Settings that may differ.
    leftover
        Whether a file may lie there without a record.

    Raises
    ------
    FlowrankError
        If settings differ, or there are files but no record.

    Examples
    --------
    >>> refuse_other_run(Path("no-such-folder"), "run.json", {"seed": 0}, run="search")
    """
    path = folder / record
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        refuse_other_settings(str(folder), before, settings, run=run, argument=argument, harmless=harmless)
    elif folder.exists() and (not folder.is_dir() or not all(map(leftover, folder.iterdir()))):
        raise no_place_to_go_on(argument, run, f"{str(folder)!r}, which holds something else")


def refuse_other_settings(
    place: str,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    run: str,
    argument: str,
    harmless: Collection[str] = (),
) -> None:
    """Refuse a place, a folder or an address, whose record tells of a run with other settings.

    Parameters
    ----------
    place
        Where the record lies.
    before
        The record.
    settings, run, argument, harmless
        As in `refuse_other_run`.

    Raises
    ------
    FlowrankError
        If they differ.

    Examples
    --------
    >>> refuse_other_settings("out", {"seed": 0}, {"seed": 0}, run="search", argument="output")
    """
    now = json.loads(json.dumps(settings))
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if set(names) - set(harmless):
        raise no_place_to_go_on(
            argument, run, f"{place!r}, which holds one with another {', '.join(names[:5])}{' …' if names[5:] else ''}"
        )


def no_place_to_go_on(argument: str, run: str, found: str) -> FlowrankError:
    """What is said of a place that holds something else than a run that could go on there."""
    expected = f"a new folder, or one of the same {run} to go on with"
    return FlowrankError(argument, expected=expected, found=found, todo="choose another folder")
