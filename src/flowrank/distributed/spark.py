"""Forecasts over a Spark data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from flowrank.distributed.forecaster import Forecaster
from flowrank.errors import FlowrankError


def spark_forecast(frame: Any, model: str, *, horizon: int, threads: int = 1, **options: Any) -> Any:
    """Forecast a Spark data frame of one row a series, by ``mapInArrow``.

    Parameters
    ----------
    frame
        A ``pyspark.sql.DataFrame`` with one row a series, as `Forecaster` takes them: an id, an array of numbers, and
        an array of time stamps or ``start`` and ``freq``.
    model
        A name or a folder that `flowrank.load` opens and that every worker sees. It is loaded once a Python worker.
    horizon
        Steps ahead.
    threads
        CPU threads of a Python worker; as many as ``spark.task.cpus``.
    **options
        Of `Forecaster`, such as can be written as JSON.

    Returns
    -------
    pyspark.sql.DataFrame
        Of forecasts, not computed yet: columns id, time or step, ``target_name`` (string), ``predictions`` (double), a
        double a level; H rows a series.

    Raises
    ------
    FlowrankError
        If Spark is not installed, an option is unknown, or columns are missing.

    Examples
    --------
    >>> series = spark.table("main.sales.series")  # doctest: +SKIP
    >>> spark_forecast(series, "flow-bolt", horizon=12, freq="MS").write.saveAsTable("forecasts")  # doctest: +SKIP
    """
    try:
        from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
    except ImportError as error:
        raise FlowrankError(
            "spark", expected="PySpark", found=f"none ({error})", todo='pip install "flowrank[spark]"'
        ) from error
    settings = json.dumps({"model": str(model), "horizon": horizon, "threads": threads, **options}, sort_keys=True)
    schema = _forecaster(settings).schema(to_arrow_schema(frame.schema))

    def forecasts(batches: Iterator[Any]) -> Iterator[Any]:
        forecaster = _forecaster(settings)
        for batch in batches:
            yield from forecaster(batch).to_batches()

    return frame.mapInArrow(forecasts, from_arrow_schema(schema))


@lru_cache(maxsize=2)
def _forecaster(settings: str) -> Forecaster:
    """One a Python worker, which Spark uses again for other partitions."""
    given = json.loads(settings)
    return Forecaster(given.pop("model"), **given)
