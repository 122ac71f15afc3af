"""Several targets of one id, and covariates: a long table, and one of what is known of the time to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.series.excel import is_excel, read_excel
from flowrank.series.futures import ARGUMENT
from flowrank.series.grouping import Interleaved
from flowrank.series.ids import IdType
from flowrank.series.kinds import Wanted, column_names, open_source, repeatable
from flowrank.series.reading import wanted
from flowrank.series.runs import Run
from flowrank.series.tables import LongTable
from flowrank.series.value import OnBad, Series
from flowrank.series.values import Categories


@dataclass(frozen=True, eq=False)
class Group:
    """What is forecast together: the targets of one id and its covariates.

    Attributes
    ----------
    series
        The history; its ``target`` has the shape (time, columns): targets, covariates of the past, known ones. A
        category is its place among `GroupSource.categories`.
    future
        The rows of this id in the table of the future, not yet checked; None: there is no such row, or no such table.

    Examples
    --------
    >>> import numpy as np
    >>> Group(Series("A", np.ones((3, 2)))).series.target.shape
    (3, 2)
    """

    series: Series
    future: Run | None = None


class GroupSource:
    """Groups of targets and covariates, one at a time; each iteration starts from the beginning.

    Parameters
    ----------
    begin
        Gives the table of the history, told ``on_bad``.
    future
        Gives the table of the future, told the history's categories and ``on_bad``; None: there is none.
    ids
        Data type of the ids.
    targets, past, known
        Names of the columns: targets, covariates known in the past alone, and those known of the future as well.
    """

    def __init__(
        self,
        begin: Callable[[OnBad | None], LongTable],
        future: Callable[[Categories, OnBad | None], LongTable] | None,
        *,
        ids: IdType,
        targets: tuple[Any, ...],
        past: tuple[Any, ...],
        known: tuple[Any, ...],
    ) -> None:
        self._begin = begin
        self._future = future
        self.ids = ids
        self.targets, self.past, self.known = targets, past, known
        self.categories: Categories = {}

    def groups(self, on_bad: OnBad | None = None) -> Iterator[Group]:
        """Find the categories, and return the groups one at a time.

        Those that cannot be read are told to ``on_bad``, or raise their error if it is None.

        Raises
        ------
        FlowrankError
            If a table cannot be read, or the future has an id that the history has not.
        """
        history = self._begin(on_bad)
        self.categories = history.begin()
        future = None if self._future is None else self._future(self.categories, on_bad).by_id()
        if future is not None:
            _refuse_strangers(history.ids(), future, on_bad)
        return (Group(series, None if future is None else future.of(series.item_id)) for series in history)


def read_groups(
    source: Any,
    *,
    targets: Sequence[Any],
    past_covariates: Sequence[Any] = (),
    future: Any = None,
    **reading: Any,
) -> GroupSource:
    """Open a long table as groups of targets and covariates.

    Parameters
    ----------
    source
        A long table or the path of one, as `flowrank.series.read_series` reads them.
    targets
        Names of the columns to forecast.
    past_covariates
        Names of columns that are known up to the last row. Numbers; or texts and booleans, which are categories.
    future
        A table, or the path of one, with the same columns of ids and times, and one for each covariate whose values
        are known of the time to come; the history has these columns too. It is read as the history is.
    **reading
        As of `flowrank.series.read_series`: ``id_column``, ``freq``, ``date_format`` …

    Raises
    ------
    FlowrankError
        If one of the two is no long table, lacks a column or has one for two purposes, or the future has a column that
        the history has not.

    Examples
    --------
    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=4)
    >>> history = pd.DataFrame({"item_id": "A", "timestamp": days[:3], "sold": [1, 2, 3], "price": [5, 5, 4]})
    >>> future = pd.DataFrame({"item_id": "A", "timestamp": days[3:], "price": [4]})
    >>> source = read_groups(history, targets=["sold"], future=future)
    >>> source.known, [group.series.target.shape for group in source.groups()]
    (('price',), [(3, 2)])
    """
    plan = wanted(None, **reading)
    if plan.wide:
        raise FlowrankError(
            "wide",
            expected="a long table, as there are several targets or covariates",
            found="wide=True (--wide)",
            todo="write a row for each series and time, and a column for each target and covariate",
        )
    source = _held(source, plan)
    plan, after = replace(plan, sheet=None), replace(plan, sheet=None, freq=None, argument=ARGUMENT)
    names = _names(source, plan)
    rest = None if future is None else _held(future, after)
    known = () if rest is None else _known(rest, after, names, targets)
    past = tuple(name for name in past_covariates if name not in known)
    _refuse_repeats(targets, past_covariates)
    columns = replace(plan.columns, target=targets[0], more_targets=tuple(targets[1:]), covariates=(*past, *known))
    plan = replace(plan, columns=columns)
    after = replace(after, columns=replace(after.columns, covariates=known))
    _table(source, plan, None)  # faults of the columns show at once
    if rest is not None:
        _table(rest, after, None)
    return GroupSource(
        partial(_table, source, plan),
        None if rest is None else partial(_future_table, rest, after),
        ids=open_source(source, plan).ids,
        targets=tuple(targets),
        past=past,
        known=known,
    )


def _held(source: Any, plan: Wanted) -> Any:
    """Return a source that can be read again, a sheet of Excel as a table."""
    if isinstance(source, (str, Path)) and Path(source).is_file() and is_excel(source):
        return read_excel(source, plan.sheet, plan.argument)
    if plan.sheet is not None:
        raise FlowrankError("sheet", expected="no sheet, as only Excel files have some", found=repr(plan.sheet))
    return repeatable(source, plan.argument)


def _table(source: Any, plan: Wanted, on_bad: OnBad | None) -> LongTable:
    found = open_source(source, replace(plan, on_bad=on_bad)).table
    if found is None:
        raise _no_table(plan.argument, f"one with a row for each series in {_kind(source)}")
    return found


def _future_table(source: Any, plan: Wanted, categories: Categories, on_bad: OnBad | None) -> LongTable:
    return _table(source, replace(plan, categories=categories), on_bad)


def _names(source: Any, plan: Wanted) -> list[Any]:
    found = column_names(source, plan.encoding, plan.sheet, plan.argument)
    if found is None:
        raise _no_table(plan.argument, type(source).__name__)
    return found


def _kind(source: Any) -> str:
    return repr(str(source)) if isinstance(source, (str, Path)) else f"a {type(source).__name__}"


def _no_table(argument: str, found: str) -> FlowrankError:
    return FlowrankError(
        argument,
        expected="a long table (a row for each series and time), as there are several targets or covariates",
        found=found,
        todo="pass a data frame, or a CSV, Parquet or Excel file",
    )


def _known(future: Any, plan: Wanted, history: list[Any], targets: Sequence[Any]) -> tuple[Any, ...]:
    """Return the covariates that a table of the future has."""
    names = _names(future, plan)
    found = [name for name in names if name not in (plan.columns.id_column, plan.columns.timestamp_column)]
    wrong = [name for name in found if name in targets]
    if wrong:
        raise FlowrankError(
            ARGUMENT,
            expected="covariates, which are known before the targets are",
            found=f"the target {wrong[0]!r}",
            todo="leave the column out",
        )
    more = [name for name in found if name not in history or name == ""]
    if more or not found:
        raise FlowrankError(
            ARGUMENT,
            expected="columns of covariates that the history has as well, "
            f"beside {plan.columns.id_column!r} and {plan.columns.timestamp_column!r}",
            found=f"{', '.join(map(repr, more))}" if more else "none",
            todo="leave it out, or add its past to the history; row numbers (index=True of pandas) go as well"
            if more
            else "add the columns whose values are known",
        )
    return tuple(found)


def _refuse_repeats(targets: Sequence[Any], past: Sequence[Any]) -> None:
    for argument, names in (("target", targets), ("past_covariates", past)):
        for name in names:
            if list(names).count(name) > 1 or (argument == "past_covariates" and name in targets):
                raise FlowrankError(
                    argument,
                    expected="each column once, as a target or as a covariate",
                    found=f"{name!r} again",
                    todo="name it once",
                )


def _refuse_strangers(ids: Iterable[Any], future: Interleaved, on_bad: OnBad | None) -> None:
    """Refuse rows of the future whose id the history does not have."""
    known = {str(one) for one in ids}
    for name in future.ids:
        if str(name) in known:
            continue
        error = FlowrankError(
            ARGUMENT,
            expected="ids of the history",
            found=f"{name!r}, which the history does not have",
            todo="leave its rows out, or add its history",
        )
        if on_bad is None:
            raise error
        on_bad(name, error)
