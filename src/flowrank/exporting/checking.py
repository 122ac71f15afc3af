"""How far a graph is from its model, and whether fewer bits are any faster here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowrank.graphs import Facts, driver_of, open_graph

SERIES = 32
_REPEATS = 5
_PATCHES = 4  # ahead, for models of groups
_LONGEST = 1024  # values of a series, for models of groups


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
    sample = Sample.of(facts)
    graph = driver_of(open_graph(path, runtime, precision=precision), facts)
    theirs = exact_forecasts(pipeline, sample)
    mine = graph_forecasts(graph, sample)
    flat, apart = theirs.reshape(len(theirs), -1), np.abs(mine - theirs).reshape(len(theirs), -1).max(axis=1)
    each = apart / np.maximum(np.ptp(flat, axis=1), np.finfo(np.float32).tiny)
    slower = None
    if precision != "fp32":
        other = driver_of(open_graph(plain.SerializeToString(), runtime), facts)
        slower = _ratio(lambda: graph_forecasts(graph, sample), lambda: graph_forecasts(other, sample))
    return Check(float(each.max()), float(np.median(each)), SERIES, slower)


@dataclass(frozen=True)
class Sample:
    """Random series that a graph and its model both forecast.

    Attributes
    ----------
    context
        Shape (series, time).
    groups
        Shape (series,): for models of groups, half of the series are single, the others in groups of two to four.
    future
        Shape (series, steps): for models of groups, values known ahead of one series of each group; else NaN.
    patches
        Output patches, for models of groups.
    """

    context: np.ndarray
    groups: np.ndarray
    future: np.ndarray
    patches: int

    @classmethod
    def of(cls, facts: Facts) -> Sample:
        """A sample of what a graph reads."""
        if facts.kind == "series":
            nothing = np.full((SERIES, 0), np.nan, dtype=np.float32)
            return cls(walks(SERIES, facts.context_length), np.arange(SERIES), nothing, 1)
        patches = min(_PATCHES, facts.most_patches)
        past, ahead = min(facts.context_length, _LONGEST), patches * facts.output_patch
        made = walks(SERIES, past + ahead)
        groups, future = np.arange(SERIES), np.full((SERIES, ahead), np.nan, dtype=np.float32)
        if facts.reads_groups:
            sizes = np.array([1] * (SERIES // 2) + [2, 3, 4, 3, 4])
            groups = np.repeat(np.arange(len(sizes)), sizes)
            known = np.append(groups[1:] == groups[:-1], False) & np.append(True, groups[1:] != groups[:-1])
            future[known] = made[known, past:]
        return cls(np.ascontiguousarray(made[:, :past]), groups, future, patches)


def exact_forecasts(pipeline: Any, sample: Sample) -> np.ndarray:
    """Quantiles (series, quantiles, steps) of one pass, by the exact engine."""
    inference = pipeline.inference
    engine = type(inference)(inference.engine_class).engine_for(pipeline.inner_model)
    asked = inference.graph_engine.asked(sample.context, sample.groups, sample.future, sample.patches)
    found: np.ndarray = engine.quantiles(*asked).float().numpy()
    return found


def graph_forecasts(graph: Any, sample: Sample) -> np.ndarray:
    """The same by a graph's driver."""
    if graph.facts.kind == "series":
        found: np.ndarray = graph.block(sample.context)
    else:
        found = graph.step(sample.context, sample.groups, sample.future, sample.patches)
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
