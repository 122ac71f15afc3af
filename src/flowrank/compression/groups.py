"""Groups of components that compete to be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.anatomy import Layer


@dataclass(frozen=True)
class Group:
    """Components that compete: those of one head's QK or VO product, of one matrix, or the neurons of one layer.

    Attributes
    ----------
    site
        The layer.
    part
        "QK" or "VO" for joint factorisation, "neurons", or the name of one matrix.
    members
        The heads whose components they are, by index among those of the site; none for other layers.
    heads
        Heads whose widths add up to the group's rank.
    sigma
        Shape (n,), descending, in the method's own metric.
    value
        Shape (n,): what removing the component costs, in units of the model's loss, the same for all groups.
    cost
        Cost of a kept component in the budget's unit: parameters, by default.
    dense_cost
        Cost of the dense matrix, which is kept where factors would not be smaller; None if there is none.
    """

    site: Layer
    part: str
    members: tuple[int, ...]
    sigma: Float[Tensor, " n"]
    value: Float[Tensor, " n"]
    cost: float
    dense_cost: float | None = None
    heads: int = 1

    @property
    def size(self) -> int:
        """n, the number of components."""
        return int(self.sigma.numel())

    @property
    def capacity(self) -> int:
        """Smallest rank at which the whole group is kept."""
        if self.dense_cost is None or self.cost <= 0:
            return self.size
        return min(self.size, math.ceil(self.dense_cost / self.cost))

    def price(self, rank: int) -> float:
        """Cost at a rank, in the budget's unit."""
        if self.dense_cost is not None and rank >= self.capacity:
            return self.dense_cost
        return rank * self.cost


Kept = list[Tensor]
"""For every group the indices of its kept components, ascending."""


def marginal_losses(losses: Float[Tensor, " ranks"]) -> Float[Tensor, " n"]:
    """By how much each further component lowers the loss: slopes of the lower convex hull of the losses at ranks 0 … n.

    On the hull a greedy choice over all groups is optimal, and a component is never worth more than the one before.

    Examples
    --------
    >>> marginal_losses(torch.tensor([10.0, 9.0, 2.0, 0.0])).tolist()
    [4.0, 4.0, 2.0]
    """
    runs: list[tuple[float, int]] = []
    for saved in (losses[:-1] - losses[1:]).tolist():
        total, length = saved, 1
        while runs and runs[-1][0] / runs[-1][1] < total / length:
            before, more = runs.pop()
            total, length = total + before, length + more
        runs.append((total, length))
    slopes = [total / length for total, length in runs for _ in range(length)]
    return torch.tensor(slopes, dtype=torch.float64).clamp_min(0.0)
