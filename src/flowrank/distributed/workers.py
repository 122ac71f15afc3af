"""What workers need before anything starts: this flowrank, and the paths of this machine that they are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from flowrank import __version__
from flowrank.errors import FlowrankError


def looking(paths: dict[str, str]) -> Callable[[], str]:
    """A function that tells what the process that calls it has; it travels by value, and needs no flowrank there.

    Parameters
    ----------
    paths
        By argument; names and addresses among them, which are no paths of this machine, are left out.
    """
    asked = {argument: path for argument, path in paths.items() if Path(path).exists()}

    def look() -> str:
        import contextlib
        import json
        import os
        import socket
        import sys

        version: str | None = None
        with contextlib.suppress(ImportError):
            from flowrank import __version__ as version
        missing = [argument for argument, path in asked.items() if not os.path.exists(path)]
        found = {"host": socket.gethostname(), "python": sys.executable, "version": version, "missing": missing}
        return json.dumps(found)

    return look


def check_workers(seen: Iterable[str], paths: dict[str, str], todo: str) -> None:
    """Refuse workers without this flowrank, or without a path that they are given.

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
                todo="put it on storage that all nodes share, or into their image",
            )
