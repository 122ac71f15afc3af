"""Which columns of a table are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.series.ids import plain
from flowrank.series.layout import Layout


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the ids, the times and the values.

    ``id_column`` None makes the table one series; ``timestamp_column`` None means rows in order of time.
    ``layout`` says how texts are read. Of several values a row, ``target`` is the first; ``more_targets`` and
    ``covariates`` follow it. A table of covariates alone has the target None.

    Examples
    --------
    >>> Columns("item_id", None, "target").needed
    ['item_id', 'target']
    >>> Columns("item_id", None, "sales", covariates=("price",)).values
    ['sales', 'price']
    """

    id_column: Any = "item_id"
    timestamp_column: Any = "timestamp"
    target: Any = "target"
    layout: Layout = field(default_factory=Layout)
    more_targets: tuple[Any, ...] = ()
    covariates: tuple[Any, ...] = ()

    @property
    def values(self) -> list[Any]:
        """The columns of values."""
        return [name for name in (self.target, *self.more_targets, *self.covariates) if name is not None]

    @property
    def joint(self) -> bool:
        """Whether each row has several values, an array of them: not a single target without covariates."""
        return bool(self.more_targets or self.covariates)

    @property
    def needed(self) -> list[Any]:
        """The names that a table must have."""
        return [name for name in (self.id_column, self.timestamp_column) if name is not None] + self.values

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
