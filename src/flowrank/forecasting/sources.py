"""What a forecast is asked for: single series, or several targets and covariates that a model reads together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.forecasting.groups import Roles
from flowrank.series import Series, SeriesSource, read_series
from flowrank.series.groups import Group, GroupSource, read_groups
from flowrank.series.row_groups import read_row_groups
from flowrank.series.value import OnBad


def several(target: Any) -> list[Any]:
    """Return the names of the targets: of a list, its items; of anything else, that.

    Examples
    --------
    >>> several("sold"), several(["sold", "returned"])
    (['sold'], ['sold', 'returned'])
    """
    found = list(target) if isinstance(target, (list, tuple)) else [target]
    if not found:
        raise FlowrankError("target", expected="at least one column", found="none", todo="name the column of values")
    return found


def check_asked(
    pipeline: Any,
    target: Any = "target",
    past_covariates: Sequence[Any] = (),
    future: Any = None,
    cross_learning: bool = False,
) -> bool:
    """Tell whether more than single series is asked for.

    Raises
    ------
    FlowrankError
        If it is, and the pipeline does not say ``takes_groups``.

    Examples
    --------
    >>> check_asked(object()), check_asked(object(), target=["sold"])
    (False, False)
    >>> check_asked(object(), cross_learning=True)
    Traceback (most recent call last):
    ...
    flowrank.errors.FlowrankError: pipeline: expected a model that reads several targets and covariates together, \
opened by flowrank.load, found 'object', which reads series one by one, for cross_learning=True; forecast each target \
alone and without covariates, or take another model (not one that was compressed for single series)
    """
    targets = several(target)
    found = [f"targets {', '.join(map(repr, targets))}"] if len(targets) > 1 else []
    found += ["past_covariates"] if len(past_covariates) else []
    found += ["future"] if future is not None else []
    found += ["cross_learning=True"] if cross_learning else []
    if found and not getattr(pipeline, "takes_groups", False):
        raise FlowrankError(
            "pipeline",
            expected="a model that reads several targets and covariates together, opened by flowrank.load",
            found=f"{getattr(pipeline, 'name', type(pipeline).__name__)!r}, which reads series one by one, "
            f"for {' and '.join(found)}",
            todo="forecast each target alone and without covariates, or take another model (not one that was "
            "compressed for single series)",
        )
    return bool(found)


def opened(
    source: Any,
    *,
    target: Any = "target",
    past_covariates: Sequence[Any] = (),
    future: Any = None,
    on_bad: OnBad | None = None,
    **reading: Any,
) -> SeriesSource | GroupSource:
    """Open a source as single series where that is enough, else as groups.

    Raises
    ------
    FlowrankError
        As `flowrank.series.read_series` and `flowrank.series.groups.read_groups`.
    """
    targets = several(target)
    if isinstance(source, GroupSource):
        return source
    past = [past_covariates] if isinstance(past_covariates, str) else list(past_covariates)
    if len(targets) == 1 and not past and future is None:
        return read_series(source, target=targets[0], on_bad=on_bad, **reading)
    if isinstance(source, SeriesSource):
        raise FlowrankError(
            "series",
            expected="a long table or its path, as there are several targets or covariates",
            found="what read_series has opened, which has one value for each time",
            todo="pass the table itself",
        )
    known = list(future) if isinstance(future, (list, tuple)) and all(isinstance(one, str) for one in future) else None
    if future is None or known is not None:
        rows = read_row_groups(source, targets=targets, past_covariates=past, known_covariates=known or (), **reading)
        if rows is not None:
            return rows
    if known is not None:
        raise FlowrankError(
            "future",
            expected="a table of the time to come, as there is a row for each series and time",
            found=f"names of columns: {', '.join(map(repr, known))}",
            todo="pass the table, or its path",
        )
    return read_groups(source, targets=targets, past_covariates=past, future=future, **reading)


def grouped(source: SeriesSource | GroupSource, target: Any, on_bad: OnBad | None) -> tuple[Iterator[Group], Roles]:
    """Return the groups of a source, and what their columns are; of single series, groups of one target."""
    if isinstance(source, SeriesSource):
        return map(_alone, source), Roles(tuple(several(target)))
    groups = source.groups(on_bad)
    return groups, Roles(source.targets, source.past, source.known, source.categories)


def _alone(series: Series) -> Group:
    return Group(series)
