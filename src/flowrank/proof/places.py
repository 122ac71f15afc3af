"""Finds the files of data sets: in a folder, in a cache of the hub, or on the hub."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")


@dataclass(frozen=True)
class Home:
    """A data set on the hub.

    Attributes
    ----------
    repo
        Id of the repository.
    config
        Name of the data set in it.
    """

    repo: str
    config: str


@dataclass(frozen=True)
class Wanted:
    """A data set to be found.

    Attributes
    ----------
    name
        What it is called here.
    homes
        Where on the hub it may be; the first that has files counts.
    """

    name: str
    homes: tuple[Home, ...] = ()


@dataclass(frozen=True)
class DataFiles:
    """A data set that was found.

    Attributes
    ----------
    name
        What it is called here.
    files
        Its Parquet files, in order.
    home
        Where on the hub they come from; None: from a folder of the user.
    revision
        Commit of that repository.
    """

    name: str
    files: tuple[Path, ...]
    home: Home | None = None
    revision: str | None = None


@dataclass
class Found:
    """What a search for data sets gave.

    Attributes
    ----------
    sets
        Those that were found, by name.
    missing
        Names of the others.
    reason
        Why the hub gave nothing, in a word; empty if it was not asked or answered.
    """

    sets: dict[str, DataFiles] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reason: str = ""


def look_in_folder(folder: str | Path, wanted: Sequence[Wanted]) -> Found:
    """Find data sets in a folder of files, a snapshot of a repository, or a cache of the hub.

    Parameters
    ----------
    folder
        Holds ``NAME.parquet`` or ``NAME/*.parquet``, or the ``datasets--*`` folders of a cache. NAME is that of the
        data set, or of its config on the hub.
    wanted
        What to find.

    Raises
    ------
    FlowrankError
        If it is no folder, or of a data set in several files some are missing.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "m5.parquet").write_bytes(b"")
    >>> found = look_in_folder(folder, [Wanted("m5"), Wanted("nn5")])
    >>> list(found.sets), found.missing
    (['m5'], ['nn5'])
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FlowrankError(
            "data",
            expected="a folder with files of the data sets",
            found=f"{str(folder)!r}, which is {'a file' if folder.exists() else 'not there'}",
            todo="check the path",
        )
    found = Found()
    for one in wanted:
        names = dict.fromkeys([one.name, *(home.config for home in one.homes)])
        files = next(filter(None, (_plain(folder, name) for name in names)), ())
        if files:
            found.sets[one.name] = DataFiles(one.name, _whole(one.name, files))
        else:
            found.missing.append(one.name)
    left = [one for one in wanted if one.name in found.missing]
    caches = [cache for cache in (folder, folder / "hub") if next(cache.glob("datasets--*"), None)]
    if left and caches:
        more = look_on_hub(left, offline=True, cache=caches[0])
        found = Found(found.sets | more.sets, more.missing)
    return found


def look_on_hub(wanted: Sequence[Wanted], *, offline: bool = False, cache: Path | None = None) -> Found:
    """Find data sets on the hub, and download what is not in the cache yet.

    Parameters
    ----------
    wanted
        What to find.
    offline
        Whether to look into the cache only.
    cache
        Folder of the cache; None: huggingface_hub's own.

    Raises
    ------
    FlowrankError
        If of a data set in several files some are missing.

    Examples
    --------
    >>> look_on_hub([Wanted("m5")], offline=True).missing
    ['m5']
    """
    found, left = Found(), list(wanted)
    for turn in range(max((len(one.homes) for one in wanted), default=0)):
        by_repo: dict[str, list[tuple[Wanted, Home]]] = defaultdict(list)
        for one in left:
            if turn < len(one.homes):
                by_repo[one.homes[turn].repo].append((one, one.homes[turn]))
        for repo, asked in by_repo.items():
            for data in _in_repo(repo, asked, offline, cache, found):
                found.sets[data.name] = data
        left = [one for one in left if one.name not in found.sets]
    found.missing = [one.name for one in left]
    return found


def _in_repo(
    repo: str, asked: list[tuple[Wanted, Home]], offline: bool, cache: Path | None, found: Found
) -> Iterator[DataFiles]:
    """Those of a repository's data sets that have files; why there are none goes to ``found.reason``."""
    place: dict[str, Any] = {"offline": offline, "cache": cache, "found": found}
    snapshot = _snapshot(repo, ["README.md"], **place)
    if snapshot is None:
        return
    patterns = {home: _patterns(snapshot, home.config) for _, home in asked}
    snapshot = _snapshot(repo, [pattern for some in patterns.values() for pattern in some], **place)
    if snapshot is None:
        return
    for one, home in asked:
        files = sorted({file for pattern in patterns[home] for file in snapshot.glob(pattern)})
        files = [file for file in files if file.suffix == ".parquet" and file.is_file()]
        if files:
            yield DataFiles(one.name, _whole(one.name, _training(files)), home, snapshot.name)


def _snapshot(repo: str, patterns: list[str], *, offline: bool, cache: Path | None, found: Found) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo, repo_type="dataset", allow_patterns=patterns, cache_dir=cache, local_files_only=offline
            )
        )
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        found.reason = type(error).__name__
        return None


def _patterns(snapshot: Path, config: str) -> list[str]:
    """Where in a repository the files of a data set are: as its card says, else in a folder of that name."""
    from huggingface_hub import metadata_load

    card = snapshot / "README.md"
    try:
        said = (metadata_load(card) or {}).get("configs", []) if card.is_file() else []
    except ValueError:
        said = []
    for one in said:
        if one.get("config_name") == config and (paths := list(_paths(one.get("data_files")))):
            return paths
    return [f"{config}/*.parquet"]


def _paths(data_files: Any) -> Iterator[str]:
    """Patterns under ``data_files`` of a card: a text, a list of texts, or a list of splits with their paths."""
    for one in data_files if isinstance(data_files, list) else [data_files]:
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict) and one.get("split", "train") == "train":
            yield from _paths(one.get("path"))


def _plain(folder: Path, name: str) -> tuple[Path, ...]:
    single = folder / f"{name}.parquet"
    return (single,) if single.is_file() else _training(sorted((folder / name).glob("*.parquet")))


def _training(files: list[Path]) -> tuple[Path, ...]:
    """The files of the split "train", where names tell one."""
    return tuple(file for file in files if file.name.startswith("train")) or tuple(files)


def _whole(name: str, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files, if there are as many as the name of one of them says."""
    for file in files:
        shard = _SHARD.search(file.name)
        if shard and len(files) != int(shard[1]):
            raise FlowrankError(
                "data",
                expected=f"all {int(shard[1])} files of {name}",
                found=f"{len(files)} in {str(file.parent)!r}",
                todo="download the others",
            )
    return files
