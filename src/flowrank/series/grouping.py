"""Tables whose series are interleaved, such as those in order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.ids import plain
from flowrank.series.runs import Run, runs_of
from flowrank.series.spilling import GroupedRows, row_type


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
        Shape ``(rows,)`` each; several columns of values are ``(rows, columns)``.
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

    The time, the value and the number of each row are written to a temporary file, 32 bytes a row, and put together
    series by series (`GroupedRows`): in memory are the ids, and the rows of one piece or of some series.
    Iterating gives the series in the order of their first rows; `of` gives one by its id.

    Parameters
    ----------
    pieces
        The table from its beginning.
    other_zone
        From a run and the time zone of those before it to the error that its own is another.

    Examples
    --------
    >>> piece = Piece(pd.Series(["A", "B", "A"]), np.arange(3), None, np.array([1.0, 2.0, 3.0]), {})
    >>> [(run.item_id, run.target.tolist()) for run in Interleaved(iter([piece]), lambda run, zone: ValueError())]
    [('A', [1.0, 3.0]), ('B', [2.0])]
    """

    def __init__(self, pieces: Iterable[Piece], other_zone: Callable[[Run, str], FlowrankError]) -> None:
        names: dict[Any, int] = {}
        self._errors: dict[int, FlowrankError] = {}
        grouped: GroupedRows | None = None
        self._timed = False
        zone: Any = None
        for piece in pieces:
            local, uniques = pd.factorize(piece.ids)
            found = [plain(one) for one in uniques]
            known = [names.setdefault(name, len(names)) for name in found]
            row = row_type(*piece.target.shape[1:])
            rows = np.zeros(len(piece.rows), row)
            rows["code"], rows["row"] = np.asarray(known, dtype=np.int64)[local], piece.rows
            rows["value"] = piece.target
            if piece.times is not None:
                readable = len(piece.errors) < len(found)
                if readable and zone is not None and str(piece.times.tz) != str(zone[0]):
                    for number, name in enumerate(found):
                        first = int((local == number).argmax())
                        run = Run(name, piece.rows[first:], piece.times, piece.target)
                        self._errors.setdefault(names[name], other_zone(run, str(zone[0])))
                zone = zone or ((piece.times.tz,) if readable else None)
                self._timed = True
                rows["time"] = piece.times.asi8
            grouped = grouped or GroupedRows(row)
            grouped.add(rows)
            for name, error in piece.errors.items():
                self._errors.setdefault(names[plain(name)], error)
        self._grouped = grouped or GroupedRows()
        self._names = list(names)
        self._zone = None if zone is None else zone[0]
        self._codes: dict[str, int] = {}

    @property
    def ids(self) -> list[Any]:
        """The ids, in the order of their first rows."""
        return self._names

    def __iter__(self) -> Iterator[Run]:
        for rows in self._grouped:
            yield from self._runs(rows)

    def of(self, item_id: Any) -> Run | None:
        """Return the rows of the series whose id is the same text, in the order they came in; None: there are none."""
        if not self._codes:
            self._codes = {str(name): code for code, name in enumerate(self._names)}
        code = self._codes.get(str(item_id))
        return None if code is None else next(self._runs(self._grouped.of(code)))

    def _runs(self, rows: np.ndarray) -> Iterator[Run]:
        times = None
        if self._timed:
            times = pd.DatetimeIndex(rows["time"].astype("datetime64[ns]"))
            times = times if self._zone is None else times.tz_localize("UTC").tz_convert(self._zone)
        codes, numbers, target = (np.ascontiguousarray(rows[name]) for name in ("code", "row", "value"))
        starts = runs_of(codes)
        for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
            code = int(codes[start])
            own_times = None if times is None else times[start:end]
            yield Run(self._names[code], numbers[start:end], own_times, target[start:end], self._errors.get(code))
