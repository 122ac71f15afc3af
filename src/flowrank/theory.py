"""The theorems behind low-rank attention, as functions that evaluate each inequality on numbers.

Source: Yu et al., "Understanding Transformers for Time Series: Rank Structure, Flow-of-ranks, and Compressibility",
ICLR 2026, arXiv 2510.03358. The paper states some bounds up to a constant or under assumptions on scale; here every
constant is explicit, and each docstring says which inequality is evaluated, why it holds and where it differs from
the paper's.

Symbols: U (d × L) embedded sequence, one column a token; Ξ (d × N) the embeddings of all tokens; h heads; D depth;
σ_j singular values in falling order; ‖·‖ the spectral norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError, check_count


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
    _positive(variation=variation)
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
    _positive(maximum=maximum)
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
    _positive(epsilon=epsilon)
    x, w1, w2, w3 = (matrix.double() for matrix in (x, w1, w2, w3))
    before = w1 @ x
    after = activation(before)
    if (after.abs() > before.abs() * (1 + 1e-12)).any():
        raise FlowrankError("activation", expected="|ω(x)| ≤ |x|", found="a larger value", todo="use e.g. torch.relu")
    sigma = torch.linalg.svdvals(w3 @ x + w2 @ after)
    threshold = epsilon * _norm(w2) * _norm(before)
    bound = min(w2.shape[0], (1 + epsilon**-2) * x.shape[0])
    return Inequality((sigma > threshold).sum().double()[None], torch.tensor([bound], dtype=torch.float64))


def attention(
    u: Float[Tensor, "d L"],
    w_q: Float[Tensor, "dk d"],
    w_k: Float[Tensor, "dk d"],
    w_v: Float[Tensor, "dv d"],
) -> Float[Tensor, "dv L"]:
    """Attn(U; W) = W_V U A, column i of A the softmax of the scores uᵢᵀ W_Qᵀ W_K U.

    Any scale, such as 1/√d_kv, is taken to be part of W_Q.

    Examples
    --------
    >>> u = torch.eye(2)
    >>> attention(u, torch.zeros(1, 2), torch.zeros(1, 2), torch.eye(2)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    scores = (w_k @ u).T @ (w_q @ u)
    return w_v @ u @ scores.softmax(dim=0)


def projected_on_input(weights: tuple[Tensor, ...], xi: Float[Tensor, "d N"], rank: int) -> tuple[Tensor, ...]:
    """The rank-r weights of theorem 3: W̃ = W P_r, P_r the projection on the r leading left singular vectors of Ξ.

    It is the input that is projected, not the weights: truncating the SVD of W alone ignores what W will see.

    Raises
    ------
    FlowrankError
        If ``rank`` is not in 1 … d.

    Examples
    --------
    >>> xi = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1e-6]])
    >>> projected_on_input((torch.eye(2),), xi, 1)[0].round().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    if not 1 <= check_count(rank, "rank") <= xi.shape[0]:
        raise FlowrankError("rank", expected=f"at most {xi.shape[0]}, the width of Ξ", found=rank)
    leading = torch.linalg.svd(xi.double(), full_matrices=False).U[:, :rank]
    return tuple((weight.double() @ leading @ leading.T).to(weight.dtype) for weight in weights)


def theorem_3(
    u: Float[Tensor, "d L"],
    xi: Float[Tensor, "d N"],
    w_q: Float[Tensor, "dk d"],
    w_k: Float[Tensor, "dk d"],
    w_v: Float[Tensor, "dv d"],
    rank: int,
) -> Inequality:
    r"""Low-rank input makes attention compressible, by a bound that does not depend on U.

    Evaluates, for the construction W̃ = W P_r of `projected_on_input` and every token i,

        ‖yᵢ − ỹᵢ‖₂ ≤ ‖W_V‖ σ_{r+1}(Ξ) (1 + 2 ρ² ‖W_Qᵀ W_K‖),    ρ the largest norm of a column of Ξ.

    Every token u keeps all but σ_{r+1}(Ξ) of its length, so a score changes by 2 ρ ‖W_Qᵀ W_K‖ σ_{r+1}(Ξ) at most; a
    softmax moves by no more than its largest score does, in the 1-norm; and what it averages moves by σ_{r+1}(Ξ). The
    paper bounds ‖Attn(U; W) − Attn(U; W̃)‖_F by O(√d σ_{r+1}(Ξ)), for weights of bounded scale. Per token, the
    constant is the one above. Over L tokens the Frobenius norm is √L times it at most, and without an assumption on
    how attention spreads L cannot go: if all tokens look at the one that P_r cuts most, all err alike.

    Parameters
    ----------
    u
        U; each column is one of Ξ's.
    xi
        Ξ.
    w_q, w_k, w_v
        Weights of one head.
    rank
        r.

    Returns
    -------
    Inequality
        One entry a token.

    Raises
    ------
    FlowrankError
        If ``rank`` is not in 1 … d.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> xi = torch.randn(8, 2, generator=g) @ torch.randn(2, 50, generator=g) / 4
    >>> xi = xi + 1e-3 * torch.randn(8, 50, generator=g)
    >>> w_q, w_k, w_v = (torch.randn(4, 8, generator=g) / 4 for _ in range(3))
    >>> theorem_3(xi[:, :20], xi, w_q, w_k, w_v, rank=2).holds
    True
    """
    u, xi, w_q, w_k, w_v = (matrix.double() for matrix in (u, xi, w_q, w_k, w_v))
    difference = attention(u, w_q, w_k, w_v) - attention(u, *projected_on_input((w_q, w_k, w_v), xi, rank))
    sigma = torch.linalg.svdvals(xi)
    dropped = sigma[rank] if rank < len(sigma) else sigma.new_zeros(())
    longest = xi.norm(dim=0).max()
    bound = _norm(w_v) * dropped * (1 + 2 * longest**2 * _norm(w_q.T @ w_k))
    return Inequality(difference.norm(dim=0), bound.expand(u.shape[1]))


def theorem_3_hard_weights(
    xi: Float[Tensor, "d d"],
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    r"""Weights W_Q, W_K, W_V for which no rank-r replacement errs by less than ¼ σ_{r+1}(Ξ) on U = Ξ, for any r.

    With W_Qᵀ W_K = c (Ξ Ξᵀ)⁻¹ the scores are c I, so A = ((e^c − 1) I + 1 1ᵀ) / (e^c + d − 1), whose smallest
    singular value is (e^c − 1) / (e^c + d − 1): ¼ for e^c = (d + 3) / 3. With W_V = I the output is Ξ A. A rank-r
    W̃_V gives an output of rank r, whatever W̃_Q and W̃_K are, and that errs by σ_{r+1}(Ξ A) ≥ ¼ σ_{r+1}(Ξ) at least
    (Eckart and Young). So theorem 3 is tight up to its constant: high-rank input has weights that cannot be
    compressed.

    Raises
    ------
    FlowrankError
        If Ξ is not square and invertible.

    Examples
    --------
    >>> xi = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    >>> w_q, w_k, w_v = theorem_3_hard_weights(xi)
    >>> sigma = torch.linalg.svdvals(attention(xi.double(), w_q, w_k, w_v))
    >>> bool((sigma >= torch.tensor([3.0, 2.0, 1.0]) / 4 - 1e-12).all())
    True
    """
    width = xi.shape[0]
    sigma = torch.linalg.svdvals(xi.double())
    if xi.shape[1] != width or sigma[-1] <= 1e-12 * sigma[0]:
        raise FlowrankError("xi", expected="a square matrix of full rank", found=f"shape {tuple(xi.shape)}")
    scale = math.log((width + 3) / 3)
    inverse = torch.linalg.inv(xi.double())
    return scale * inverse, inverse, torch.eye(width, dtype=torch.float64)


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
    _positive(kept=kept)
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
    _positive(kept=kept)
    return ((1 + lift) / kept * sigma[torch.arange(len(sigma)) // (heads + 1)]).clamp_max(1.0)


def _normalised(sigma: Tensor) -> Tensor:
    sigma = sigma.double()
    if len(sigma) == 0 or not sigma[0] > 0:
        raise FlowrankError("sigma", expected="singular values, the first positive", found=sigma.tolist())
    return sigma / sigma[0]


def _lift(heads: int, depth: int, value_norm: float, attention_norm: float) -> float:
    """What the layer adds to a singular value at most: a v h / √D."""
    _positive(value_norm=value_norm, attention_norm=attention_norm)
    return attention_norm * value_norm * check_count(heads, "heads") / math.sqrt(check_count(depth, "depth"))


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix, 2)


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise FlowrankError(name, expected="a number > 0", found=number)
