"""Collections of series: arrays, records, or series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.series.columns import Columns
from flowrank.series.records import array_series, record_series
from flowrank.series.value import OnBad, Series


def made_items(make: Callable[[], Iterable[Any]], columns: Columns, **options: Any) -> Iterator[Series]:
    """Yield the series of what a function gives."""
    return items_of(make(), columns, **options)


def items_of(
    items: Iterable[Any], columns: Columns, *, freq: str | None, on_bad: OnBad | None, argument: str
) -> Iterator[Series]:
    """Yield the series of a collection, whose first item shows of what kind they are."""
    if hasattr(items, "ndim"):
        if items.ndim == 1:
            return array_series([items], padded=False, freq=freq, on_bad=on_bad, argument=argument)
        if items.ndim != 2:
            raise FlowrankError(
                argument,
                expected="an array of shape (series, time)",
                found=f"shape {tuple(items.shape)}",  # type: ignore[attr-defined]
                todo="pass one row for each variable",
            )
        return array_series(items, padded=True, freq=freq, on_bad=on_bad, argument=argument)
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:
        raise FlowrankError(argument, expected="at least one series", found="none") from None
    rest = _chained(first, iterator)
    if isinstance(first, Series):
        return rest
    if isinstance(first, Mapping):
        return record_series(rest, columns, freq=freq, on_bad=on_bad, argument=argument)
    if first is None or isinstance(first, (bool, int, float)) or getattr(first, "ndim", 1) == 0:
        return array_series([list(rest)], padded=False, freq=freq, on_bad=on_bad, argument=argument)
    return array_series(rest, padded=False, freq=freq, on_bad=on_bad, argument=argument)


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
