"""Long tables: one row for each series and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns
from flowrank.series.dates import TimeReader
from flowrank.series.frequency import normalize_frequency
from flowrank.series.grouping import Interleaved, Piece
from flowrank.series.ids import Known, plain
from flowrank.series.inference import infer_frequency
from flowrank.series.runs import Run, joined, runs_of, where_in
from flowrank.series.timed import timed_series
from flowrank.series.value import OnBad, Series
from flowrank.series.values import Categories, ValueReader


class LongTable:
    """The series of a long table that comes in pieces.

    The rows of a series are held in memory, not those of the table, as long as they follow each other.
    A first pass over the ids finds out. Of a table whose series are interleaved, as in order of time, the rows are
    grouped in a temporary file (`Interleaved`). The ids of all series are held in either case.

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
    categories
        Those of the covariates, where another table has them; None: found out from this one.

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
        categories: Categories | None = None,
    ) -> None:
        self._pieces = pieces
        self._columns = columns
        self._freq = None if freq is None else normalize_frequency(freq)
        self._argument = argument
        self._on_bad = on_bad
        self._numbered = numbered
        self._cells = ValueReader(columns, argument=argument, categories=categories)
        self._times = TimeReader(columns.layout.dates, argument=argument, name=columns.timestamp_column)
        self._interleaved: bool | None = None
        self._usual: tuple[str | None] | None = None
        self._held: Interleaved | None = None

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

    def _series(self, run: Run) -> Series:
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

    def begin(self) -> Categories:
        """Find out, once, how the table is ordered and its texts read; return the categories of its covariates."""
        if self._interleaved is None:
            self._interleaved = self._is_interleaved()
            self._survey()
        return self._cells.categories

    def ids(self) -> Iterator[Any]:
        """Yield the ids, those of a piece of the table once each."""
        if self._columns.id_column is None:
            yield "0"
            return
        first_row = 0
        for piece in self._pieces([self._columns.id_column]):
            yield from map(plain, pd.unique(self._ids(piece, first_row)))
            first_row += len(piece)

    def by_id(self) -> Interleaved:
        """Return the rows of all series, each to be had by its id, in whatever order they are."""
        self.begin()
        return Interleaved(self._read_pieces(), self._other_zone)

    def _all_runs(self) -> Iterator[Run]:
        self.begin()
        if not self._interleaved:
            yield from self._runs(self._pieces(self._columns.needed))
            return
        held = self._held or Interleaved(self._read_pieces(), self._other_zone)
        self._held = held  # for the usual frequency, which is asked for on the way
        try:
            yield from held
        finally:
            self._held = None

    def _read_pieces(self) -> Iterator[Piece]:
        """Yield the pieces of a table whose series are interleaved, read."""
        first_row, known = 0, Known(self._argument)
        for piece in self._pieces(self._columns.needed):
            if len(piece) == 0:
                continue
            rows = piece.index.to_numpy() if self._numbered else np.arange(first_row, first_row + len(piece))
            ids = self._ids(piece, first_row)
            known.check(ids, rows)
            errors: dict[Any, FlowrankError] = {}
            try:
                target, times = self._values(piece, partial(_where_alone, rows, ids))
            except FlowrankError:
                if self._on_bad is None:
                    raise
                target, times, errors = self._read_apart(piece, ids, rows)
            yield Piece(ids, rows, times, target, errors)
            first_row += len(piece)

    def _read_apart(self, piece: pd.DataFrame, ids: pd.Series, rows: np.ndarray) -> Any:
        """Read the rows of each series in a piece by themselves, as some cannot be read."""
        codes, uniques = pd.factorize(ids)
        target, errors = self._cells.missing(len(piece)), {}
        times, zone = np.zeros(len(piece), dtype=np.int64), None
        for code, name in enumerate(map(plain, uniques)):
            chosen = np.flatnonzero(codes == code)
            run = self._run_alone(name, piece.iloc[chosen], rows[chosen])
            if run.error is not None:
                errors[name] = run.error
                continue
            target[chosen] = run.target
            if run.times is not None:
                zone = zone or (run.times.tz,)
                times[chosen] = run.times.asi8
                if str(run.times.tz) != str(zone[0]):
                    errors[name] = self._other_zone(run, str(zone[0]))
        if self._columns.timestamp_column is None:
            return target, None, errors
        index = pd.DatetimeIndex(times.view("datetime64[ns]"))
        if zone is not None and zone[0] is not None:
            index = index.tz_localize("UTC").tz_convert(zone[0])
        return target, index, errors

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
        """Find out how dates and values are written, from as much of the table as that takes."""
        time = self._columns.timestamp_column
        dated, valued = time is not None, bool(self._cells.undecided)
        wanted = ([time] if dated else []) + self._cells.undecided
        first_row = 0
        for piece in self._pieces(wanted) if wanted else ():
            where = _row_after(int(piece.index[0]) if self._numbered and len(piece) else first_row)
            if dated and len(piece):
                dated = not self._times.note(piece[time], where)
            if valued:
                valued = not self._cells.note(piece, where)
            if not dated and not valued:
                break
            first_row += len(piece)
        self._cells.settle()
        self._times.settle()

    def _ids(self, piece: pd.DataFrame, first_row: int) -> pd.Series:
        if self._columns.id_column is None:
            return pd.Series(["0"] * len(piece), dtype=object)
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
        starts = np.array(runs_of(codes), dtype=np.int64)
        return starts, [plain(uniques[code]) for code in codes[starts]]

    def _runs(self, pieces: Iterator[pd.DataFrame]) -> Iterator[Run]:
        """Yield the runs of equal ids, joined where a run goes on in the next piece."""
        open_runs: list[Run] = []
        first_row, zone = 0, None
        for piece in pieces:
            if len(piece) == 0:
                continue
            numbers = piece.index.to_numpy() if self._numbered else np.arange(first_row, first_row + len(piece))
            starts, names = self._runs_of(self._ids(piece, first_row), first_row)
            where = partial(where_in, numbers, starts, names)
            ends = [*starts[1:], len(piece)]
            try:
                target, times = self._values(piece, where)
                found = [
                    Run(name, numbers[start:end], None if times is None else times[start:end], target[start:end])
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
                    yield joined(open_runs)
                    open_runs = []
                open_runs.append(run)
            first_row += len(piece)
        if open_runs:
            yield joined(open_runs)

    def _values(self, piece: pd.DataFrame, where: Callable[[int], str]) -> tuple[np.ndarray, pd.DatetimeIndex | None]:
        target = self._cells.read(piece, where)
        if self._columns.timestamp_column is None:
            return target, None
        times = self._times.read(piece[self._columns.timestamp_column], where)
        return target, times

    def _run_alone(self, name: Any, piece: pd.DataFrame, rows: np.ndarray) -> Run:
        """Return a run of a piece in which something cannot be read; with its error, if that is in this run."""
        where = partial(where_in, rows, np.zeros(1, dtype=np.int64), [name])
        try:
            target, times = self._values(piece, where)
        except FlowrankError as error:
            return Run(name, rows, None, self._cells.missing(len(rows)), error)
        return Run(name, rows, times, target)

    def _other_zone(self, run: Run, zone: str | None) -> FlowrankError:
        return FlowrankError(
            self._argument,
            expected=f"time stamps of one time zone ({zone})",
            found=f"{None if run.times is None else run.times.tz} at {run.where(0)}",
            todo="pass utc=True (--utc) to read them all as UTC; each then needs its offset",
        )


def _row_after(first: int) -> Callable[[int], str]:
    return lambda position: f"row {first + position}"


def _where_alone(rows: np.ndarray, ids: pd.Series, position: int) -> str:
    return f"row {rows[position]} (series {plain(ids.iloc[position])!r})"
