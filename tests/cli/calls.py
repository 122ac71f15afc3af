"""How the tests call the command line."""

from __future__ import annotations

from pathlib import Path

from flowrank.cli import main
from flowrank.forecasting import DEFAULT_LEVELS
from tests.test_files import tree

LEVELS = list(map(str, DEFAULT_LEVELS))
SMALL = ("--calibration-series", "8", "--calibration-points", "64")
FEW = {"calibration_series": 8, "calibration_points": 64}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def quietly(*arguments: object) -> int:
    return run(*arguments, "--quiet")


def is_as_before(before: dict, folder: Path) -> bool:
    """Whether every file is byte for byte as it was, and none came."""
    return tree(folder) == before
