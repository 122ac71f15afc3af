"""The values in the rows of a long table: numbers, and covariates that may be categories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from flowrank.series.categories import CategoryFinder, as_codes
from flowrank.series.columns import Columns
from flowrank.series.numbers import MarksOfNumbers, as_numbers

Categories = dict[Any, tuple[str, ...]]
"""By the name of a covariate, what its texts are; those of numbers are not in it."""

_CATEGORIES = "write no cell of the column as a number, if they are names of categories ('zone 3', not '3')"


class ValueReader:
    """Reads the columns of values of a table that may come in pieces.

    What the texts in some columns mean, only the whole table shows: `note` each piece of these, `settle`, then `read`
    the table again.

    Parameters
    ----------
    columns
        What the columns mean, and how texts are read.
    argument
        Name of the argument that errors are about.
    categories
        Those of the covariates, where they are known; None: found out.

    Examples
    --------
    >>> reader = ValueReader(Columns(target="sales", covariates=("sky",)), argument="series")
    >>> piece = pd.DataFrame({"sales": [3, None], "sky": ["sun", "rain"]})
    >>> reader.undecided, reader.note(piece, "row {}".format)
    (['sky'], False)
    >>> reader.settle()
    >>> reader.categories
    {'sky': ('rain', 'sun')}
    >>> reader.read(piece, "row {}".format)
    array([[ 3.,  1.],
           [nan,  0.]])
    """

    def __init__(self, columns: Columns, *, argument: str, categories: Categories | None = None) -> None:
        layout = columns.layout
        self._columns = columns
        self._argument = argument
        self._written: dict[str, Any] = {"decimal": layout.decimal, "thousands": layout.thousands}
        self.categories: Categories = {} if categories is None else categories
        open_ = columns.covariates if categories is None else ()
        self._finders = {name: CategoryFinder(**self._written) for name in open_}
        self._marks: dict[Any, MarksOfNumbers] = {}
        if layout.semicolons and layout.decimal is None and layout.thousands is None:
            self._marks = {name: MarksOfNumbers(argument, name) for name in columns.values}

    @property
    def undecided(self) -> list[Any]:
        """The columns that the whole table is needed for."""
        return [name for name in self._columns.values if name in self._finders or name in self._marks]

    def note(self, piece: pd.DataFrame, where: Callable[[int], str]) -> bool:
        """Take note of a piece of the undecided columns; whether no more is needed."""
        for name, marks in self._marks.items():
            marks.add(piece[name], where)
        known = [finder.note(piece[name]) for name, finder in self._finders.items()]
        return all(known) and not self._marks

    def settle(self) -> None:
        """Check that the numbers can be read in one way, and keep the categories.

        Raises
        ------
        FlowrankError
            If points in a column may be decimal marks or part thousands.
        """
        found = {name: finder.found for name, finder in self._finders.items()}
        self.categories = {**self.categories, **{name: words for name, words in found.items() if words is not None}}
        for name, marks in self._marks.items():
            if name not in self.categories:
                marks.check()

    def missing(self, rows: int) -> np.ndarray:
        """Return so many rows of missing values."""
        return np.full((rows, len(self._columns.values)) if self._columns.joint else rows, np.nan)

    def read(self, piece: pd.DataFrame, where: Callable[[int], str]) -> np.ndarray:
        """Return the values of a piece, shape ``(rows,)``, or ``(rows, columns)`` of several; categories as codes.

        Raises
        ------
        FlowrankError
            If a value is not of its column's kind.
        """
        if not self._columns.joint:
            return self._column(self._columns.target, piece, where)
        return np.column_stack([self._column(name, piece, where) for name in self._columns.values])

    def _column(self, name: Any, piece: pd.DataFrame, where: Callable[[int], str]) -> np.ndarray:
        if name in self.categories:
            return as_codes(piece[name], self.categories[name], argument=self._argument, where=where, name=name)
        otherwise = {"otherwise": _CATEGORIES} if name in self._columns.covariates else {}
        return as_numbers(piece[name], argument=self._argument, where=where, name=name, **self._written, **otherwise)
