"""Forecasts of more series than one process takes: one function from Arrow to Arrow, and the clusters that call it.

`Forecaster` maps a batch of series to a batch of forecasts. `forecast` calls it over a Ray data set, `spark_forecast`
over a Spark data frame, `forecast_files` over the partitions of Parquet files, in this process or on Ray. Whatever the
partitions, their order and the number of workers, forecasts are the same to the last bit (on machines of one kind).
`evaluate` scores models on data sets on Ray, and `searches` looks for the smallest models of several tolerances and
seeds, in this process or on Ray.
"""

from __future__ import annotations

from flowrank.distributed.evaluation import evaluate
from flowrank.distributed.forecaster import Forecaster
from flowrank.distributed.ray_data import forecast
from flowrank.distributed.run import forecast_files
from flowrank.distributed.searching import searches
from flowrank.distributed.sizing import Sizing, sizing
from flowrank.distributed.spark import spark_forecast

__all__ = [
    "Forecaster",
    "Sizing",
    "evaluate",
    "forecast",
    "forecast_files",
    "searches",
    "sizing",
    "spark_forecast",
]
