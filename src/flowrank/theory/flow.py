"""Theorem 4 and corollary 1, the flow-of-ranks: how much a layer can lift small singular values."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError, check_count
from flowrank.theory.inequality import check_positive


def theorem_4(
    sigma: Float[Tensor, " n"],
    *,
    heads: int,
    depth: int,
    value_norm: float = 1.0,
    attention_norm: float = math.e**2,
    kept: float = 0.5,
    source: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, " n"]:
    r"""How much one residual attention layer can lift small singular values: the flow-of-ranks.

    Returns, for Z = U + Y / √D with Y the sum of h heads W_V U A and σ_j = σ_j(U) / σ_1(U), the bound

        σ_k(Z) / σ_1(Z) ≤ (1 / q) · min_{1 ≤ j ≤ k} ( σ_{k−j+1} + (a v h / √D) σ_{⌊(j−1)/h⌋+1} ),

    v ≥ ‖W_V‖ and a ≥ ‖A‖ of every head, and q ≤ σ_1(Z) / σ_1(U). By Weyl's inequality σ_k(Z) ≤ σ_{k−j+1}(U) + σ_j(Y)
    / √D, and σ_j of a sum of h terms is at most the sum of their ⌊(j−1)/h⌋+1-th. The paper's constants are the
    defaults, under its assumptions on scale: ‖W_V‖ ≤ 1; scores in [−1, 1], so that no weight exceeds e² / L and ‖A‖ ≤
    e²; and q = ½, which holds where ‖Y‖ / √D ≤ ½ ‖U‖, for instance for √D ≥ 2 e² h. Pass measured constants for a
    given layer: they are far smaller.

    The theorem lets the heads read U itself. In a model they read N = norm(U), or the output of another stack; with
    its singular values as ``source`` the second term is (a v h / √D) σ_{⌊(j−1)/h⌋+1}(N) / σ_1(U), by the same steps.

    Parameters
    ----------
    sigma
        σ_1(U) ≥ σ_2(U) ≥ …, normalised or not.
    heads, depth
        h and D; D = 1 for a layer without the factor 1/√D.
    value_norm, attention_norm, kept
        v, a and q.
    source
        σ_1(N) ≥ σ_2(N) ≥ … on the scale of ``sigma``; None: the heads read U.

    Returns
    -------
    Tensor
        One bound for each k, at most 1.

    Raises
    ------
    FlowrankError
        If a number is out of range.

    Examples
    --------
    >>> sigma = 0.5 ** torch.arange(8.0)
    >>> theorem_4(sigma, heads=1, depth=10**6).round(decimals=3).tolist()
    [1.0, 1.0, 0.515, 0.265, 0.14, 0.077, 0.046, 0.03]
    """
    read = _normalised(sigma) if source is None else source.double() / sigma[0]
    sigma = _normalised(sigma)
    if len(read) < len(sigma):  # the rest are zeros
        read = torch.cat([read, read.new_zeros(len(sigma) - len(read))])
    lift = _lift(heads, depth, value_norm, attention_norm)
    check_positive(kept=kept)
    bounds = []
    for k in range(1, len(sigma) + 1):
        j = torch.arange(1, k + 1)
        bounds.append((sigma[k - j] + lift * read[(j - 1) // heads]).min())
    return (torch.stack(bounds) / kept).clamp_max(1.0)


def corollary_1(
    sigma: Float[Tensor, " n"],
    *,
    heads: int,
    depth: int,
    value_norm: float = 1.0,
    attention_norm: float = math.e**2,
    kept: float = 0.5,
) -> Float[Tensor, " n"]:
    r"""After one layer the k-th singular value is lifted to about the ⌊k/h⌋-th of the input.

    Returns (1 / q) (1 + a v h / √D) σ_m with m = ⌊(k − 1) / (h + 1)⌋ + 1: theorem 4 at j = h (m − 1) + 1, where both
    of its indices are m at least. The paper says "about ⌊k/h⌋"; the index that follows from theorem 4 has h + 1 in
    place of h.

    Parameters, errors
        As in `theorem_4`, whose bound is never larger.

    Examples
    --------
    >>> sigma = 0.5 ** torch.arange(6.0)
    >>> corollary_1(sigma, heads=1, depth=10**6).round(decimals=3).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.504, 0.504]
    """
    sigma = _normalised(sigma)
    lift = _lift(heads, depth, value_norm, attention_norm)
    check_positive(kept=kept)
    return ((1 + lift) / kept * sigma[torch.arange(len(sigma)) // (heads + 1)]).clamp_max(1.0)


def _normalised(sigma: Tensor) -> Tensor:
    sigma = sigma.double()
    if len(sigma) == 0 or not sigma[0] > 0:
        raise FlowrankError("sigma", expected="singular values, the first positive", found=sigma.tolist())
    return sigma / sigma[0]


def _lift(heads: int, depth: int, value_norm: float, attention_norm: float) -> float:
    """What the layer adds to a singular value at most: a v h / √D."""
    check_positive(value_norm=value_norm, attention_norm=attention_norm)
    return attention_norm * value_norm * check_count(heads, "heads") / math.sqrt(check_count(depth, "depth"))
