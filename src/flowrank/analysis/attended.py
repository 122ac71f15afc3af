"""What attention matrices are like: those over time, and those over the series of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ATTENTION_SERIES = 32
"""Series, or groups, at most whose attention matrices are decomposed; fewer where they are long."""

_WORK = 2**29  # cubed sizes of the matrices decomposed, about, in all


@dataclass
class Attended:
    """What the attention matrices of one layer are like.

    Attributes
    ----------
    sigma
        Sum over the series, or groups, of σ_j / σ_1 of each head, one entry a key, shape (h, longest), zeros after
        shorter ones.
    series
        How many went in.
    norm
        Upper bound on the spectral norm of each head's matrix, over all series that passed: √(largest row sum · largest
        column sum), shape (h,).
    """

    sigma: Tensor
    norm: Tensor
    series: int = 0

    @classmethod
    def nothing(cls, heads: int) -> Attended:
        """Before any series."""
        return cls(torch.zeros(heads, 1, dtype=torch.float64), torch.zeros(heads, dtype=torch.float64))

    def add(self, sigma: Tensor) -> None:
        """Add normalised singular values (h, n) of one series or group."""
        longest = max(sigma.shape[1], self.sigma.shape[1])
        self.sigma, sigma = (nn.functional.pad(one, (0, longest - one.shape[1])) for one in (self.sigma, sigma))
        self.sigma = self.sigma + sigma
        self.series += 1

    def look(self, weights: Tensor, queries: Tensor | None, keys: Tensor | None) -> None:
        """Take note of weights over time (B, h, L_q, L_k); masks (B, L) say which queries and keys count."""
        weights = self._bounded(weights, queries)
        wanted = max(2, min(ATTENTION_SERIES, _WORK // max(weights.shape[2:]) ** 3))
        for row in range(min(len(weights), wanted - self.series)):
            one = weights[row]
            if queries is not None:
                one = one[:, queries[row]]
            if keys is not None:
                one = one[:, :, keys[row]]
            sigma = _normalised(one)
            self.add(nn.functional.pad(sigma, (0, one.shape[2] - sigma.shape[1])))

    def look_at_groups(self, weights: Tensor, mask: Tensor | None, groups: Sequence[int]) -> None:
        """Take note of weights over the series of all groups at each place (L, h, series, series).

        Only series of one group meet: the blocks of groups of two and more are decomposed, at places where at least two
        of their series count.

        Parameters
        ----------
        weights
            Zero between series of different groups.
        mask
            Which tokens (series, L) count; None: all.
        groups
            How many series each group has, in their order.
        """
        weights = self._bounded(weights, None if mask is None else mask.T)
        start = 0
        for size in groups:
            mine = slice(start, start + size)
            start += size
            if size < 2 or self.series >= ATTENTION_SERIES:
                continue
            there = torch.ones(size, len(weights), dtype=torch.bool) if mask is None else mask[mine]
            sigma = _of_group(weights[:, :, mine, mine], there)
            if sigma is not None:
                self.add(sigma)

    def _bounded(self, weights: Tensor, queries: Tensor | None) -> Tensor:
        """Weights on the CPU, zero for queries (B, L_q) that do not count, once the bound on their norm is noted."""
        weights = weights.detach().float().cpu()
        if queries is not None:
            weights = weights * queries[:, None, :, None]
        columns, rows = weights.sum(dim=2).amax(dim=(0, 2)), weights.sum(dim=3).amax(dim=(0, 2))
        self.norm = torch.maximum(self.norm, (columns * rows).sqrt().double())
        return weights


def _of_group(weights: Tensor, there: Tensor) -> Tensor | None:
    """Mean over places of σ_j / σ_1 of one group's weights (L, h, n, n); ``there`` (n, L): which series count."""
    places = (there.sum(dim=0) >= 2).nonzero()[:, 0]
    most = max(2, _WORK // (ATTENTION_SERIES * len(there) ** 3))
    if len(places) > most:
        places = places[torch.linspace(0, len(places) - 1, most).long()]
    if not len(places):
        return None
    patterns, which = there[:, places].T.unique(dim=0, return_inverse=True)
    total = torch.zeros(weights.shape[1], len(there), dtype=torch.float64)
    for number, some in enumerate(patterns):
        sigma = _normalised(weights[places[which == number]][:, :, some][..., some]).sum(dim=0)
        total[:, : sigma.shape[1]] += sigma
    return total / len(places)


def _normalised(matrices: Tensor) -> Tensor:
    """σ_j / σ_1 of matrices (…, m, n), float64."""
    sigma = torch.linalg.svdvals(matrices)
    return (sigma / sigma[..., :1].clamp_min(torch.finfo(torch.float32).tiny)).double()
