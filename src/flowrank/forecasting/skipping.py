"""Series that are left out because they cannot be used, each with its reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from flowrank.errors import FlowrankError, SkippedWarning
from flowrank.series.value import OnBad


class _Named(Protocol):
    @property
    def item_id(self) -> Any: ...


_Request = TypeVar("_Request", bound=_Named)
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Skipped:
    """A series that was left out.

    Examples
    --------
    >>> error = FlowrankError("series", expected="finite values in 'target'", found="an infinite value at row 3")
    >>> Skipped.of("A", error).reason
    "expected finite values in 'target', found an infinite value at row 3"
    """

    item_id: Any
    reason: str
    dataset: str | None = None

    @classmethod
    def of(cls, item_id: Any, error: FlowrankError, dataset: str | None = None) -> Skipped:
        """Return what is to be said of a series that an error is about."""
        return cls(item_id, f"expected {error.expected}, found {error.found}", dataset)


def usable(requests: Iterable[_Request], prepare: Callable[[_Request], _Made], on_bad: OnBad | None) -> Iterator[_Made]:
    """What ``prepare`` makes of requests, without those that it refuses.

    ``on_bad``: called with the id and the error of each of these; None: it is raised.
    """
    for request in requests:
        try:
            made = prepare(request)
        except FlowrankError as error:
            if on_bad is None:
                raise
            on_bad(request.item_id, error)
        else:
            yield made


class NoneUsable(FlowrankError):
    """Every series was left out."""


@dataclass
class Skipping:
    """Whether bad series are left out, and those that were.

    Parameters
    ----------
    wanted
        Whether to leave them out; otherwise the first raises its error.
    found
        List that takes them, of the caller, who is then not warned.
    dataset
        Name of the data set, if there are several.
    """

    wanted: bool
    found: list[Skipped] | None = None
    dataset: str | None = None
    mine: list[Skipped] = field(default_factory=list)

    def __call__(self, item_id: Any, error: FlowrankError) -> None:
        """Leave a series out, or raise its error."""
        if not self.wanted:
            raise error
        self.mine.append(Skipped.of(item_id, error, self.dataset))
        if self.found is not None:
            self.found.append(self.mine[-1])

    @property
    def reader(self) -> Skipping | None:
        """What `read_series` takes as ``on_bad``."""
        return self if self.wanted else None

    def again(self, found: Sequence[Skipped], used: int) -> None:
        """Tell of series that were left out elsewhere."""
        self.mine.extend(found)
        if self.found is not None:
            self.found.extend(found)
        self.finish(used)

    def finish(self, used: int, argument: str = "series") -> None:
        """Raise `NoneUsable` if nothing is left to use; warn if series were left out that the caller has no list of."""
        if not self.mine:
            return
        if used == 0:
            first = self.mine[0]
            raise NoneUsable(
                argument,
                expected="at least one series that can be used",
                found=f"none of {len(self.mine)}, the first of which is {first.item_id!r}: {first.reason}",
                todo="correct the series, or how they are read (freq=, target=, timestamp_column= …)",
            )
        if self.found is None:
            first = self.mine[0]
            warnings.warn(
                f"{len(self.mine)} series left out, e.g. {first.item_id!r}: {first.reason}",
                SkippedWarning,
                stacklevel=3,
            )


def write_skipped(skipped: Sequence[Skipped], path: str | Path) -> None:
    """Write the series that were left out as CSV: their data set where there are several, id and reason."""
    table = pd.DataFrame(
        [(one.dataset, one.item_id, one.reason) for one in skipped], columns=["dataset", "item_id", "reason"]
    )
    if all(one.dataset is None for one in skipped):
        table = table.drop(columns="dataset")
    table.to_csv(path, index=False)


def skipped_path(output: str | Path) -> Path:
    """Return where the list of the series lies that an output leaves out.

    Examples
    --------
    >>> skipped_path("forecasts.parquet").name
    'forecasts.skipped.csv'
    """
    return Path(output).expanduser().with_suffix(".skipped.csv")
