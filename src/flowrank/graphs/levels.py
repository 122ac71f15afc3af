"""Quantiles at other levels than the known ones, and those of weighted samples, as chronos-forecasting defines them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROWS = 1 << 16  # at once


def interpolated(wanted: Sequence[float], levels: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Quantiles at any levels, linear between two known ones, and those of the outermost beyond.

    Parameters
    ----------
    wanted
        Levels from 0 to 1.
    levels
        The known ones, rising.
    values
        Their quantiles, shape (…, levels).

    Returns
    -------
    ndarray
        Shape (…, wanted), fp32.

    Examples
    --------
    >>> interpolated([0.05, 0.2, 0.5], [0.1, 0.5], np.array([1.0, 2.0])).tolist()
    [1.0, 1.25, 2.0]
    """
    known = np.asarray(levels, dtype=np.float32)
    values = np.asarray(values, dtype=np.float32)
    asked = np.asarray(wanted, dtype=np.float32)
    if known[0] > 0:
        known, values = np.append(np.float32(0), known), np.concatenate([values[..., :1], values], axis=-1)
    if known[-1] < 1:
        known, values = np.append(known, np.float32(1)), np.concatenate([values, values[..., -1:]], axis=-1)
    upper = np.minimum(np.searchsorted(known, asked, side="right"), len(known) - 1)
    share = (asked - known[upper - 1]) / (known[upper] - known[upper - 1])
    low, high = values[..., upper - 1], values[..., upper]
    return low + share * (high - low)


def masses(levels: Sequence[float]) -> np.ndarray:
    """The share of all probability that each of some quantiles stands for: half of what lies to its neighbours.

    Examples
    --------
    >>> masses([0.25, 0.75]).tolist()
    [0.5, 0.5]
    """
    bounds = np.concatenate([[0.0], levels, [1.0]]).astype(np.float32)
    found = (bounds[2:] - bounds[:-2]) / 2
    return found / found.sum()


def weighted(samples: np.ndarray, weights: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles of samples with weights.

    A sample's level is the weight of all that are no larger; between two samples, quantiles are linear.

    Parameters
    ----------
    samples
        Shape (…, samples).
    weights
        Shape (samples,), positive.
    levels
        Rising.

    Returns
    -------
    ndarray
        Shape (…, levels), fp32.
    """
    flat = samples.reshape(-1, samples.shape[-1])
    share = (weights / weights.sum()).astype(np.float32)
    asked = np.asarray(levels, dtype=np.float32)
    parts = [_weighted(flat[start : start + _ROWS], share, asked) for start in range(0, len(flat), _ROWS)]
    return np.concatenate(parts).reshape(*samples.shape[:-1], len(asked))


def _weighted(samples: np.ndarray, share: np.ndarray, asked: np.ndarray) -> np.ndarray:
    order = samples.argsort(axis=1, kind="stable")
    values = np.take_along_axis(samples, order, axis=1)
    known = share[order].cumsum(axis=1, dtype=np.float64).clip(0, 1).astype(np.float32)  # as torch adds up
    edges = np.zeros((len(known), 1), dtype=np.float32)
    known = np.concatenate([edges, known, edges + 1], axis=1)
    values = np.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    upper = np.stack([(known <= level).sum(axis=1) for level in asked], axis=1)
    upper = upper.clip(1, known.shape[1] - 1)
    low, high = (np.take_along_axis(values, one, axis=1) for one in (upper - 1, upper))
    below, above = (np.take_along_axis(known, one, axis=1) for one in (upper - 1, upper))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.nan_to_num((asked - below) / (above - below), nan=0.0)
    return low + part * (high - low)
