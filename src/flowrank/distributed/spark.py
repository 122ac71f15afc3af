"""Forecasts over a Spark data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from flowrank.distributed.addresses import model_identity, model_path
from flowrank.distributed.forecaster import Forecaster
from flowrank.distributed.workers import check_workers, looking
from flowrank.errors import FlowrankError

LOOKS = 8
"""Tasks of the job that looks what workers have."""


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
        If Spark is not installed, an option is unknown, columns are missing, or workers lack flowrank or the model (a
        short job looks on up to `LOOKS` of them).

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
    model = model_path(model)
    given = {"model": model, "identity": model_identity(model), "horizon": horizon, "threads": threads, **options}
    settings = _told(given)
    schema = _forecaster(settings).schema(to_arrow_schema(frame.schema))
    _check(frame.sparkSession, {"model": model})

    def forecasts(batches: Iterator[Any]) -> Iterator[Any]:
        forecaster = _forecaster(settings)
        for batch in batches:
            yield from forecaster(batch).to_batches()

    return frame.mapInArrow(forecasts, from_arrow_schema(schema))


def _told(given: dict[str, Any]) -> str:
    """Options as workers get them."""
    for name, value in given.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise FlowrankError(
                name,
                expected="numbers, texts and lists of them, which travel to workers",
                found=type(value).__name__,
                todo="leave it out, or pass its name",
            ) from error
    return json.dumps(given, sort_keys=True)


def _check(session: Any, paths: dict[str, str]) -> None:
    """Refuse workers that lack flowrank or a path."""
    from pyspark.sql.functions import udf

    look = looking(paths)
    seen = session.range(0, LOOKS, 1, LOOKS).select(udf(lambda _: look(), "string", useArrow=False)("id")).collect()
    todo = "install it into the Python of the workers, which PYSPARK_PYTHON names before the session starts"
    check_workers([one[0] for one in seen], paths, todo)


@lru_cache(maxsize=2)
def _forecaster(settings: str) -> Forecaster:
    """One a Python worker, which Spark uses again for other partitions, and for other jobs on the same files."""
    given = json.loads(settings)
    given.pop("identity")
    return Forecaster(given.pop("model"), **given)
