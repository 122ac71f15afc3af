"""How much worse a model forecasts than another: backtests on the same series, in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch

from flowrank.errors import FlowrankError, check_count
from flowrank.evaluation import season_length, seasonal_error
from flowrank.family import family_of
from flowrank.forecasting import DEFAULT_LEVELS, Request, predict_requests
from flowrank.forecasting.corrections import excess_level
from flowrank.pretraining.cutting import cut
from flowrank.search.joint import JointCases
from flowrank.search.tolerance import Metric
from flowrank.series import Series, read_series
from flowrank.synthetic import Mixture, lifted

HORIZON = 24
LENGTHS = (16, 32, 64, 128, 256, 512)
MOST = 4096
"""Of the user's series that are read, unless more are to be forecast."""

_BLOCK = 64  # synthetic series of one length
_STREAM = 3  # of the generator: neither training, nor validation, nor calibration draws from it
_RESAMPLES = 400
_GROUPS, _GROUP = 12, 64  # groups of series at most, and the least that makes one
_THIRDS = 3  # of the user's series, by how closely the parent forecasts them
_SHARE = 4  # one task of several series, where the model reads such, for so many single ones
_TOLD = 64  # series of a batch that is judged step by step
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Comparison:
    """How much worse a child forecasts than its parent.

    Attributes
    ----------
    loss
        Metric of the child over that of the parent, less 1, on the part of the series that loses most; there, the
        geometric mean over groups of series, where a gain counts as 0.
    upper
        Upper end of its confidence interval.
    """

    loss: float
    upper: float


@dataclass(frozen=True)
class _Case:
    """A history's future (H,), and its in-sample seasonal error; in units of the history's mean magnitude."""

    truth: np.ndarray
    scale: float


@dataclass(frozen=True)
class _Part:
    """Series that are judged by themselves, in groups that are alike: indices (…, series) of each."""

    groups: tuple[np.ndarray, ...]

    def resampled(self, rng: np.random.Generator) -> _Part:
        """Bootstrap samples of the series of every group."""
        return _Part(tuple(one[rng.integers(0, len(one), (_RESAMPLES, len(one)))] for one in self.groups))


