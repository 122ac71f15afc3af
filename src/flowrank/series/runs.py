"""Consecutive rows of one series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one series; ``rows`` are their numbers in the source, counted from 0.

    ``target`` has the shape (rows,), or (rows, columns) where several are read.
    """

    item_id: Any
    rows: np.ndarray
    times: pd.DatetimeIndex | None
    target: np.ndarray
    error: FlowrankError | None = None

    def where(self, position: int) -> str:
        """Say where a value is, for errors."""
        return f"row {self.rows[position]} (series {self.item_id!r})"


def where_in(rows: np.ndarray, starts: np.ndarray, names: list[Any], position: int) -> str:
    """Say where a value is among rows whose runs start at ``starts``, for errors."""
    return f"row {rows[position]} (series {names[int(np.searchsorted(starts, position, side='right')) - 1]!r})"


def joined(runs: list[Run]) -> Run:
    """Join the runs of one series; one with an error has no times."""
    if len(runs) == 1:
        return runs[0]
    error = next((run.error for run in runs if run.error is not None), None)
    times = None
    if runs[0].times is not None and error is None:
        others = [run.times for run in runs[1:] if run.times is not None]
        times = pd.DatetimeIndex(runs[0].times.append(others))
    return Run(
        runs[0].item_id,
        np.concatenate([run.rows for run in runs]),
        times,
        np.concatenate([run.target for run in runs]),
        error,
    )


def runs_of(codes: np.ndarray) -> list[int]:
    """Return where each run of equal numbers starts.

    Examples
    --------
    >>> runs_of(np.array([3, 3, 5]))
    [0, 2]
    """
    return np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])).tolist() if len(codes) else []
