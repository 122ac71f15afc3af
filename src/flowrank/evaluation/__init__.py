"""Rolling-origin backtests: MASE and WQL of models compared with the seasonal naive forecast."""

from __future__ import annotations

from flowrank.evaluation.backtests import Backtest, datasets_in, read_backtests
from flowrank.evaluation.relative import relative_scores
from flowrank.evaluation.rolls import season_length, seasonal_error
from flowrank.evaluation.scoring import SEASONAL_NAIVE, evaluate

__all__ = [
    "SEASONAL_NAIVE",
    "Backtest",
    "datasets_in",
    "evaluate",
    "read_backtests",
    "relative_scores",
    "season_length",
    "seasonal_error",
]