class Backtester:
    """Backtests of models against one parent, on series that are used for nothing else.

    What a smaller model loses first is its precision on series that its parent forecasts closely. Losses on other
    series are larger in sum, and mostly noise that no model forecasts: in a mean over all series the first would
    hardly show. So series are judged in parts, and the part that loses most is what counts: thirds of the user's
    series, from those that the parent forecasts closely to those that it does not; the synthetic series; and, of
    models that read several series together, synthetic tasks of several series. Synthetic series may be without any
    noise, so that nearly nothing is left to divide by: they are one part, in groups by how much they change from
    season to season.

    In a part, series are taken in units of their history's mean magnitude. Each group is treated as a data set: the
    child's summed loss is divided by the parent's, and the geometric mean over groups is taken, as over the data sets
    of published benchmarks; but a group on which the child gains counts as one without a loss, since a gain on some
    series would pay for losses on others. Models that draw paths are judged step by step: by the quantiles that they
    give each value, told those before it (`flowrank.family.Family.step_quantiles`). No chance is in that, and it
    takes a twentieth of the work.

    Parameters
    ----------
    parent
        The pipeline to compare with.
    series
        Anything that `flowrank.series.read_series` reads; the last ``horizon`` values of each are forecast. None:
        synthetic series.
    also_synthetic
        Whether to forecast synthetic series as well as ``series``.
    count
        Largest number of series of each kind, evenly spaced over the first 4 096 of the source (or ``count``, if more).
    horizon
        H, steps ahead; at most a third of a series.
    metric
        "WQL" or "MASE".
    confidence
        See `Tolerance`.
    seed
        Of the synthetic series and of the bootstrap.

    Raises
    ------
    FlowrankError
        If no series is usable.

    Examples
    --------
    >>> import flowrank
    >>> parent = flowrank.load("flow-bolt-mini")
    >>> Backtester(parent, count=32).compare(parent)
    Comparison(loss=0.0, upper=0.0)
    """

    def __init__(
        self,
        parent: Any,
        *,
        series: Any = None,
        also_synthetic: bool = False,
        count: int = 2048,
        horizon: int = HORIZON,
        metric: Metric = "WQL",
        confidence: float = 0.9,
        seed: int = 0,
        **columns: Any,
    ) -> None:
        self.metric, self.confidence, self.seed = metric, confidence, seed
        self.also_synthetic = also_synthetic and series is not None
        self.horizon = min(check_count(horizon, "horizon"), int(parent.model_prediction_length))
        check_count(count, "validation_series")
        context = int(parent.model_context_length)
        kinds = [] if series is None else [_own(series, count, context, self.horizon, columns)]
        if series is None or also_synthetic:
            kinds.append(_synthetic(context, self.horizon, seed))
        self._requests: list[Request[_Case]] = []
        sizes = []
        for kind in kinds:
            drawn = list(islice(kind, count))
            if not drawn:
                raise FlowrankError(
                    "series",
                    expected="series of at least 6 values that vary and whose last third is observed",
                    found="none",
                    todo="pass other series, or leave the argument out to use synthetic ones",
                )
            sizes.append(len(drawn))
            self._requests += drawn
        self._joint: JointCases | None = None
        if family_of(parent).reads_groups:
            most = max(1, count // _SHARE)
            self._joint = JointCases(most, context=context, horizon=self.horizon, seed=seed)
            sizes.append(len(self._joint))
        self._parent = self._losses(parent)
        by = np.array([request.key.scale for request in self._requests])
        if self._joint is not None:
            by = np.append(by, self._joint.scales)
        if series is not None:
            by[: sizes[0]] = self._a_step(self._parent[: sizes[0]])
        self._parts: list[_Part] = []
        for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            groups = [first + indices for indices in _alike(by[first : first + size])]
            parts = min(_THIRDS, len(groups)) if series is not None and first == 0 else 1
            ends = [len(groups) * i // parts for i in range(parts + 1)]
            self._parts += [_Part(tuple(groups[start:end])) for start, end in pairwise(ends)]

    def _a_step(self, losses: np.ndarray) -> np.ndarray:
        """Losses of the first series as means over their steps."""
        if self.metric == "MASE":  # is one already
            return losses
        steps = [np.isfinite(request.key.truth).sum() for request in self._requests[: len(losses)]]
        return losses / np.maximum(1, steps)

    @property
    def series(self) -> int:
        """How many series, or tasks of several, are forecast."""
        return len(self._requests) + (0 if self._joint is None else len(self._joint))

    def compare(self, child: Any) -> Comparison:
        """Compare a child with the parent on the series."""
        mine, theirs = self._losses(child), self._parent
        loss = float(_ratio(mine, theirs, self._parts))
        if self.confidence == 0.5:
            return Comparison(loss, loss)
        rng = np.random.default_rng([self.seed, _STREAM])
        resampled = _ratio(mine, theirs, [part.resampled(rng) for part in self._parts])
        return Comparison(loss, max(loss, float(np.quantile(resampled, self.confidence))))

    def _losses(self, pipeline: Any) -> np.ndarray:
        """Loss of every series, (series,): twice the summed quantile loss, or the scaled error of the median."""
        levels = np.array(DEFAULT_LEVELS)
        losses = np.empty(len(self._requests))
        for i, quantiles in self._quantiles(pipeline):
            case = self._requests[i].key
            error = case.truth[:, None] - quantiles[: len(case.truth)]
            if self.metric == "WQL":
                losses[i] = 2 * np.nansum(np.maximum(levels * error, (levels - 1) * error)) / len(levels)
            else:
                losses[i] = np.nanmean(np.abs(error[:, len(levels) // 2])) / case.scale
        return losses if self._joint is None else np.append(losses, self._joint.losses(pipeline, self.metric))

    def _quantiles(self, pipeline: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Number of a series, and quantiles (H, levels) of what follows it, in any order."""
        family = family_of(pipeline)
        if family.sample_paths is None:
            results = predict_requests(pipeline, self._requests, horizon=self.horizon, batch_size=128, seed=self.seed)
            yield from ((i, quantiles) for i, (_, quantiles, _) in enumerate(results))
            return
        order = sorted(range(len(self._requests)), key=lambda i: len(self._requests[i].history))
        for start in range(0, len(order), _TOLD):
            some = [self._requests[i] for i in order[start : start + _TOLD]]
            levels = [excess_level(one.history, family.input_step) for one in some]  # moved as forecasts move them
            truths = torch.full((len(some), max(len(one.key.truth) for one in some)), torch.nan)
            for row, one, level in zip(truths, some, levels, strict=True):
                row[: len(one.key.truth)] = torch.from_numpy(one.key.truth - level)
            contexts = [torch.from_numpy(one.history - level).float() for one, level in zip(some, levels, strict=True)]
            found = family.step_quantiles(contexts, truths, DEFAULT_LEVELS).numpy()
            yield from zip(order[start : start + _TOLD], found + np.array(levels)[:, None, None], strict=True)


def evenly(series: Iterable[Series], most: int = MOST) -> list[Series]:
    """The first series, reordered so that every prefix is spread evenly over them, since sources are often sorted.

    Examples
    --------
    >>> [one.item_id for one in evenly(Series(str(i), np.ones(4)) for i in range(10))][:5]
    ['0', '5', '2', '7', '4']
    """
    found = list(islice(series, most))
    return [found[i] for i in sorted(range(len(found)), key=lambda i: i * _GOLDEN % 1)]


def _alike(by: np.ndarray) -> list[np.ndarray]:
    """Indices of series, grouped by a number of each."""
    count = min(_GROUPS, max(1, len(by) // _GROUP))
    return np.array_split(np.argsort(by, kind="stable"), count)


def _ratio(mine: np.ndarray, theirs: np.ndarray, parts: list[_Part]) -> Any:
    """The largest over parts of a child's loss over its parent's, less 1.

    Of a part: the geometric mean over its groups of summed losses over the parent's, where a gain counts as 0.
    """
    tiny = np.finfo(float).tiny

    def log(group: np.ndarray) -> Any:
        return np.log((mine[group].sum(axis=-1) + tiny) / (theirs[group].sum(axis=-1) + tiny))

    logs = [np.mean([np.maximum(log(group), 0.0) for group in part.groups], axis=0) for part in parts]
    return np.expm1(np.max(logs, axis=0))


def _case(item_id: str, values: np.ndarray, context: int, horizon: int, season: int) -> Request[_Case] | None:
    pair = cut(values, context, horizon)
    if pair is None:
        return None
    past, future = (part.astype(np.float64) for part in pair)
    past = past[int((~np.isnan(past)).argmax()) :]
    scale = seasonal_error(past, season)
    return None if scale == 0 else Request(item_id, past, _Case(future, scale))


def _synthetic(context: int, horizon: int, seed: int) -> Iterator[Request[_Case]]:
    mixture, block = Mixture(), 0
    lengths = [length for length in LENGTHS if length <= context] or [context]
    while True:
        rng = np.random.default_rng([seed, _STREAM, block])
        length = lengths[block % len(lengths)]
        for row, one in enumerate(mixture.block(rng, rows=_BLOCK, length=length + horizon)[1]):
            request = _case(f"{block}-{row}", lifted(one, row), length, horizon, 1)
            if request is not None:
                yield request
        block += 1


def _own(series: Any, count: int, context: int, horizon: int, columns: dict[str, Any]) -> Iterator[Request[_Case]]:
    for one in evenly(read_series(series, **columns), max(MOST, count)):
        request = _case(one.item_id, one.target, context, horizon, season_length(one.freq))
        if request is not None:
            yield request
