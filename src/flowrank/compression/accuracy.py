"""How well a child forecasts compared with its parent, on a few series that it was not calibrated on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowrank.compression.children import pipeline_of
from flowrank.errors import AccuracyWarning
from flowrank.family import family_of
from flowrank.forecasting import DEFAULT_LEVELS, quantiles_of
from flowrank.synthetic.mixture import FAMILIES, SHORTEST

MOST_LOST = 0.05
"""Relative loss of WQL above which `Accuracy.warn` warns."""

KINDS = ("clean_season", "calendar", "exponential_smoothing", "structural")
"""Families of held-out series: weeks and other clean cycles, hours within weeks, trends, and everything at once."""

_EACH = 48  # series of a family
_OWN = 16  # of the user's series, at most
_LENGTHS = (64, 256)  # of histories, in turns
_HORIZON = 12
_TINY = np.finfo(float).tiny
_STREAM = 4  # of the generator: neither training, nor validation, nor calibration, nor a search draws from it


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a child relative to its parent.

    Attributes
    ----------
    series, own
        How many series were forecast, and how many of them are the user's.
    horizon
        H, steps ahead.
    wql_ratio
        WQL of the child over that of the parent, the geometric mean over kinds of series; None: a forecast of the
        child is not finite.
    crossing, parent_crossing
        Share of steps at which the child's, the parent's 0.1-quantile is above its 0.9-quantile.
    """

    series: int
    own: int
    horizon: int
    wql_ratio: float | None
    crossing: float
    parent_crossing: float

    @classmethod
    def measure(cls, parent: Any, child: Any, own: Sequence[Tensor] = ()) -> Accuracy:
        """Forecast the same series with both models.

        192 synthetic series of four kinds, always the same ones; and the ends of up to 16 of the user's, evenly from
        all of them, which weigh as much as all others. Models that draw paths are judged step by step, without chance
        (`flowrank.family.Family.step_quantiles`).

        Parameters
        ----------
        parent, child
            Pipelines.
        own
            Series of the user, 1-D.

        Examples
        --------
        >>> import flowrank
        >>> parent = flowrank.load("flow-bolt-mini")
        >>> found = Accuracy.measure(parent, parent)
        >>> found.series, found.wql_ratio
        (192, 1.0)
        """
        horizon = min(_HORIZON, int(parent.model_prediction_length))
        kinds = [_synthetic(kind, _EACH, int(parent.model_context_length), horizon) for kind in KINDS]
        weights = [1.0] * len(kinds)
        mine = list(islice(_usable(_case(one.numpy(), horizon) for one in _evenly(own)), _OWN))
        if mine:
            kinds.append(mine)
            weights.append(float(len(KINDS)))
        cases = [case for kind in kinds for case in kind]
        before, after = (_forecast(pipeline, cases, horizon) for pipeline in (pipeline_of(parent.inner_model), child))
        ends = np.cumsum([len(kind) for kind in kinds])[:-1]
        ratios = [
            (theirs.sum() + _TINY) / (ours.sum() + _TINY)
            for theirs, ours in zip(np.split(after.losses, ends), np.split(before.losses, ends), strict=True)
        ]
        ratio = float(np.exp(np.average(np.log(ratios), weights=weights)))
        return cls(
            series=len(cases),
            own=len(mine),
            horizon=horizon,
            wql_ratio=round(ratio, 4) if math.isfinite(ratio) else None,
            crossing=round(after.crossing, 4),
            parent_crossing=round(before.crossing, 4),
        )

    @property
    def lost(self) -> bool:
        """Whether the loss is large enough for a warning."""
        return self.wql_ratio is None or self.wql_ratio > 1 + MOST_LOST

    def record(self) -> dict[str, Any]:
        """For the recipe."""
        return asdict(self)

    def warn(self, stacklevel: int = 3) -> None:
        """Warn if more than 5 % is lost.

        Examples
        --------
        >>> Accuracy(192, 0, 12, 1.02, 0.0, 0.0).warn()
        """
        if not self.lost:
            return
        if self.wql_ratio is None:
            worse = f"forecasts of this child on {self.series} held-out series are not finite"
        else:
            worse = f"this child's WQL on {self.series} held-out series is {self.wql_ratio:.2f} times its parent's"
        if self.crossing > self.parent_crossing:
            worse += f", and at {self.crossing:.0%} of the steps its 0.1-quantile is above its 0.9-quantile"
        warnings.warn(
            f"{worse}; pass more calibration_series or a larger ratio, or train the child with flowrank.heal",
            AccuracyWarning,
            stacklevel=stacklevel,
        )


@dataclass(frozen=True)
class _Case:
    """A history (time,) and what followed (H,), in units of the history's mean magnitude; NaN = missing."""

    history: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class _Forecast:
    """Summed quantile loss of each series, and the share of steps at which the outermost quantiles cross."""

    losses: np.ndarray
    crossing: float


def _case(values: np.ndarray, horizon: int) -> _Case | None:
    """Cut off the last ``horizon`` values, at most a third; None where nothing can be forecast or scored."""
    ahead = min(horizon, len(values) // 3)
    history, future = values[: len(values) - ahead], values[len(values) - ahead :]
    observed = history[np.isfinite(history)]
    if len(observed) < 3 or np.ptp(observed) == 0 or not np.isfinite(future).any():
        return None
    scale = np.abs(observed).mean()
    truth = np.full(horizon, np.nan)
    truth[:ahead] = future / scale
    return _Case(history / scale, truth)


def _usable(cases: Iterable[_Case | None]) -> Iterator[_Case]:
    return (case for case in cases if case is not None)


def _evenly(own: Sequence[Tensor]) -> Sequence[Tensor]:
    return own[:: max(1, len(own) // _OWN)]


def _synthetic(kind: str, count: int, context: int, horizon: int) -> list[_Case]:
    """Series of one family, half of them short."""
    cases: list[_Case] = []
    for number, length in enumerate(_LENGTHS):
        whole = min(length, context) + horizon
        rng = np.random.default_rng([_STREAM, KINDS.index(kind), number])
        drawn = FAMILIES[kind](rng, count, max(whole, SHORTEST))[:, -whole:]
        cases += islice(_usable(_case(values, horizon) for values in drawn), count // len(_LENGTHS))
    return cases


def _forecast(pipeline: Any, cases: Sequence[_Case], horizon: int) -> _Forecast:
    family = family_of(pipeline)
    if family.sample_paths is None:
        batch = np.full((len(cases), max(len(case.history) for case in cases)), np.nan, dtype=np.float32)
        for row, case in zip(batch, cases, strict=True):
            row[len(row) - len(case.history) :] = case.history
        options: dict[str, Any] = {"prediction_length": horizon, "quantile_levels": list(DEFAULT_LEVELS)}
        quantiles, _ = quantiles_of(pipeline, torch.from_numpy(batch), **options)
    else:
        contexts = [torch.from_numpy(case.history).float() for case in cases]
        truths = torch.from_numpy(np.stack([case.truth for case in cases])).float()
        quantiles = family.step_quantiles(contexts, truths, DEFAULT_LEVELS)
    found, levels = quantiles.double().numpy(), np.array(DEFAULT_LEVELS)
    error = np.stack([case.truth for case in cases])[..., None] - found
    losses = np.maximum(levels * error, (levels - 1) * error)
    scored = np.isfinite(error[..., 0]) | ~np.isfinite(found).all(axis=-1)
    return _Forecast(
        np.where(scored[..., None], losses, 0.0).sum(axis=(1, 2)), float((found[..., 0] > found[..., -1]).mean())
    )
