"""Long tables: one row for each series and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.dates import OrderOfDates, as_timestamps, needs_order
from flowrank.series.frequency import infer_frequency, normalize_frequency
from flowrank.series.layout import Layout
from flowrank.series.numbers import MarksOfNumbers, as_numbers
from flowrank.series.timed import timed_series
from flowrank.series.value import Series


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the ids, the times and the values.

    ``id_column`` None makes the table one series; ``timestamp_column`` None means rows in order of time.
    ``layout`` says how texts are read.

    Examples
    --------
    >>> Columns("item_id", None, "target").needed
    ['item_id', 'target']
    """

    id_column: str | None = "item_id"
    timestamp_column: str | None = "timestamp"
    target: str = "target"
    layout: Layout = field(default_factory=Layout)

    @property
    def needed(self) -> list[str]:
        """The names that a table must have."""
        return [name for name in (self.id_column, self.timestamp_column, self.target) if name is not None]

    def check(self, found: list[str], *, argument: str) -> None:
        """Refuse a table whose columns, ``found``, lack one that is needed or have it twice."""
        missing = [name for name in self.needed if found.count(name) != 1]
        if missing:
            raise FlowrankError(
                argument,
                expected=f"one column each named {', '.join(map(repr, self.needed))}",
                found=f"columns: {', '.join(map(repr, found)) or 'none'} (missing or repeated: "
                f"{', '.join(map(repr, missing))})",
                todo="name yours with id_column=, timestamp_column=, target= (None: there is no such column)",
            )


@dataclass(frozen=True)
class _Run:
    """Consecutive rows of one series; ``rows`` are their numbers in the source, counted from 0."""

    item_id: str
    rows: np.ndarray
    times: pd.DatetimeIndex | None
    target: np.ndarray

    def where(self, position: int) -> str:
        return f"row {self.rows[position]} (series {self.item_id!r})"


