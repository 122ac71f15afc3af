"""What a report is made of: the files that the other steps leave in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.files import read_json_lines

SITE = ("stack", "kind", "layer", "depth")
COLUMNS = {
    "rank_profile.parquet": (
        *SITE,
        "quantity",
        "head",
        "dim",
        "epsilon",
        "rank",
        "effective_rank",
        "stable_rank",
    ),
    "spectra.parquet": (*SITE, "quantity", "head", "j", "sigma"),
    "bounds.parquet": (*SITE, "k", "sigma", "bound"),
    "positions.parquet": (*SITE, "head", "plane", "tokens", "frequency", "angle", "energy", "variance"),
    "ranks.parquet": (*SITE, "part", "head", "full", "kept", "cost", "full_cost"),
    "scores.csv": ("dataset", "model", "MASE", "WQL"),
    "fev.csv": ("task", "model", "metric", "error"),
    "forecasts.parquet": ("item_id", "timestamp", "predictions"),
    "history.parquet": ("item_id", "timestamp", "target"),
    "search.jsonl": (
        *("number", "start", "ratio", "cost", "parameters"),
        *("loss", "upper", "healed", "held", "seconds"),
    ),
}
"""Columns that each table must have; others are ignored."""

TEXT = {"stack", "kind", "quantity", "part", "dataset", "model", "item_id", "timestamp", "task", "metric"}
"""Columns that need not be numbers."""

FILES = (*COLUMNS, "search.json", "analysis.json", "recipe.json", "bench.json", "proof.json")
"""Every file that a report looks for."""

FIELDS = {"search.json": "settings"}
"""What a file is called here, where it is not its stem."""


@dataclass(frozen=True)
class Findings:
    """The tables and records found in a folder; None for what is not there."""

    rank_profile: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None
    bounds: pd.DataFrame | None = None
    positions: pd.DataFrame | None = None
    ranks: pd.DataFrame | None = None
    scores: pd.DataFrame | None = None
    forecasts: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    search: pd.DataFrame | None = None
    settings: dict[str, Any] | None = None
    analysis: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    fev: pd.DataFrame | None = None
    proof: dict[str, Any] | None = None

    @property
    def kept(self) -> pd.DataFrame | None:
        """The ranks before and after, if there was a compression: an analysis writes them for any model."""
        if self.ranks is None:
            return None
        idle = self.recipe is None and bool((self.ranks["kept"] == self.ranks["full"]).all())
        return None if idle else self.ranks

    @property
    def tolerance(self) -> dict[str, Any]:
        """What a search was allowed to lose, as its recipe or its settings say; empty where neither is there."""
        allocation = (self.recipe or {}).get("allocation", {})
        if isinstance(allocation, dict) and allocation.get("name") == "Tolerance":
            return allocation
        stated = (self.settings or {}).get("tolerance")
        return stated if isinstance(stated, dict) else {}

    @classmethod
    def read(cls, folder: Path) -> Findings:
        """Read every known file in ``folder``.

        Raises
        ------
        FlowrankError
            If it is not a folder, holds none of the files, or one of them is not what its name says.
        """
        present = files_in(folder)
        contents: dict[str, Any] = {FIELDS.get(name, Path(name).stem): _read(folder / name) for name in present}
        if contents.get("search") is None:
            contents["search"] = _stages_of(contents.get("recipe"))
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in contents.items() if key in known})


def files_in(folder: Path) -> list[str]:
    """Names of the known files in ``folder``; an error if there are none, or no folder."""
    todo = "run `flowrank analyze`, `compress`, `evaluate` or `benchmark` with an output in that folder"
    if not folder.is_dir():
        found = f"{str(folder)!r}, which {'is a file' if folder.exists() else 'does not exist'}"
        raise FlowrankError("folder", expected=f"a folder with some of {', '.join(FILES)}", found=found, todo=todo)
    present = [name for name in FILES if (folder / name).is_file()]
    if not present:
        raise FlowrankError(
            "folder",
            expected=f"one or more of {', '.join(FILES)}",
            found=f"none of them in {str(folder)!r}",
            todo=todo,
        )
    return present


def _read(path: Path) -> pd.DataFrame | dict[str, Any] | None:
    readers: dict[str, Callable[[Path], Any]] = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".jsonl": lambda path: _frame(read_json_lines(path, broken="refuse")),
    }
    try:
        content = readers[path.suffix](path)
    except Exception as error:  # each reader has its own errors
        raise FlowrankError(
            path.name,
            expected=f"a readable {path.suffix.removeprefix('.')} file",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            todo="make the file again",
        ) from error
    if path.suffix == ".json":
        if not isinstance(content, dict):
            raise FlowrankError(path.name, expected="a JSON object", found=f"a {type(content).__name__}")
        return content
    return _checked(content.rename(columns=str), path.name)


def _frame(rows: Any) -> pd.DataFrame:
    """Stages of a search as a table."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not one JSON object a stage")
    frame = pd.DataFrame(rows, columns=None if rows else list(COLUMNS["search.jsonl"]))
    for column in frame.columns:
        if frame[column].isna().all():
            frame[column] = frame[column].astype(float)
    for column in {"held", "healed"} & set(frame.columns):
        if not set(frame[column]) <= {True, False}:
            raise ValueError(f"{column!r} is neither true nor false")
        frame[column] = frame[column].astype(bool)
    return frame


def _stages_of(recipe: dict[str, Any] | None) -> pd.DataFrame | None:
    """Stages of the search that a recipe tells of."""
    search = (recipe or {}).get("search")
    if search is None:
        return None
    try:
        return _checked(_frame(search["stages"]), "search.jsonl", shown="recipe.json, search · stages")
    except (KeyError, TypeError, ValueError) as error:
        raise FlowrankError(
            "recipe.json, search", expected="its stages, as flowrank.smallest writes them", found=repr(error)
        ) from error


def _checked(frame: pd.DataFrame, name: str, shown: str | None = None) -> pd.DataFrame | None:
    """Return the frame if it has the columns of its name and at least one row."""
    missing = [column for column in COLUMNS[name] if column not in frame.columns]
    if missing:
        raise FlowrankError(
            shown or name,
            expected=f"columns {', '.join(COLUMNS[name])}",
            found=f"none called {', '.join(missing)}",
            todo="make the file again with this version of flowrank",
        )
    for column in set(COLUMNS[name]) - TEXT:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise FlowrankError(
                f"{shown or name}, column {column!r}", expected="numbers", found=f"the type {frame[column].dtype}"
            )
    for column in set(frame.columns) & (TEXT - {"timestamp"}):
        frame = frame.assign(**{column: frame[column].astype(str)})
    return frame if len(frame) else None
