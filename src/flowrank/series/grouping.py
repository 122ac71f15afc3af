"""Tables whose series are interleaved, such as those in order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.ids import plain
from flowrank.series.runs import Run


@dataclass(frozen=True)
class Piece:
    """Some rows of a table, read: what is kept of them.

    Attributes
    ----------
    ids
        The ids of the rows, of any pandas type.
    rows
        Numbers of the rows in the source.
    times, target
        Shape ``(rows,)`` each.
    errors
        By id, why its rows cannot be read; their times and values are then anything.
    """

    ids: pd.Series
    rows: np.ndarray
    times: pd.DatetimeIndex | None
    target: np.ndarray
    errors: dict[Any, FlowrankError]


class Interleaved:
    """The series of a table whose rows are in another order, such as that of time.

    Of each row its time, its value and the number of its series are held, 28 bytes, while it is read, and 24 bytes
    once it is; never the texts of more than one piece.

    Parameters
    ----------
    pieces
        The table from its beginning.
    other_zone
        From a run and the time zone of those before it to the error that its own is another.
    numbered
        Whether the rows have other numbers than their order.

    Examples
    --------
    >>> piece = Piece(pd.Series(["A", "B", "A"]), np.arange(3), None, np.array([1.0, 2.0, 3.0]), {})
    >>> [(run.item_id, run.target.tolist()) for run in Interleaved(iter([piece]), lambda run, zone: ValueError())]
    [('A', [1.0, 3.0]), ('B', [2.0])]
    """

    def __init__(
        self, pieces: Iterator[Piece], other_zone: Callable[[Run, str], FlowrankError], *, numbered: bool = False
    ) -> None:
        names: dict[Any, int] = {}
        self._errors: dict[int, FlowrankError] = {}
        codes, rows, times, targets = [], [], [], []
        zone: Any = None
        for piece in pieces:
            local, uniques = pd.factorize(piece.ids)
            known = [names.setdefault(plain(one), len(names)) for one in uniques]
            codes.append(np.asarray(known, dtype=np.int32)[local])
            targets.append(piece.target)
            if piece.times is not None:
                readable = len(piece.errors) < len(uniques)
                if readable and zone is not None and str(piece.times.tz) != str(zone[0]):
                    for name in map(plain, uniques):
                        run = Run(name, piece.rows, piece.times, piece.target)
                        self._errors.setdefault(names[name], other_zone(run, str(zone[0])))
                zone = zone or ((piece.times.tz,) if readable else None)
                times.append(piece.times.asi8)
            if numbered:
                rows.append(piece.rows)
            for name, error in piece.errors.items():
                self._errors.setdefault(names[plain(name)], error)
        self._names = list(names)
        code = np.concatenate(codes)
        codes.clear()
        self._order = np.argsort(code, kind="stable")
        self._ends = np.cumsum(np.bincount(code, minlength=len(names)))
        del code
        self._target = np.concatenate(targets)
        targets.clear()
        self._times: pd.DatetimeIndex | None = None
        if times:
            values = pd.DatetimeIndex(np.concatenate(times).view("datetime64[ns]"), copy=False)
            times.clear()
            self._times = values if zone is None or zone[0] is None else values.tz_localize("UTC").tz_convert(zone[0])
        self._rows = np.concatenate(rows) if numbered else None

    def __iter__(self) -> Iterator[Run]:
        begin = 0
        for code, (name, end) in enumerate(zip(self._names, self._ends.tolist(), strict=True)):
            places = self._order[begin:end]
            begin = end
            times = None if self._times is None else self._times[places]
            rows = places if self._rows is None else self._rows[places]
            yield Run(name, rows, times, self._target[places], self._errors.get(code))
