"""A folder to work in, and a terminal wide enough."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables that no line break cuts; help as wide as COLUMNS says, though datasets replaces os.environ."""
    monkeypatch.setattr("rich.console.Console._environ", os.environ)
    from flowrank import cli

    for console in (cli.out, cli.err):
        monkeypatch.setattr(console, "_width", 250)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def series(here, long_frame):
    """The three daily series of `long_frame` as a CSV file."""
    path = here / "series.csv"
    long_frame.to_csv(path, index=False)
    return path
