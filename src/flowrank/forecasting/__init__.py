"""Forecasts of any number of series, in memory that does not grow with the rows of a file.

`forecast` gives a table, `iter_forecasts` tables of a batch each, `write_forecasts` a file; `predict_requests` is what
they and evaluation share: histories in, quantiles out.
"""

from __future__ import annotations

from flowrank.forecasting.corrections import Corrections
from flowrank.forecasting.files import write_forecasts
from flowrank.forecasting.levels import DEFAULT_LEVELS, check_levels
from flowrank.forecasting.model import quantiles_of
from flowrank.forecasting.requests import Request, predict_requests
from flowrank.forecasting.skipping import Skipped
from flowrank.forecasting.tables import forecast, iter_forecasts

__all__ = [
    "DEFAULT_LEVELS",
    "Corrections",
    "Request",
    "Skipped",
    "check_levels",
    "forecast",
    "iter_forecasts",
    "predict_requests",
    "quantiles_of",
    "write_forecasts",
]