class LongTable:
    """The series of a long table that comes in pieces.

    The rows of a series are held in memory, not those of the table, as long as they follow each other.
    A first look through the ids finds out; tables with interleaved series are loaded and grouped.

    Parameters
    ----------
    pieces
        Called with the names of columns; gives the table from its beginning, as data frames.
    columns
        What the columns mean, and how their texts are read; what that leaves open is found out from the whole table.
    freq
        The frequency, or None to infer it for each series.
    argument
        Name of the argument that errors are about.

    Examples
    --------
    >>> frame = pd.DataFrame({"item_id": ["A", "B", "A"], "target": [1, 2, 3]})
    >>> columns = Columns(timestamp_column=None)
    >>> table = LongTable(lambda names: iter([frame[names]]), columns, argument="series")
    >>> [(series.item_id, series.target.tolist()) for series in table]
    [('A', [1.0, 3.0]), ('B', [2.0])]
    """

    def __init__(
        self,
        pieces: Callable[[list[str]], Iterator[pd.DataFrame]],
        columns: Columns,
        *,
        freq: str | None = None,
        argument: str,
    ) -> None:
        self._pieces = pieces
        self._columns = columns
        self._freq = None if freq is None else normalize_frequency(freq)
        self._layout = columns.layout
        self._argument = argument
        self._interleaved: bool | None = None
        self._usual: tuple[str | None] | None = None

    def __iter__(self) -> Iterator[Series]:
        for run in self._all_runs():
            if run.times is None:
                yield Series(run.item_id, run.target, None, self._freq)
            else:
                yield timed_series(
                    run.item_id,
                    run.times,
                    run.target,
                    freq=self._freq,
                    usual_freq=self._usual_frequency,
                    argument=self._argument,
                    where=run.where,
                )

    def _usual_frequency(self) -> str | None:
        if self._usual is None:
            found = (
                infer_frequency(run.times) for run in self._all_runs() if run.times is not None and len(run.times) > 2
            )
            self._usual = (next((freq for freq in found if freq is not None), None),)
        return self._usual[0]

    def _all_runs(self) -> Iterator[_Run]:
        if self._interleaved is None:
            self._interleaved = self._is_interleaved()
            self._layout = self._surveyed_layout()
        if self._interleaved:
            whole = pd.concat(list(self._pieces(self._columns.needed)), ignore_index=True)
            codes, _ = pd.factorize(whole[self._columns.id_column])
            order = np.argsort(codes, kind="stable")
            yield from self._runs(iter([whole.iloc[order]]), rows=order)
        else:
            yield from self._runs(self._pieces(self._columns.needed))

    def _is_interleaved(self) -> bool:
        rows, last, seen = 0, None, set()
        names = self._columns.needed[:1] if self._columns.id_column is None else [self._columns.id_column]
        for piece in self._pieces(names):
            if self._columns.id_column is not None:
                for name in _runs_of(self._ids(piece, rows))[1]:
                    if name != last and name in seen:
                        return True
                    seen.add(name)
                    last = name
            rows += len(piece)
        if rows == 0:
            raise FlowrankError(
                self._argument,
                expected="a table with rows",
                found="no rows",
                todo="check that the source is complete",
            )
        return False

    def _surveyed_layout(self) -> Layout:
        """What the whole table says of how its dates and numbers are written."""
        columns, layout = self._columns, self._layout
        order = None
        if columns.timestamp_column is not None and layout.dates.day_first is None and layout.dates.date_format is None:
            order = OrderOfDates(self._argument, columns.timestamp_column)
        marks = None
        if layout.semicolons and layout.decimal is None and layout.thousands is None:
            marks = MarksOfNumbers(self._argument, columns.target)
        wanted = [str(columns.timestamp_column)] if order is not None else []
        wanted += [columns.target] if marks is not None else []
        first_row = 0
        for piece in self._pieces(wanted) if wanted else ():
            where = _row_after(first_row)
            if order is not None and len(piece):
                column = piece[columns.timestamp_column]
                if first_row == 0 and not needs_order(column.iloc[0]):
                    order = None  # dates of another kind: what is found further on is refused there
                else:
                    order.add(column, where)
            if marks is not None:
                marks.add(piece[columns.target], where)
            if order is None and marks is None:
                break
            first_row += len(piece)
        if marks is not None:
            marks.check()
        return layout if order is None else replace(layout, dates=order.decided(layout.dates))

    def _ids(self, piece: pd.DataFrame, first_row: int) -> pd.Series:
        ids = piece[self._columns.id_column]
        missing = ids.isna().to_numpy()
        if missing.any():
            raise FlowrankError(
                self._argument,
                expected=f"an id in each row of {self._columns.id_column!r}",
                found=f"none in row {first_row + int(missing.argmax())}",
            )
        return ids

    def _runs(self, pieces: Iterator[pd.DataFrame], rows: np.ndarray | None = None) -> Iterator[_Run]:
        """Yield the runs of equal ids, joined where a run goes on in the next piece."""
        open_runs: list[_Run] = []
        first_row, zone = 0, None
        for piece in pieces:
            if len(piece) == 0:
                continue
            numbers = np.arange(first_row, first_row + len(piece)) if rows is None else rows
            if self._columns.id_column is None:
                starts, names = np.zeros(1, dtype=np.int64), ["0"]
            else:
                starts, names = _runs_of(self._ids(piece, first_row))
            where = partial(_where, numbers, starts, names)
            target = as_numbers(
                piece[self._columns.target],
                argument=self._argument,
                where=where,
                name=self._columns.target,
                decimal=self._layout.decimal,
                thousands=self._layout.thousands,
            )
            times = None
            if self._columns.timestamp_column is not None:
                column = piece[self._columns.timestamp_column]
                times = as_timestamps(
                    column,
                    argument=self._argument,
                    where=where,
                    name=self._columns.timestamp_column,
                    reading=self._layout.dates,
                    whole=False,
                )
                if first_row and str(times.tz) != zone:
                    raise FlowrankError(
                        self._argument,
                        expected=f"time stamps of one time zone ({zone})",
                        found=f"{times.tz} at {where(0)}",
                    )
                zone = str(times.tz)
            first_row += len(piece)
            for name, start, end in zip(names, starts, [*starts[1:], len(piece)], strict=True):
                cut = slice(start, end)
                run = _Run(name, numbers[cut], None if times is None else times[cut], target[cut])
                if open_runs and open_runs[0].item_id != name:
                    yield _joined(open_runs)
                    open_runs = []
                open_runs.append(run)
        if open_runs:
            yield _joined(open_runs)


def _row_after(first: int) -> Callable[[int], str]:
    return lambda position: f"row {first + position}"


def _where(rows: np.ndarray, starts: np.ndarray, names: list[str], position: int) -> str:
    return f"row {rows[position]} (series {names[int(np.searchsorted(starts, position, side='right')) - 1]!r})"


def _runs_of(ids: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return where each run of equal ids starts, and its id."""
    codes, uniques = pd.factorize(ids)
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])) if len(codes) else np.zeros(0, int)
    return starts, [str(uniques[code]) for code in codes[starts]]


def _joined(runs: list[_Run]) -> _Run:
    if len(runs) == 1:
        return runs[0]
    times = None
    if runs[0].times is not None:
        others = [run.times for run in runs[1:] if run.times is not None]
        times = pd.DatetimeIndex(runs[0].times.append(others))
    return _Run(
        runs[0].item_id,
        np.concatenate([run.rows for run in runs]),
        times,
        np.concatenate([run.target for run in runs]),
    )
