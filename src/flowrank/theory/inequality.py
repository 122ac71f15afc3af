"""Both sides of an inequality."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError


@dataclass(frozen=True)
class Inequality:
    """Both sides of actual ≤ bound, entry by entry.

    Attributes
    ----------
    actual, bound
        Shape (n,), float64.

    Examples
    --------
    >>> Inequality(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])).holds
    True
    """

    actual: Float[Tensor, " n"]
    bound: Float[Tensor, " n"]

    @property
    def holds(self) -> bool:
        """Whether no entry exceeds its bound by more than rounding."""
        slack = 1e-9 * self.bound.abs().clamp_min(1e-12) + 1e-12
        return bool((self.actual <= self.bound + slack).all())

    @property
    def looseness(self) -> Float[Tensor, " n"]:
        """Bound over actual; infinite where the actual side is 0."""
        return self.bound / self.actual


def spectral_norm(matrix: Tensor) -> Tensor:
    """Return ‖matrix‖, its largest singular value."""
    return torch.linalg.matrix_norm(matrix, 2)


def check_positive(**numbers: float) -> None:
    """Refuse a number that is not finite and above 0, by the name of its argument."""
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise FlowrankError(name, expected="a number > 0", found=number)
