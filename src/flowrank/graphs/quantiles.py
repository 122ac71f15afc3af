"""Quantile functions of which a few levels are known: levels beyond them, and mixtures of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_NODES = 33  # levels of a path, and of what follows it, that stand for all of (0, 1)
_NUMBERS = 2**24  # of a mixture, at once
_NORMAL = NormalDist()


def extended(values: np.ndarray, levels: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """Quantiles at any levels, from those at a few.

    A quantile is linear in the normal score Φ⁻¹(level) between two known levels, and goes on so beyond the outermost
    two: the tail is that of the normal distribution which has these two quantiles.

    Parameters
    ----------
    values
        Quantiles, shape (…, levels), in rising order of ``levels``.
    levels
        At least one, rising, in (0, 1). Of one level alone, that quantile stands for all.
    wanted
        Levels in (0, 1).

    Returns
    -------
    ndarray
        Shape (…, wanted).

    Examples
    --------
    >>> extended(np.array([-1.0, 0.0, 1.0]), [0.25, 0.5, 0.75], [0.5, 0.625, 0.99]).round(2).tolist()
    [0.0, 0.47, 3.45]
    """
    if len(levels) == 1:
        return np.broadcast_to(values, (*values.shape[:-1], len(wanted)))
    found: np.ndarray = values @ _weights(tuple(map(float, levels)), tuple(map(float, wanted))).astype(values.dtype)
    return found


@lru_cache(maxsize=64)
def _weights(levels: tuple[float, ...], wanted: tuple[float, ...]) -> np.ndarray:
    """Weight of each known level (rows) in each wanted one (columns)."""
    known, asked = (np.array([_NORMAL.inv_cdf(one) for one in each]) for each in (levels, wanted))
    right = np.searchsorted(known, asked).clip(1, len(levels) - 1)
    share = (asked - known[right - 1]) / (known[right] - known[right - 1])
    weights = np.zeros((len(levels), len(wanted)))
    columns = np.arange(len(wanted))
    weights[right - 1, columns] = 1 - share
    weights[right, columns] = share
    return weights


@lru_cache(maxsize=1)
def _nodes() -> tuple[float, ...]:
    """Levels that each stand for an equal part of (0, 1), with normal scores of variance 1."""
    scores = np.array([_NORMAL.inv_cdf((place + 0.5) / _NODES) for place in range(_NODES)])
    return tuple(map(_NORMAL.cdf, scores / np.sqrt(np.mean(scores**2))))


def mixture(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles after an uncertain past, from the quantiles after each quantile of that past.

    Path and continuation each have all levels in (0, 1), not the known ones alone: both are extended to the same
    number of evenly spaced levels (`extended`), and the quantiles of all pairs are the mixture's. Pooling the known
    levels alone loses the tails of both: of a normal past and nine levels 0.1 … 0.9 a quarter of the spread.

    Parameters
    ----------
    values
        Shape (batch, paths, levels, time): quantiles at ``levels`` after each path, the paths at ``levels`` too.
    levels
        Rising, in (0, 1).

    Returns
    -------
    ndarray
        Shape (batch, levels, time).

    Examples
    --------
    >>> z = np.array([NormalDist().inv_cdf(level) for level in (0.1, 0.5, 0.9)])
    >>> sums = 3 * z[:, None] + 4 * z[None, :]  # a path of spread 3, a continuation of spread 4: together 5
    >>> (mixture(sums[None, :, :, None], [0.1, 0.5, 0.9])[0, :, 0] / z)[::2].round(1).tolist()
    [5.0, 5.0]
    """
    nodes = _nodes()
    rows = max(1, _NUMBERS // (_NODES**2 * values.shape[-1]))
    parts = []
    for start in range(0, len(values), rows):
        spread = extended(values[start : start + rows].swapaxes(2, 3), levels, nodes)  # (batch, paths, time, nodes)
        spread = extended(np.moveaxis(spread, 1, 3), levels, nodes)  # (batch, time, nodes, nodes)
        pooled = np.quantile(spread.reshape(*spread.shape[:2], -1), levels, axis=2)
        parts.append(np.moveaxis(pooled, 0, 1).astype(values.dtype))
    return np.concatenate(parts)
