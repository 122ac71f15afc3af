"""Forecasts over a Ray data set."""

from __future__ import annotations

from typing import Any

from flowrank.distributed.addresses import model_path
from flowrank.distributed.forecaster import Forecaster
from flowrank.distributed.ray_cluster import check_nodes, ray_module
from flowrank.errors import check_count

ROWS = 1024
"""Series of a batch that an actor is given."""


def forecast(
    dataset: Any,
    model: str,
    *,
    horizon: int,
    workers: int = 1,
    threads: int = 1,
    num_gpus: float = 0,
    rows: int = ROWS,
    **options: Any,
) -> Any:
    """Forecast a Ray data set of one row a series.

    A pool of actors loads the model once each; Ray passes them batches, holds back what they have no time for, starts
    an actor anew that died, and gives its batches to others.

    Parameters
    ----------
    dataset
        A ``ray.data.Dataset`` with one row a series, as `Forecaster` takes them.
    model
        A name or a folder that `flowrank.load` opens and that every node sees.
    horizon
        Steps ahead.
    workers
        Actors.
    threads
        CPU threads of each, which Ray counts as CPUs.
    num_gpus
        GPUs of each; with some, models run on ``"cuda"`` unless ``device`` says otherwise.
    rows
        Series of a batch that an actor is given.
    **options
        Of `Forecaster`.

    Returns
    -------
    ray.data.Dataset
        Of forecasts, not computed yet: H rows a series, in no order.

    Raises
    ------
    FlowrankError
        If Ray is not installed, an option is unknown, or a node lacks flowrank or the model. What is wrong with a
        series is raised when it is computed.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> series = ray.data.read_parquet("series")  # doctest: +SKIP
    >>> forecast(series, "flow-bolt", horizon=12, workers=4).write_parquet("forecasts")  # doctest: +SKIP
    """
    ray, model = ray_module(), model_path(model)
    settings: dict[str, Any] = {
        "device": "cuda" if num_gpus else "cpu",
        **options,
        "horizon": horizon,
        "threads": threads,
    }
    Forecaster(model, **settings)  # refuses options that are wrong before anything starts
    check_nodes(ray, {"model": model})
    return dataset.map_batches(
        Forecaster,
        fn_constructor_args=(model,),
        fn_constructor_kwargs=settings,
        batch_format="pyarrow",
        batch_size=check_count(rows, "rows"),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=check_count(workers, "workers")),
        num_cpus=threads,
        num_gpus=num_gpus,
    )
