"""Groups of targets and covariates in tables of one row a group, whose cells are lists of values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.series.grids import future_timestamps
from flowrank.series.groups import Group, GroupSource
from flowrank.series.kinds import repeatable
from flowrank.series.reading import read_series
from flowrank.series.runs import Run
from flowrank.series.source import SeriesSource
from flowrank.series.value import OnBad, Series


class RowGroups(GroupSource):
    """Groups of a table of one row a group; each column is read as series are, by their ids together.

    Parameters
    ----------
    columns
        A source of series for each column: targets, past covariates, known ones.
    plain
        The first of them without its times: the values as they stand in the lists.
    targets, past, known
        Names of the columns. Lists of known ones hold the values to come after those of the past.
    """

    def __init__(
        self,
        columns: list[SeriesSource],
        plain: SeriesSource,
        *,
        targets: tuple[Any, ...],
        past: tuple[Any, ...],
        known: tuple[Any, ...],
    ) -> None:
        self._columns, self._plain, self.ids, self.categories = columns, plain, columns[0].ids, {}
        self.targets, self.past, self.known = targets, past, known

    def groups(self, on_bad: OnBad | None = None) -> Iterator[Group]:
        """The groups, one at a time.

        Those that cannot be read are told to ``on_bad``, once, or raise their error if it is None.
        """
        told: set[Any] = set()
        first, *others = (_Column(one, told, on_bad) for one in self._columns)
        plain = _Column(self._plain, told, on_bad)  # read only as far as there may be gaps
        for series in first:
            found = [one.of(series.item_id) for one in others]
            if any(one is None for one in found):  # told when it was read
                continue
            try:
                if others and np.isnan(series.target).any():
                    self._check_gaps(series, plain.of(series.item_id))
                yield self._group(series, [one for one in found if one is not None])
            except FlowrankError as error:
                if on_bad is None:
                    raise
                on_bad(series.item_id, error)

    def _check_gaps(self, series: Series, plain: Series | None) -> None:
        """Refuse gaps in lists of times, which are filled in the first column alone."""
        if plain is None or len(plain) == len(series):
            return
        raise FlowrankError(
            "series",
            expected=f"times without gaps in series {series.item_id!r}, as it has several columns",
            found=f"{len(plain)} times for {len(series)} steps of {series.freq!r} from {series.start}",
            todo="write all times, and null in each list where nothing was observed",
        )

    def _group(self, series: Series, others: list[Series]) -> Group:
        values, count = [series.target], len(series)
        names = (*self.targets, *self.past, *self.known)
        ahead = names[len(names) - len(self.known) :]
        for name, one in zip(names[1:], others, strict=True):
            if len(one) < count or (len(one) > count and name not in ahead):
                raise FlowrankError(
                    "series",
                    expected=f"{'at least ' if name in ahead else ''}{count} values in {name!r} of {series.item_id!r}, "
                    f"as in {names[0]!r}",
                    found=f"{len(one)}",
                    todo="write lists of one length (null where nothing was observed)",
                )
            values.append(one.target[:count])
        whole = Series(series.item_id, np.stack(values, axis=1), series.start, series.freq)
        return Group(whole, self._ahead(series, others[len(others) - len(self.known) :]))

    def _ahead(self, series: Series, known: list[Series]) -> Run | None:
        if not known:
            return None
        count = len(series)
        steps = min(len(one) for one in known) - count
        times = None
        if series.start is not None and series.freq is not None:
            times = pd.DatetimeIndex(future_timestamps(series.start, count - 1, series.freq, steps + 1)[1:])
        values = np.stack([one.target[count : count + steps] for one in known], axis=1)
        return Run(series.item_id, np.arange(count, count + steps), times, values)


class _Column:
    """The series of a column, in the order of the rows; those that could not be read are left out."""

    def __init__(self, source: SeriesSource, told: set[Any], on_bad: OnBad | None) -> None:
        self._bad: set[Any] = set()
        self._told, self._on_bad = told, on_bad
        self._series = iter(source.leaving_out(None if on_bad is None else self._tell))
        self._next: Series | None = None

    def _tell(self, item_id: Any, error: FlowrankError) -> None:
        self._bad.add(item_id)
        if item_id not in self._told and self._on_bad is not None:
            self._told.add(item_id)
            self._on_bad(item_id, error)

    def __iter__(self) -> Iterator[Series]:
        return self._series

    def of(self, item_id: Any) -> Series | None:
        """The series of an id, which comes after those of the ids asked for before; None: it could not be read."""
        while True:
            if self._next is None:
                self._next = next(self._series, None)
            if item_id in self._bad or self._next is None:
                return None
            found, self._next = self._next, None
            if found.item_id == item_id:
                return found


def read_row_groups(
    source: Any,
    *,
    targets: Sequence[Any],
    past_covariates: Sequence[Any] = (),
    known_covariates: Sequence[Any] = (),
    timestamp_column: Any = "timestamp",
    **reading: Any,
) -> RowGroups | None:
    """Open a table of one row a group; None: it is a long table.

    Parameters
    ----------
    source
        A table of one row a series or its path, as `flowrank.series.read_series` reads them.
    targets, past_covariates
        Names of columns of lists of one length.
    known_covariates
        Names of columns whose lists go on into the time to come.
    timestamp_column, **reading
        As of `flowrank.series.read_series`.

    Raises
    ------
    FlowrankError
        If a column is missing, or named twice; while iterating, if the lists of a row differ in length, or its times
        have gaps.

    Examples
    --------
    >>> rows = [{"item_id": "A", "target": [1.0, 2.0], "price": [5.0, 5.0, 4.0]}]
    >>> source = read_row_groups(rows, targets=["target"], known_covariates=["price"])
    >>> [(one.series.target.tolist(), one.future.target.tolist()) for one in source.groups()]
    [([[1.0, 5.0], [2.0, 5.0]], [[4.0]])]
    """
    source = repeatable(source, "series")
    known = tuple(known_covariates)
    past = tuple(name for name in past_covariates if name not in known)
    names = (*targets, *past, *known)
    first = read_series(source, target=targets[0], timestamp_column=timestamp_column, **reading)
    if first.table is not None:
        return None
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise FlowrankError(
            "past_covariates",
            expected="each column for one purpose",
            found=f"{twice[0]!r} for two",
            todo="name it once",
        )
    read = partial(read_series, source, timestamp_column=None, **reading)
    columns = [first, *(read(target=name) for name in names[1:])]
    return RowGroups(columns, read(target=names[0]), targets=tuple(targets), past=past, known=known)
