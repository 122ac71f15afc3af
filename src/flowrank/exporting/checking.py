"""How far a graph is from its model, and whether fewer bits are any faster here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowrank.graphs import Facts, SeriesGraph, open_graph

SERIES = 32
_REPEATS = 5


@dataclass(frozen=True)
class Check:
    """What a graph was found to do.

    Attributes
    ----------
    difference
        Largest difference of a quantile from the model's own, over the spread of the model's quantiles for its series;
        of the worst series.
    typical
        The same of the median series.
    series
        How many random series it was measured on: walks of many lengths and scales, with missing values.
    slower
        Seconds over those of the same graph in fp32, where it has fewer bits.
    """

    difference: float
    typical: float
    series: int
    slower: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def checked(pipeline: Any, plain: Any, path: Path, runtime: str, facts: Facts, precision: str) -> Check:
    """Compare a graph's forecasts with those of the exact engine, and its speed with that of ``plain``."""
    contexts = walks(SERIES, facts.context_length)
    graph = SeriesGraph(open_graph(path, runtime, precision=precision), facts)
    theirs = exact_forecasts(pipeline, contexts)
    mine = graph.block(contexts)
    flat, apart = theirs.reshape(len(theirs), -1), np.abs(mine - theirs).reshape(len(theirs), -1).max(axis=1)
    each = apart / np.maximum(np.ptp(flat, axis=1), np.finfo(np.float32).tiny)
    slower = None
    if precision != "fp32":
        other = SeriesGraph(open_graph(plain.SerializeToString(), runtime), facts)
        slower = _ratio(lambda: graph.block(contexts), lambda: other.block(contexts))
    return Check(float(each.max()), float(np.median(each)), SERIES, slower)


def exact_forecasts(pipeline: Any, contexts: np.ndarray) -> np.ndarray:
    """Quantiles (series, quantiles, horizon) of one block, by the exact engine."""
    engine = type(pipeline.inference)(pipeline.inference.engine_class).engine_for(pipeline.inner_model)
    found: np.ndarray = engine.quantiles(torch.from_numpy(contexts)).float().numpy()
    return found


def walks(count: int, length: int) -> np.ndarray:
    """Random walks (count, length) of many lengths and scales, some with holes."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(count, length)).cumsum(axis=1) * 10.0 ** rng.uniform(-3, 6, size=(count, 1))
    for row, one in enumerate(made):
        one[: rng.integers(0, length - 8)] = np.nan
        if row % 3 == 0:
            one[:-1][rng.random(length - 1) < 0.2] = np.nan
    return made.astype(np.float32)


def _ratio(mine: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Least seconds of one call over those of another, called in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(_REPEATS):
        for place, call in enumerate((mine, theirs)):
            start = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - start)
    return best[0] / best[1]
