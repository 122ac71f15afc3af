"""Spectra: ε-rank, effective rank, the edge of noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one matrix, in descending order.

    Attributes
    ----------
    sigma
        Shape (n,), float64, non-negative, descending.

    Examples
    --------
    >>> spectrum = Spectrum.of(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0])))
    >>> spectrum.epsilon_rank(0.3), round(spectrum.stable_rank, 4)
    (2, 1.3125)
    """

    sigma: Float[Tensor, " n"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "rows columns"]) -> Spectrum:
        """Spectrum of a matrix, by SVD in float64."""
        return cls(torch.linalg.svdvals(matrix.double()))

    @classmethod
    def of_gram(cls, gram: Float[Tensor, "n n"], dtype: torch.dtype = torch.float64) -> Spectrum:
        """Spectrum of A from its Gram matrix AᵀA.

        Singular values below about 1e-8 of the largest are noise; in float32, which is faster, below about 3e-4.
        """
        eigenvalues = torch.linalg.eigvalsh(gram.to(dtype)).flip(0)
        return cls(eigenvalues.clamp_min(0).sqrt().double())

    @property
    def normalised(self) -> Float[Tensor, " n"]:
        """σ_j / σ_1 (all zero for a zero matrix)."""
        largest = self.sigma[0] if self.sigma.numel() else self.sigma.new_zeros(())
        return self.sigma / largest if largest > 0 else torch.zeros_like(self.sigma)

    def epsilon_rank(self, epsilon: float) -> int:
        """rank_ε(A) = #{ j : σ_j(A) / σ_1(A) > ε }; 0 for a zero matrix.

        Raises
        ------
        FlowrankError
            If ``epsilon`` is not in [0, 1).
        """
        if not 0 <= epsilon < 1:
            raise FlowrankError("epsilon", expected="a number in [0, 1)", found=epsilon, todo="pass e.g. 0.01")
        return int((self.normalised > epsilon).sum())

    @property
    def effective_rank(self) -> float:
        """Exp of the entropy of σ / Σσ (Roy and Vetterli, 2007); 0 for a zero matrix."""
        total = self.sigma.sum()
        if total <= 0:
            return 0.0
        p = self.sigma / total
        return float(torch.special.entr(p).sum().exp())

    @property
    def stable_rank(self) -> float:
        """‖A‖²_F / ‖A‖²₂; 0 for a zero matrix."""
        if self.sigma.numel() == 0 or self.sigma[0] <= 0:
            return 0.0
        return float(self.sigma.square().sum() / self.sigma[0].square())


def epsilon_rank(matrix: Float[Tensor, "rows columns"], epsilon: float) -> int:
    """rank_ε of a matrix: the number of singular values above ε times the largest.

    Examples
    --------
    >>> epsilon_rank(torch.diag(torch.tensor([1.0, 0.5, 0.001])), 0.01)
    2
    """
    return Spectrum.of(matrix).epsilon_rank(epsilon)


@cache
def _marchenko_pastur_median(aspect: float) -> float:
    """Median of the Marchenko-Pastur distribution of the given aspect β ≤ 1, unit variance."""
    low, high = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    # x = middle + half · cos θ takes the square roots at both ends out of the integral.
    theta = torch.linspace(math.pi, 0, 20001, dtype=torch.float64)
    x = (low + high) / 2 + (high - low) / 2 * theta.cos()
    density = theta.sin().square() / x.clamp_min(1e-30)
    cumulative = torch.cumulative_trapezoid(density, -theta)
    cumulative = torch.cat([cumulative.new_zeros(1), cumulative])
    return float(x[int(torch.searchsorted(cumulative, cumulative[-1] / 2))])


def marchenko_pastur_edge(sigma: Float[Tensor, " n"], shape: tuple[int, int]) -> float:
    """Largest singular value of the noise in a matrix, estimated by its median: what is above is signal.

    For entries that are independent with spread s, the singular values of an m × n matrix end at s (√m + √n). The
    spread is taken from the median singular value, which a few large ones do not move (Gavish and Donoho, The optimal
    hard threshold for singular values is 4/√3, 2014). A matrix whose median is 0 has edge 0: all of its rank is signal.

    Parameters
    ----------
    sigma
        All min(m, n) singular values.
    shape
        (m, n).

    Examples
    --------
    >>> noise = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    >>> planted = noise + 8 * torch.outer(torch.ones(200), torch.ones(100))
    >>> sigma = torch.linalg.svdvals(planted)
    >>> int((sigma > 1.05 * marchenko_pastur_edge(sigma, (200, 100))).sum())
    1
    """
    long, short = max(shape), min(shape)
    spread = float(sigma.double().median()) / math.sqrt(long * _marchenko_pastur_median(short / long))
    return spread * (math.sqrt(long) + math.sqrt(short))
