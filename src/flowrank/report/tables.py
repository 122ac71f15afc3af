"""Tables that are written three times: as HTML, as Markdown and, unrounded, as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Column:
    """One column: the key of its value in a row, its heading, and how values are shown.

    ``kind`` is "text", "count", "number", "ratio", "percent", "change" (a signed, finer percentage), "bytes",
    "seconds", "flag" (yes or no), or "unit" when each row names one of those in its own ``unit``.
    """

    key: str
    label: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows of raw values under columns; ``folded`` tables are shown on demand."""

    key: str
    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    note: str = ""
    folded: bool = False

    @property
    def cells(self) -> list[list[str]]:
        """The rows as they are shown."""
        return [
            [
                show(row.get(column.key), row["unit"] if column.kind == "unit" else column.kind)
                for column in self.columns
            ]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Legend:
    """What a colour and shape stand for in a figure: ``mark`` is a small drawing."""

    mark: Drawing
    label: str


@dataclass(frozen=True)
class Figure:
    """Small panels under one caption, which says what to look for."""

    key: str
    title: str
    caption: str
    panels: list[Drawing]
    legend: list[Legend] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    key: str
    title: str
    lead: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def show(value: Any, kind: str = "text") -> str:
    r"""Format a value for a reader; what is missing or not finite is a dash.

    Examples
    --------
    >>> show(0.2374, "percent"), show(1.0312, "ratio"), show(59_900_000, "count"), show(2_500_000, "bytes")
    ('23.7%', '1.031×', '59,900,000', '2.50\xa0MB')
    >>> show(0.0123, "seconds"), show(float("nan"), "number"), show(0.0042, "change"), show(True, "flag")
    ('12.3\xa0ms', '–', '+0.42%', 'yes')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if kind == "text" or isinstance(value, str):
        return str(value)
    formats = {
        "count": lambda v: f"{v:,.0f}",
        "number": lambda v: f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.4g}",
        "ratio": lambda v: f"{v:.3f}×",
        "percent": lambda v: f"{100 * v:.1f}%",
        "change": lambda v: f"{100 * v:+.2f}%".replace("-", "−"),
        "flag": lambda v: "yes" if v else "no",
        "bytes": lambda v: _scaled(v, 1000, ("B", "kB", "MB", "GB", "TB")),
        "seconds": lambda v: f"{v:.3g}\xa0s" if v >= 1 else f"{1000 * v:.3g}\xa0ms",
    }
    return formats[kind](value)


def short_count(value: float) -> str:
    r"""Write a count in three figures.

    Examples
    --------
    >>> short_count(1_835_904), short_count(740)
    ('1.84\xa0M', '740')
    """
    return _scaled(value, 1000, ("", "k", "M", "G")).strip()


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= step and power < len(units) - 1:
        value, power = value / step, power + 1
    number = f"{value:.0f}" if power == 0 or abs(value) >= 100 else f"{value:.3g}"
    if power and abs(value) < 100:
        digits = 2 if abs(value) < 10 else 1
        number = f"{value:.{digits}f}"
    return f"{number}\xa0{units[power]}"
