"""Quantile functions of which a few levels are known: levels beyond them, and mixtures of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_NODES = 33  # levels of a path, and of what follows it, that stand for all of (0, 1)


def extended(values: Tensor, levels: Sequence[float], wanted: Sequence[float]) -> Tensor:
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
    Tensor
        Shape (…, wanted).

    Examples
    --------
    >>> known = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    >>> extended(known, [0.25, 0.5, 0.75], [0.5, 0.625, 0.99]).round(decimals=2).tolist()
    [0.0, 0.47, 3.45]
    """
    if len(levels) == 1:
        return values.expand(*values.shape[:-1], len(wanted))
    weights = _weights(tuple(map(float, levels)), tuple(map(float, wanted)))
    return values @ weights.to(values)


@lru_cache(maxsize=64)
def _weights(levels: tuple[float, ...], wanted: tuple[float, ...]) -> Tensor:
    """Weight of each known level (rows) in each wanted one (columns)."""
    known, asked = (torch.special.ndtri(torch.tensor(each, dtype=torch.float64)) for each in (levels, wanted))
    right = torch.searchsorted(known, asked).clamp(1, len(levels) - 1)
    share = (asked - known[right - 1]) / (known[right] - known[right - 1])
    weights = torch.zeros(len(levels), len(wanted), dtype=torch.float64)
    columns = torch.arange(len(wanted))
    weights[right - 1, columns] = 1 - share
    weights[right, columns] = share
    return weights


@lru_cache(maxsize=1)
def _nodes() -> tuple[float, ...]:
    """Levels that each stand for an equal part of (0, 1), with normal scores of variance 1."""
    scores = torch.special.ndtri((torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES)
    return tuple(torch.special.ndtr(scores / scores.square().mean().sqrt()).tolist())


def mixture(values: Tensor, levels: Sequence[float]) -> Tensor:
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
    Tensor
        Shape (batch, levels, time).

    Examples
    --------
    >>> z = torch.special.ndtri(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    >>> sums = 3 * z[:, None] + 4 * z[None, :]  # a path of spread 3, a continuation of spread 4: together 5
    >>> (mixture(sums[None, :, :, None], [0.1, 0.5, 0.9])[0, :, 0] / z)[::2].round(decimals=1).tolist()
    [5.0, 5.0]
    """
    nodes = _nodes()
    rows = max(1, 2**24 // (_NODES**2 * values.shape[-1]))
    parts = []
    for part in values.split(rows):
        spread = extended(part.transpose(2, 3), levels, nodes)  # (batch, paths, time, nodes)
        spread = extended(spread.permute(0, 2, 3, 1), levels, nodes)  # (batch, time, nodes, nodes)
        wanted = torch.tensor(levels, dtype=spread.dtype, device=spread.device)
        parts.append(spread.flatten(2).quantile(wanted, dim=2).permute(1, 0, 2))
    return torch.cat(parts)
