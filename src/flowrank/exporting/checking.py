"""How far a graph is from its model, and whether fewer bits are any faster here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowrank.graphs import Facts, open_driver

SERIES = 32
_REPEATS = 5
_STEPS = 7  # after the first, of models of tokens
_PATCHES = 4  # ahead, for models of groups
_LONGEST = 1024  # values of a series, for models of groups


@dataclass(frozen=True)
class Check:
    """What a graph was found to do.

    Attributes
    ----------
    difference
        Largest difference of a quantile from the model's own, over the spread of the model's quantiles for its series;
        of the worst series. Of models of tokens: the same of logits.
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


def checked(
    pipeline: Any, plain: Mapping[str, Any], paths: Mapping[str, Path], runtime: str, facts: Facts, precision: str
) -> Check:
    """Compare forecasts of graphs with those of the exact engine, and their speed with that of ``plain`` ones."""
    sample = Sample.of(facts)
    graph = open_driver(paths, facts, runtime, precision=precision)
    theirs = exact_forecasts(pipeline, sample, facts)
    mine = graph_forecasts(graph, sample)
    flat, apart = theirs.reshape(len(theirs), -1), np.abs(mine - theirs).reshape(len(theirs), -1).max(axis=1)
    each = apart / np.maximum(np.ptp(flat, axis=1), np.finfo(np.float32).tiny)
    slower = None
    if precision != "fp32":
        other = open_driver({name: one.SerializeToString() for name, one in plain.items()}, facts, runtime)
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
        if facts.kind != "groups":
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


def exact_forecasts(pipeline: Any, sample: Sample, facts: Facts) -> np.ndarray:
    """By the exact engine: quantiles (series, quantiles, steps) of one pass, or logits (series, steps, vocabulary)."""
    inference = pipeline.inference
    engine = type(inference)(inference.engine_class).engine_for(pipeline.inner_model)
    if facts.kind == "paths":
        result = engine.logits(*map(torch.from_numpy, _forced(facts, sample)))
    else:
        asked = inference.graph_engine.asked(sample.context, sample.groups, sample.future, sample.patches)
        result = engine.quantiles(*asked)
    found: np.ndarray = result.float().numpy()
    return found


def graph_forecasts(graph: Any, sample: Sample) -> np.ndarray:
    """The same by a graph's driver."""
    if graph.facts.kind == "series":
        found: np.ndarray = graph.block(sample.context)
    elif graph.facts.kind == "paths":
        found = graph.logits(*_forced(graph.facts, sample))
    else:
        found = graph.step(sample.context, sample.groups, sample.future, sample.patches)
    return found


def _forced(facts: Facts, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of the series, which of them are visible, and some that follow, drawn at random."""
    assert facts.tokens is not None
    tokens, visible, _ = facts.tokens.read(sample.context)
    steps = min(_STEPS, facts.horizon - 1)
    rng = np.random.default_rng(0)
    return tokens, visible, rng.integers(facts.tokens.special, facts.tokens.count, (len(tokens), steps))


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
