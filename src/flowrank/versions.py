"""What made a result: versions of the libraries that matter."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("flowrank", "torch", "transformers", "chronos-forecasting", "numpy", "gluonts")


def versions() -> dict[str, str]:
    """Version of Python and of each library that is installed.

    Examples
    --------
    >>> sorted(versions())[:2]
    ['chronos-forecasting', 'flowrank']
    """
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
