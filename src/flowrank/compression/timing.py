"""How long forecasts take on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch

from flowrank.family import family_of
from flowrank.pipelines import Pipeline
from flowrank.stopwatch import seconds_taken

_LEAST_ROUNDS = 3


def seconds_of(
    pipelines: Mapping[str, Pipeline], *, batch_size: int = 32, context_length: int | None = None, seconds: float = 3.0
) -> dict[str, float]:
    """Least time of a forecast of each pipeline, measured in turns.

    Parameters
    ----------
    pipelines
        By name.
    batch_size, context_length
        B random walks of so many points; None: the longest context that the first model reads.
    seconds
        How long to measure, all of them together.
    """
    first = next(iter(pipelines.values()))
    points = context_length or int(first.inner_model.config.chronos_config["context_length"])
    series = list(torch.randn(batch_size, points, generator=torch.Generator().manual_seed(0)).cumsum(dim=1))
    horizon = family_of(first).usual_horizon(first.inner_model.config)
    best = dict.fromkeys(pipelines, float("inf"))
    for pipeline in pipelines.values():
        pipeline.predict(series, prediction_length=horizon)
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < until:
        rounds += 1
        for name, pipeline in pipelines.items():
            best[name] = min(best[name], seconds_taken(partial(pipeline.predict, series, prediction_length=horizon)))
    return best
