"""The smallest model within a tolerance: shrink, reconstruct, heal, backtest, and bisect between sizes."""

from __future__ import annotations

from flowrank.search.backtester import Backtester, Comparison
from flowrank.search.smallest import SEARCH_LOG, smallest
from flowrank.search.tolerance import Tolerance

__all__ = ["SEARCH_LOG", "Backtester", "Comparison", "Tolerance", "smallest"]
