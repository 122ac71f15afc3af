"""Workers: what they need before anything starts, and how they open a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flowrank import __version__
from flowrank.errors import FlowrankError
from flowrank.graphs import is_export
from flowrank.pipelines import check_device, load

_SHARED = "put it on storage that all nodes share, or into their image"


def opened(
    model: str | Path,
    *,
    threads: int | None = None,
    engine: str | None = None,
    device: str = "cpu",
    dtype: str = "auto",
) -> Any:
    """Open a model in this process.

    Parameters
    ----------
    model
        What `flowrank.load` opens.
    threads
        CPU threads of this process; None: they stay as they are.
    engine, device, dtype
        Of `flowrank.load`, which calls the second ``device_map``.

    Raises
    ------
    FlowrankError
        If it cannot be opened, or the device is not there.
    """
    if is_export(model):
        return load(model, threads=threads, engine=engine, device_map=device, dtype=dtype)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    check_device(device)
    return load(model, engine=engine, device_map=device, dtype=dtype)


def check_model(model: Any, argument: str) -> str | Path:
    """Return a model's name or folder, or refuse what workers cannot open themselves.

    Raises
    ------
    FlowrankError
        If it is neither.

    Examples
    --------
    >>> check_model("flow-bolt", "model")
    'flow-bolt'
    """
    if not isinstance(model, str | Path):
        raise FlowrankError(
            argument,
            expected="names or folders of models, which workers open themselves",
            found=type(model).__name__,
            todo="save it (save_pretrained) where every node sees it, and pass its folder",
        )
    return model


def refusal(error: FlowrankError, where: str) -> FlowrankError:
    """The error of a task, which says where it was found.

    Examples
    --------
    >>> refusal(FlowrankError("freq", expected="a frequency", found="none"), "in a.parquet")
    FlowrankError('freq: expected a frequency, found in a.parquet: none')
    """
    found = f"{where}: {error.found}"
    return FlowrankError(error.argument, expected=error.expected, found=found, todo=error.todo)


def looking(paths: dict[str, str]) -> Callable[[], str]:
    """A function that tells what the process that calls it has; it travels by value, and needs no flowrank there.

    Parameters
    ----------
    paths
        By argument; names and addresses among them, which are no paths of this machine, are left out. Of arguments that
        begin with "model" all files are read.
    """
    asked = {argument: path for argument, path in paths.items() if Path(path).exists()}

    def look() -> str:
        import contextlib
        import hashlib
        import json
        import os
        import socket
        import sys

        def digest(path: str) -> str:
            found, files = hashlib.sha256(), [path] if os.path.isfile(path) else []
            files += sorted(os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
            for one in files:
                found.update(f"{os.path.relpath(one, path)} {os.path.getsize(one)} ".encode())
                with open(one, "rb") as file:
                    while chunk := file.read(1 << 20):
                        found.update(chunk)
            return found.hexdigest()

        version: str | None = None
        with contextlib.suppress(ImportError):
            from flowrank import __version__ as version
        missing = [argument for argument, path in asked.items() if not os.path.exists(path)]
        models = {
            name: digest(path) for name, path in asked.items() if name.startswith("model") and name not in missing
        }
        place = {"host": socket.gethostname(), "python": sys.executable}
        return json.dumps({**place, "version": version, "missing": missing, "models": models})

    return look


def check_workers(seen: Iterable[str], paths: dict[str, str], todo: str) -> None:
    """Refuse workers without this flowrank, without a path that they are given, or with other files of a model there.

    Parameters
    ----------
    seen
        What the function of `looking` told on each.
    paths
        By argument.
    todo
        How flowrank comes into the Python of a worker.

    Raises
    ------
    FlowrankError
        If there is one.
    """
    models = json.loads(looking(paths)())["models"]
    for one in map(json.loads, seen):
        if one["version"] != __version__:
            raise FlowrankError(
                "workers",
                expected=f"flowrank {__version__} in the Python of every worker",
                found=f"{one['version'] or 'none'} in {one['python']!r} on {one['host']!r}",
                todo=todo,
            )
        for argument in one["missing"]:
            raise FlowrankError(
                argument,
                expected="what every node of the cluster sees",
                found=f"{paths[argument]!r}, which is not there on {one['host']!r}",
                todo=_SHARED,
            )
        for argument in sorted(models):
            if one["models"][argument] != models[argument]:
                raise FlowrankError(
                    argument,
                    expected="the same files on every node of the cluster",
                    found=f"{paths[argument]!r}, which holds others on {one['host']!r} than here",
                    todo=_SHARED,
                )
