"""One workload for two models, timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowrank.randomness import seeded
from flowrank.stopwatch import seconds_taken

if TYPE_CHECKING:
    import torch
    from chronos import BaseChronosPipeline as Pipeline

WARM_UP_ROUNDS = 2


def paired_seconds(
    calls: dict[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each call, called in turns, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for round_ in range(WARM_UP_ROUNDS + repeats):
        for key, call in calls.items():
            elapsed = seconds_taken(call, device)
            if round_ >= WARM_UP_ROUNDS:
                seconds[key].append(elapsed)
    return seconds


def call_of(pipeline: Pipeline, series: torch.Tensor, horizon: int, samples: int, seed: int) -> Callable[[], object]:
    """Return a call that forecasts the series, with the same noise each time."""
    paths: dict[str, Any] = {"num_samples": samples} if samples_paths(pipeline) else {}

    def predict() -> object:
        with seeded(pipeline, seed) as options:
            return pipeline.predict(list(series), prediction_length=horizon, **paths, **options)

    return predict


def series_of(batch: int, length: int, seed: int) -> torch.Tensor:
    """Random walks with a season of 24 and a level, (B, T) in fp32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(batch, length, generator=generator).cumsum(dim=1)
    phase = 2 * math.pi * torch.rand(batch, 1, generator=generator)
    return 100 + walk + 10 * torch.sin(2 * math.pi * torch.arange(length) / 24 + phase)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while; None: as many as now."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def samples_paths(pipeline: Pipeline) -> bool:
    """Whether the model forecasts by sample paths."""
    return pipeline.forecast_type.name == "SAMPLES"
