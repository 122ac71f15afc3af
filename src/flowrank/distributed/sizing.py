"""How many workers a number of series needs: a forecast is timed here, and its floor computed from the cost model."""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowrank.cost import Machine, Workload
from flowrank.distributed.forecaster import Forecaster
from flowrank.errors import FlowrankError, check_count
from flowrank.family.costs import cost

_ROWS = 256  # series of a timed call
_REPEATS, _SECONDS = 3, 2.0  # timed calls and seconds, at least


@dataclass(frozen=True)
class Sizing:
    """What a worker forecasts, and how many of them do it in time.

    Attributes
    ----------
    series_per_second
        Of one worker, measured on this machine: from Arrow to Arrow, in batches of equal length.
    most_per_second
        Of one worker, if its processor did nothing but the model's products and moved nothing twice (roofline of this
        machine); None where the cost is not known.
    memory_bytes
        Of one worker: the resident memory of this process at its most; None where the system does not tell.
    workers
        That are needed, if each is as fast as this machine and none shares its cores.
    """

    series_per_second: float
    most_per_second: float | None
    memory_bytes: int | None
    workers: int


def sizing(
    model: Any, *, length: int, horizon: int, series: int, seconds: float, threads: int = 1, **options: Any
) -> Sizing:
    """Time forecasts on this machine, and tell how many workers many series need.

    Parameters
    ----------
    model
        What `flowrank.load` opens.
    length
        Values of a series.
    horizon
        Steps ahead.
    series
        How many there are.
    seconds
        In which they are to be forecast, start-up of workers apart.
    threads
        CPU threads of a worker.
    **options
        Of `Forecaster`.

    Raises
    ------
    FlowrankError
        If a number is not positive, or the model cannot be opened.

    Examples
    --------
    >>> found = sizing("flow-bolt-mini", length=36, horizon=12, series=1_000_000, seconds=600)
    >>> found.workers >= 1 and found.series_per_second > 1
    True
    """
    import pyarrow as pa

    check_count(length, "length")
    check_count(series, "series")
    if not seconds > 0:
        raise FlowrankError("seconds", expected="a positive number", found=repr(seconds))
    forecaster = Forecaster(model, horizon=horizon, threads=threads, **options)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {forecaster.id_column: [str(number) for number in range(_ROWS)]}
    for argument, name in forecaster.lists:
        steps = length + (forecaster.horizon if argument == "future" else 0)
        columns[name] = list(10 + rng.normal(size=(_ROWS, steps)).cumsum(axis=1))
    table = pa.table(columns)
    forecaster(table)  # opens the model, and packs weights
    times: list[float] = []
    while len(times) < _REPEATS or sum(times) < _SECONDS:
        start = time.perf_counter()
        forecaster(table)
        times.append(time.perf_counter() - start)
    rate = _ROWS / statistics.median(times)
    return Sizing(rate, _most(forecaster, length), _resident(), math.ceil(series / (rate * seconds)))


def _most(forecaster: Forecaster, length: int) -> float | None:
    """Series a second of a machine that does nothing but the model's arithmetic."""
    pipeline, size = forecaster.pipeline, forecaster.batch_size
    model = getattr(pipeline, "inner_model", None)
    if model is None:  # a graph, without the model that it was made from
        return None
    rows = size * len(forecaster.lists)  # each target and covariate is one
    found = cost(pipeline, Workload(rows, length, forecaster.horizon))
    return size / found.roofline(Machine.measure(model.device, model.dtype))


def _resident() -> int | None:
    """Bytes of this process in memory, at their most."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
