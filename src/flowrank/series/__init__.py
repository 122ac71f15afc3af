"""Time series from any source, one at a time.

``read_series`` turns data frames, CSV and Parquet files, arrays, tensors, GluonTS records, Hugging
Face data sets and fev tasks into one lazy, re-iterable stream of ``Series``.
"""

from __future__ import annotations

from flowrank.series.reading import read_series
from flowrank.series.source import SeriesSource
from flowrank.series.value import Series

__all__ = ["Series", "SeriesSource", "read_series"]
