"""Theorem 3: attention over low-rank input is compressible, and over high-rank input it is not."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError, check_count
from flowrank.theory.inequality import Inequality, spectral_norm


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
    how attention spreads L cannot go: if all tokens attend to the one that P_r cuts most, all err alike.

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
    bound = spectral_norm(w_v) * dropped * (1 + 2 * longest**2 * spectral_norm(w_q.T @ w_k))
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
