"""Theorems 1 and 2: how fast the singular values of an embedding fall."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError, check_count
from flowrank.theory.inequality import Inequality, check_positive, spectral_norm


def theorem_1_smooth(embedded: Float[Tensor, "d N"], *, derivatives: int, variation: float) -> Inequality:
    r"""Singular values of a smooth embedding fall as a power: σ_{j+1}(Ξ) = O(j^{−ν} √(d N)).

    Evaluates, for every j > ν + 1,

        σ_{j+1}(Ξ) ≤ √(d N) · 2 V / (π ν (j − 1 − ν)^ν).

    The columns of Ξ are φ(x) for x in [−1, 1]; each coordinate of φ has ν − 1 absolutely continuous derivatives and a
    ν-th of variation at most V. Truncating the Chebyshev series of φ after degree j − 1 gives a matrix of rank j that
    errs by at most 2 V / (π ν (j − 1 − ν)^ν) in each entry (Trefethen, Approximation Theory and Approximation
    Practice, theorem 7.2). The paper states the order for patches of k values; the constant here is that of one value
    a token (k = 1). With k values the rank j buys the degree j^{1/k}.

    Parameters
    ----------
    embedded
        Ξ.
    derivatives, variation
        ν ≥ 1 and V > 0.

    Returns
    -------
    Inequality
        Entry i is j = ν + 2 + i.

    Raises
    ------
    FlowrankError
        If ``derivatives`` is no count or ``variation`` not positive.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    >>> xi = torch.stack([(x - c).abs() for c in torch.linspace(-0.5, 0.5, 16)])
    >>> theorem_1_smooth(xi, derivatives=1, variation=2.0).holds
    True
    """
    nu = check_count(derivatives, "derivatives")
    check_positive(variation=variation)
    sigma = torch.linalg.svdvals(embedded.double())
    j = torch.arange(nu + 2, max(nu + 2, len(sigma)), dtype=torch.float64)
    error = 2 * variation / (math.pi * nu * (j - 1 - nu) ** nu)
    return Inequality(sigma[nu + 2 :], math.sqrt(embedded.numel()) * error)


def theorem_1_analytic(embedded: Float[Tensor, "d N"], *, rho: float, maximum: float) -> Inequality:
    r"""Singular values of an analytic embedding fall geometrically: σ_{j+1}(Ξ) = O(ρ^{−j} √(d N)).

    Evaluates, for every j ≥ 1,

        σ_{j+1}(Ξ) ≤ √(d N) · 2 M ρ^{−(j − 1)} / (ρ − 1).

    The columns of Ξ are φ(x) for x in [−1, 1]; each coordinate of φ is analytic in the Bernstein ellipse of parameter
    ρ > 1 and bounded there by M. The Chebyshev series of φ, cut after degree j − 1, is a matrix of rank j that errs
    by at most 2 M ρ^{−(j − 1)} / (ρ − 1) in each entry (Trefethen, theorem 8.2). The paper leaves the constant open;
    this one is for one value a token (k = 1).

    Parameters
    ----------
    embedded
        Ξ.
    rho, maximum
        ρ > 1 and M > 0.

    Returns
    -------
    Inequality
        Entry i is j = i + 1.

    Raises
    ------
    FlowrankError
        If ``rho`` ≤ 1 or ``maximum`` is not positive.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 300, dtype=torch.float64)
    >>> xi = torch.stack([1 / (x - c) for c in torch.linspace(1.5, 3.0, 24)])  # poles at c: analytic up to ρ = 2.6
    >>> theorem_1_analytic(xi, rho=2.0, maximum=4.0).holds
    True
    """
    if not rho > 1:
        raise FlowrankError("rho", expected="a number > 1", found=rho)
    check_positive(maximum=maximum)
    sigma = torch.linalg.svdvals(embedded.double())
    j = torch.arange(1, len(sigma), dtype=torch.float64)
    return Inequality(sigma[1:], math.sqrt(embedded.numel()) * 2 * maximum * rho ** -(j - 1) / (rho - 1))


def theorem_2(
    x: Float[Tensor, "k L"],
    w1: Float[Tensor, "hidden k"],
    w2: Float[Tensor, "d hidden"],
    w3: Float[Tensor, "d k"],
    epsilon: float,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Inequality:
    r"""The rank of a residual MLP embedding goes with the patch size k, not with the width d.

    Evaluates, for Φ(X) = W₃ X + W₂ ω(W₁ X) with |ω(x)| ≤ |x|, the count

        #{ j : σ_j(Φ(X)) > ε ‖W₂‖ ‖W₁ X‖ } ≤ min{ d, (1 + ε⁻²) k }.

    W₃ X has rank k at most, so σ_{k+i}(Φ(X)) ≤ ‖W₂‖ σ_i(ω(W₁ X)) by Weyl's inequality: that is the role of W₃, and of
    the 1 in (1 + ε⁻²). The squared singular values of ω(W₁ X) add up to ‖W₁ X‖²_F ≤ k ‖W₁ X‖² at most, so fewer than
    k ε⁻² of them exceed ε² ‖W₁ X‖². The inequality is the paper's. Its left side is not rank_ε(Φ(X)), which compares
    with σ₁(Φ(X)): the two agree where σ₁(Φ(X)) = ‖W₂‖ ‖W₁ X‖, and rank_ε is bounded where it is larger.

    A bias inside ω is one more input that is always 1, and so is one outside: k + 1 then takes the place of k. The
    patches of Chronos-Bolt carry their mask too: k = 2 · 16 + 1.

    Parameters
    ----------
    x
        X, one column a patch.
    w1, w2, w3
        Weights.
    epsilon
        ε > 0.
    activation
        ω, elementwise, with |ω(x)| ≤ |x|.

    Returns
    -------
    Inequality
        One entry: the count, and min{d, (1 + ε⁻²) k}.

    Raises
    ------
    FlowrankError
        If ``epsilon`` is not positive, or the activation is larger than its input somewhere on this input.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, w1, w2, w3 = (torch.randn(*s, generator=g) for s in ((2, 500), (64, 2), (64, 64), (64, 2)))
    >>> result = theorem_2(x, w1, w2, w3, epsilon=0.3)
    >>> result.holds, float(result.bound)
    (True, 24.222222222222225)
    """
    check_positive(epsilon=epsilon)
    x, w1, w2, w3 = (matrix.double() for matrix in (x, w1, w2, w3))
    before = w1 @ x
    after = activation(before)
    if (after.abs() > before.abs() * (1 + 1e-12)).any():
        raise FlowrankError("activation", expected="|ω(x)| ≤ |x|", found="a larger value", todo="use e.g. torch.relu")
    sigma = torch.linalg.svdvals(w3 @ x + w2 @ after)
    threshold = epsilon * spectral_norm(w2) * spectral_norm(before)
    bound = min(w2.shape[0], (1 + epsilon**-2) * x.shape[0])
    return Inequality((sigma > threshold).sum().double()[None], torch.tensor([bound], dtype=torch.float64))
