"""A stream of series that can begin again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flowrank.series.ids import IdType
from flowrank.series.value import OnBad, Series

if TYPE_CHECKING:
    from flowrank.series.tables import LongTable


class SeriesSource:
    """Series, one at a time; each iteration starts from the beginning.

    It can be pickled, and so sent to a worker process, whenever what it reads can: files go as their paths, data
    frames and lists with their contents.

    Parameters
    ----------
    begin
        Gives a new iterator over the series.
    ids
        Data type of the ids.
    again
        Reads the source once more, given ``on_bad``.
    table
        What is read, if that is a long table.

    Examples
    --------
    >>> import numpy as np
    >>> source = SeriesSource(lambda: iter([Series("A", np.ones(3))]))
    >>> [len(series) for series in source], [len(series) for series in source]
    ([3], [3])
    """

    def __init__(
        self,
        begin: Callable[[], Iterator[Series]],
        *,
        ids: IdType | None = None,
        again: Callable[..., SeriesSource] | None = None,
        table: LongTable | None = None,
    ) -> None:
        self._begin = begin
        self._again = again
        self.table = table
        self.ids = IdType() if ids is None else ids

    def __iter__(self) -> Iterator[Series]:
        return self._begin()

    def leaving_out(self, on_bad: OnBad | None) -> SeriesSource:
        """Return the same source without the series that cannot be read, each of which is told to ``on_bad``."""
        return self if self._again is None or on_bad is None else self._again(on_bad=on_bad)
