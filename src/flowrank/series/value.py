"""One time series as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError

OnBad = Callable[[Any, FlowrankError], None]
"""Called with the id and the error of a series that is left out."""


@dataclass(frozen=True, eq=False)
class Series:
    """One univariate, regularly spaced time series.

    Parameters
    ----------
    item_id
        Name of the series, in the type that it has in its source: a text, a whole number, a date …
    target
        Values in order of time, shape ``(time,)``, float64; NaN is a missing value. In a `flowrank.series.groups.Group`
        there are several columns of them, shape ``(time, columns)``.
    start
        Time of the first value; None if the series has no calendar.
    freq
        pandas frequency on which ``start`` lies (``"h"``, ``"ME"``, ``"W-MON"``); None if it is not known.

    Examples
    --------
    >>> import numpy as np
    >>> series = Series("A", np.array([1.0, 2.0, np.nan]))
    >>> series.item_id, len(series)
    ('A', 3)
    """

    item_id: Any
    target: np.ndarray
    start: pd.Timestamp | None = None
    freq: str | None = None

    def __len__(self) -> int:
        return len(self.target)
