"""What a proof has done so far, and everything that identifies it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flowrank.files import atomic_file, read_json_lines, refuse_existing_in, refuse_other_run
from flowrank.proof.places import DataFiles
from flowrank.versions import versions

SETTINGS = "settings.json"
STEPS = "steps.jsonl"
PROOF = "proof.json"
_PIECE = 1 << 20
_MORE_LIBRARIES = ("fev", "datasets", "pandas", "pyarrow", "huggingface_hub", "safetensors")


class Steps:
    """The finished steps of a run, one line of a file each, so that a run that was stopped goes on.

    Parameters
    ----------
    path
        The file; a last line that was cut off does not count.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "steps.jsonl"
    >>> steps = Steps(path)
    >>> steps.done("score", lambda: {"WQL": 0.5}, dataset="m5")["WQL"]
    0.5
    >>> Steps(path).done("score", lambda: {"WQL": 0.1}, dataset="m5")["WQL"]
    0.5
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = read_json_lines(path, broken="stop") if path.exists() else []
        self.fresh = 0  # done by this process

    def find(self, step: str, **key: Any) -> dict[str, Any] | None:
        """The line of a finished step; None if it is still to do."""
        wanted = {"step": step, **key}
        return next((line for line in self.lines if wanted.items() <= line.items()), None)

    def done(self, step: str, work: Callable[[], Mapping[str, Any]], **key: Any) -> dict[str, Any]:
        """The line of a step; its work is done now if it has not been yet.

        Parameters
        ----------
        step
            Its kind.
        work
            Gives what is to be remembered, ready for JSON; what is not finite becomes None.
        **key
            What tells it from others of its kind.
        """
        found = self.find(step, **key)
        if found is None:
            found = finite({"step": step, **key, **work(), "at": now()})
            self.lines.append(found)
            with atomic_file(self.path, overwrite=True) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
            self.fresh += 1
        return found


def begin(folder: Path, settings: Mapping[str, Any]) -> Steps:
    """Make the folder of a run, or go on with the same one.

    Parameters
    ----------
    folder
        Where the run leaves everything.
    settings
        All that tells it from others.

    Raises
    ------
    FlowrankError
        If another run or something else is there; the error names the settings that differ.
    """
    refuse_other_run(folder, SETTINGS, settings, run="proof", argument="output", leftover=_leftover)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SETTINGS).exists():
        write_json(folder / SETTINGS, settings)
    return Steps(folder / STEPS)


def refuse_strangers(folder: str | Path) -> Path:
    """Refuse a folder that holds something else than a proof, before anything is downloaded.

    Raises
    ------
    FlowrankError
        If it does, or nothing can be written there.

    Examples
    --------
    >>> refuse_strangers("no-such-folder").name
    'no-such-folder'
    """
    folder = refuse_existing_in(folder, [PROOF], overwrite=True)
    record = folder / SETTINGS
    same = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    refuse_other_run(folder, SETTINGS, same, run="proof", argument="output", leftover=_leftover)
    return folder


def _leftover(path: Path) -> bool:
    return path.name.startswith(f".{SETTINGS}.")


def file_digest(path: Path) -> str:
    """sha256 of a file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "empty"
    >>> path.touch()
    >>> file_digest(path)[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def data_record(data: DataFiles) -> dict[str, Any]:
    """Where a data set comes from, and the sha256 of each of its files.

    Examples
    --------
    >>> data_record(DataFiles("m5", ()))
    {'repo': None, 'config': None, 'revision': None, 'files': {}}
    """
    return {
        "repo": None if data.home is None else data.home.repo,
        "config": None if data.home is None else data.home.config,
        "revision": data.revision,
        "files": {path.name: file_digest(path) for path in data.files},
    }


def all_versions() -> dict[str, str]:
    """Versions of Python and of every library that the scores may depend on.

    Examples
    --------
    >>> {"python", "torch", "pyarrow"} <= set(all_versions())
    True
    """
    found = versions()
    for library in _MORE_LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine that a proof is made on.

    Examples
    --------
    >>> sorted(machine())
    ['platform', 'python', 'threads']
    """
    import torch

    return {"platform": platform.platform(), "python": sys.version.split()[0], "threads": torch.get_num_threads()}


def now() -> str:
    """The time, in UTC and whole seconds.

    Examples
    --------
    >>> now().endswith("+00:00")
    True
    """
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; an earlier one is replaced.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(path, {"WQL": float("nan")})
    >>> json.loads(path.read_text())
    {'WQL': None}
    """
    with atomic_file(path, overwrite=True) as temporary:
        text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite, since JSON has none of those.

    Examples
    --------
    >>> finite({"a": [1.0, float("inf")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
