"""Long tables: one row for each series and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.dates import TimeReader
from flowrank.series.frequency import infer_frequency, normalize_frequency
from flowrank.series.ids import Known, plain
from flowrank.series.layout import Layout
from flowrank.series.numbers import MarksOfNumbers, as_numbers
from flowrank.series.timed import timed_series
from flowrank.series.value import OnBad, Series


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

    id_column: Any = "item_id"
    timestamp_column: Any = "timestamp"
    target: Any = "target"
    layout: Layout = field(default_factory=Layout)

    @property
    def needed(self) -> list[Any]:
        """The names that a table must have."""
        return [name for name in (self.id_column, self.timestamp_column, self.target) if name is not None]

    def check(self, found: Sequence[Any], *, argument: str) -> None:
        """Refuse a table whose columns, ``found``, lack one that is needed or have it twice."""
        found = list(found)
        twice = [name for name in self.needed if self.needed.count(name) > 1]
        if twice:
            raise FlowrankError(
                argument,
                expected="a column of its own for the ids, the times and the values",
                found=f"{twice[0]!r} for {len(twice)} of them",
                todo="correct id_column=, timestamp_column=, target= (None: there is no such column)",
            )
        missing = [name for name in self.needed if name not in found]
        repeated = [name for name in self.needed if found.count(name) > 1]
        if not missing and not repeated:
            return
        faults = [f"missing: {', '.join(map(repr, missing))}"] if missing else []
        faults += [f"repeated: {', '.join(map(repr, repeated))}"] if repeated else []
        raise FlowrankError(
            argument,
            expected=f"one column each named {', '.join(map(repr, self.needed))}",
            found=f"columns: {_listed(found) or 'none'} ({'; '.join(faults)})",
            todo="name yours with id_column=, timestamp_column=, target= (None: there is no such column)"
            + self._remedy(found, missing),
        )

    def _remedy(self, found: list[Any], missing: list[Any]) -> str:
        numbers = [name for name in missing if isinstance(name, str) and any(str(one) == name for one in found)]
        if numbers:
            return f"; {numbers[0]!r} is a text, but the column's name is of type {_kind(found, numbers[0])}: pass that"
        if self.target in missing and self.id_column in missing:
            return "; if each column is a series, pass wide=True (--wide)"
        return ""


def _listed(names: list[Any], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _kind(found: list[Any], name: str) -> str:
    return next(type(plain(one)).__name__ for one in found if str(one) == name)


@dataclass(frozen=True)
class _Run:
    """Consecutive rows of one series; ``rows`` are their numbers in the source, counted from 0."""

    item_id: Any
    rows: np.ndarray
    times: pd.DatetimeIndex | None
    target: np.ndarray
    error: FlowrankError | None = None

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
    on_bad
        Called with the id and the error of each series that cannot be used; None: the error is raised.
    numbered
        Whether the index of the pieces has the numbers of the rows, for errors.

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
        on_bad: OnBad | None = None,
        numbered: bool = False,
    ) -> None:
        self._pieces = pieces
        self._columns = columns
        self._freq = None if freq is None else normalize_frequency(freq)
        self._argument = argument
        self._on_bad = on_bad
        self._numbered = numbered
        self._layout = columns.layout
        self._times = TimeReader(columns.layout.dates, argument=argument, name=columns.timestamp_column)
        self._interleaved: bool | None = None
        self._usual: tuple[str | None] | None = None

    def __iter__(self) -> Iterator[Series]:
        for run in self._all_runs():
            try:
                series = self._series(run)
            except FlowrankError as error:
                if self._on_bad is None:
                    raise
                self._on_bad(run.item_id, error)
            else:
                yield series

    def _series(self, run: _Run) -> Series:
        if run.error is not None:
            raise run.error
        if run.times is None:
            return Series(run.item_id, run.target, None, self._freq)
        return timed_series(
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
                infer_frequency(run.times)
                for run in self._all_runs()
                if run.times is not None and len(run.times) > 2 and run.times.is_monotonic_increasing
            )
            self._usual = (next((freq for freq in found if freq is not None), None),)
        return self._usual[0]

    def _all_runs(self) -> Iterator[_Run]:
        if self._interleaved is None:
            self._interleaved = self._is_interleaved()
            self._survey()
        if self._interleaved:
            whole = pd.concat(list(self._pieces(self._columns.needed)), ignore_index=True)
            codes, _ = pd.factorize(whole[self._columns.id_column])
            order = np.argsort(codes, kind="stable")
            yield from self._runs(iter([whole.iloc[order]]), rows=order)
        else:
            yield from self._runs(self._pieces(self._columns.needed))

    def _is_interleaved(self) -> bool:
        rows, last, seen, known = 0, None, set(), Known(self._argument)
        names = self._columns.needed[:1] if self._columns.id_column is None else [self._columns.id_column]
        for piece in self._pieces(names):
            if self._columns.id_column is not None:
                ids = self._ids(piece, rows)
                known.check(ids, range(rows, rows + len(ids)))
                for name in self._runs_of(ids, rows)[1]:
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

    def _survey(self) -> None:
        """Find out how dates and numbers are written, from as much of the table as that takes."""
        columns, layout = self._columns, self._layout
        marks = None
        if layout.semicolons and layout.decimal is None and layout.thousands is None:
            marks = MarksOfNumbers(self._argument, columns.target)
        dated = columns.timestamp_column is not None
        wanted = [columns.timestamp_column] if dated else []
        wanted += [columns.target] if marks is not None else []
        first_row = 0
        for piece in self._pieces(wanted) if wanted else ():
            where = _row_after(first_row)
            if dated and len(piece):
                dated = not self._times.note(piece[columns.timestamp_column], where)
            if marks is not None:
                marks.add(piece[columns.target], where)
            if not dated and marks is None:
                break
            first_row += len(piece)
        if marks is not None:
            marks.check()
        self._times.settle()

    def _ids(self, piece: pd.DataFrame, first_row: int) -> pd.Series:
        ids = piece[self._columns.id_column]
        missing = ids.isna().to_numpy()
        if missing.any():
            raise FlowrankError(
                self._argument,
                expected=f"an id in each row of {self._columns.id_column!r}",
                found=f"none in row {first_row + int(missing.argmax())}",
                todo="write the id of its series, or leave the row out",
            )
        return ids

    def _runs_of(self, ids: pd.Series, first_row: int) -> tuple[np.ndarray, list[Any]]:
        """Return where each run of equal ids starts, and its id."""
        try:
            codes, uniques = pd.factorize(ids)
        except TypeError:  # a list, say, cannot be an id
            for row, value in enumerate(ids, first_row):
                Known(self._argument).add(value, f"row {row}")
            raise
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])) if len(codes) else np.zeros(0, int)
        return starts, [plain(uniques[code]) for code in codes[starts]]

    def _runs(self, pieces: Iterator[pd.DataFrame], rows: np.ndarray | None = None) -> Iterator[_Run]:
        """Yield the runs of equal ids, joined where a run goes on in the next piece."""
        open_runs: list[_Run] = []
        first_row, zone = 0, None
        for piece in pieces:
            if len(piece) == 0:
                continue
            numbers = np.arange(first_row, first_row + len(piece)) if rows is None else rows
            if self._numbered:
                numbers = piece.index.to_numpy()
            if self._columns.id_column is None:
                starts, names = np.zeros(1, dtype=np.int64), ["0"]
            else:
                starts, names = self._runs_of(self._ids(piece, first_row), first_row)
            where = partial(_where, numbers, starts, names)
            ends = [*starts[1:], len(piece)]
            try:
                target, times = self._values(piece, where)
                found = [
                    _Run(name, numbers[start:end], None if times is None else times[start:end], target[start:end])
                    for name, start, end in zip(names, starts, ends, strict=True)
                ]
            except FlowrankError:
                if self._on_bad is None:
                    raise
                found = [
                    self._run_alone(name, piece.iloc[start:end], numbers[start:end])
                    for name, start, end in zip(names, starts, ends, strict=True)
                ]
            for run in found:
                if run.times is not None and str(run.times.tz) != (zone or str(run.times.tz)):
                    error = self._other_zone(run, zone)
                    if self._on_bad is None:
                        raise error
                    run = replace(run, error=error)
                elif run.times is not None:
                    zone = str(run.times.tz)
                if open_runs and open_runs[0].item_id != run.item_id:
                    yield _joined(open_runs)
                    open_runs = []
                open_runs.append(run)
            first_row += len(piece)
        if open_runs:
            yield _joined(open_runs)

    def _values(self, piece: pd.DataFrame, where: Callable[[int], str]) -> tuple[np.ndarray, pd.DatetimeIndex | None]:
        target = as_numbers(
            piece[self._columns.target],
            argument=self._argument,
            where=where,
            name=self._columns.target,
            decimal=self._layout.decimal,
            thousands=self._layout.thousands,
        )
        if self._columns.timestamp_column is None:
            return target, None
        times = self._times.read(piece[self._columns.timestamp_column], where)
        return target, times

    def _run_alone(self, name: Any, piece: pd.DataFrame, rows: np.ndarray) -> _Run:
        """Return a run of a piece in which something cannot be read; with its error, if that is in this run."""
        where = partial(_where, rows, np.zeros(1, dtype=np.int64), [name])
        try:
            target, times = self._values(piece, where)
        except FlowrankError as error:
            return _Run(name, rows, None, np.full(len(rows), np.nan), error)
        return _Run(name, rows, times, target)

    def _other_zone(self, run: _Run, zone: str | None) -> FlowrankError:
        return FlowrankError(
            self._argument,
            expected=f"time stamps of one time zone ({zone})",
            found=f"{None if run.times is None else run.times.tz} at {run.where(0)}",
        )


def _row_after(first: int) -> Callable[[int], str]:
    return lambda position: f"row {first + position}"


def _where(rows: np.ndarray, starts: np.ndarray, names: list[Any], position: int) -> str:
    return f"row {rows[position]} (series {names[int(np.searchsorted(starts, position, side='right')) - 1]!r})"


def _joined(runs: list[_Run]) -> _Run:
    if len(runs) == 1:
        return runs[0]
    error = next((run.error for run in runs if run.error is not None), None)
    times = None
    if runs[0].times is not None and error is None:
        others = [run.times for run in runs[1:] if run.times is not None]
        times = pd.DatetimeIndex(runs[0].times.append(others))
    return _Run(
        runs[0].item_id,
        np.concatenate([run.rows for run in runs]),
        times,
        np.concatenate([run.target for run in runs]),
        error,
    )
