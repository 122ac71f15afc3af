"""Rotary positions: how many functions of the distance a head can use, and the price of planes that stop turning.

With plane p of a head as a complex number, the score of tokens Δ apart is Re Σ_p conj(q_p) e^{iθ_pΔ} k_p: a sum of
cos θ_pΔ and sin θ_pΔ. Over the few tokens of a time series many of these functions are nearly the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from flowrank.errors import FlowrankError, check_count
from flowrank.theory.inequality import Inequality


def lags_of(tokens: int) -> Float[Tensor, " lags"]:
    """Every distance between two of so many tokens: 1 − n, …, n − 1, in tokens.

    Raises
    ------
    FlowrankError
        If ``tokens`` is not a whole number above 0.

    Examples
    --------
    >>> lags_of(3).tolist()
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    """
    most = check_count(tokens, "tokens") - 1
    return torch.arange(-most, most + 1, dtype=torch.float64)


def position_spectrum(frequencies: Float[Tensor, " planes"], lags: Float[Tensor, " lags"]) -> Float[Tensor, " n"]:
    """Singular values of the functions of the distance that a head is made of.

    The matrix has a row a distance Δ and two columns a plane, cos θ_pΔ and sin θ_pΔ, as they are. If it is of rank r
    but for ε, the scores that any queries and keys can make out of these planes are sums of r functions of the
    distance, but for ε.

    Parameters
    ----------
    frequencies
        θ_p, radians a token.
    lags
        Δ, in tokens; `lags_of` gives all that occur among some tokens.

    Returns
    -------
    Tensor
        Singular values, falling, float64; min(2 · planes, lags) of them.

    Raises
    ------
    FlowrankError
        If there is no frequency or no lag.

    Examples
    --------
    >>> sigma = position_spectrum(torch.zeros(1), lags_of(2))  # nothing turns: the function 1, at three distances
    >>> [round(float(one), 6) for one in sigma]
    [1.732051, 0.0]
    """
    _some(frequencies=frequencies, lags=lags)
    angles = lags.double()[:, None] * frequencies.double()
    return torch.linalg.svdvals(torch.cat([angles.cos(), angles.sin()], dim=1))


def position_rank(frequencies: Float[Tensor, " planes"], lags: Float[Tensor, " lags"], epsilon: float) -> int:
    """How many singular values of `position_spectrum` are above ε times the largest.

    Raises
    ------
    FlowrankError
        If ε is not in [0, 1), or there is no frequency or no lag.

    Examples
    --------
    >>> frequencies = 1e4 ** (-torch.arange(32) / 32)  # a head of 64 features
    >>> [position_rank(frequencies, lags_of(tokens), 0.1) for tokens in (37, 101, 577)]
    [17, 24, 36]
    """
    if not 0 <= epsilon < 1:
        raise FlowrankError("epsilon", expected="a number in [0, 1)", found=epsilon, todo="pass e.g. 0.1")
    sigma = position_spectrum(frequencies, lags)
    return int((sigma > epsilon * sigma[0]).sum())


def slow_planes(
    query: Complex[Tensor, "n planes"],
    key: Complex[Tensor, "n planes"],
    frequencies: Float[Tensor, " planes"],
    lags: Float[Tensor, " n"],
) -> Inequality:
    r"""How much scores change where some planes no longer turn.

    Evaluates, for every pair of a query and a key Δ tokens apart,

        |Σ_p Re(conj(q_p) (e^{iθ_pΔ} − 1) k_p)| ≤ Σ_p |q_p| |k_p| min(2, θ_p |Δ|).

    |e^{iφ} − 1| = 2 |sin(φ / 2)|, which is neither above 2 nor above |φ|; the rest is the triangle inequality. Planes
    with θ_p |Δ| ≤ φ for all tokens in use thus change a score by φ Σ_p |q_p| |k_p| at most.

    Parameters
    ----------
    query, key
        q_p and k_p before they turn, one row a pair.
    frequencies
        θ_p of the planes that no longer turn, radians a token.
    lags
        Δ of each pair, in tokens.

    Returns
    -------
    Inequality
        One entry a pair.

    Raises
    ------
    FlowrankError
        If there is no frequency or no pair.

    Examples
    --------
    >>> q, k = torch.ones(1, 1, dtype=torch.complex64), torch.ones(1, 1, dtype=torch.complex64)
    >>> result = slow_planes(q, k, torch.tensor([0.1]), torch.tensor([3.0]))
    >>> round(float(result.actual), 4), round(float(result.bound), 4)
    (0.0447, 0.3)
    """
    _some(frequencies=frequencies, lags=lags)
    angles = lags.double()[:, None] * frequencies.double()
    turned = torch.polar(torch.ones_like(angles), angles)
    query, key = query.to(torch.complex128), key.to(torch.complex128)
    actual = (query.conj() * (turned - 1) * key).real.sum(dim=1).abs()
    return Inequality(actual, (query.abs() * key.abs() * angles.abs().clamp_max(2)).sum(dim=1))


def merged_planes(
    x: Float[Tensor, "d n"],
    y: Float[Tensor, "d n"],
    w_q: Float[Tensor, "features d"],
    w_k: Float[Tensor, "features d"],
    frequencies: Float[Tensor, " planes"],
    lags: Float[Tensor, " n"],
    rank: int,
) -> Inequality:
    r"""How much scores change where some planes become one block of rank u that does not turn.

    With q = W_Q x and k = W_K y the planes' coordinates, s(Δ) = Σ_p Re(conj(q_p) e^{iθ_pΔ} k_p) their part of the
    score, and M_u the best matrix of rank u in the place of M = W_Qᵀ W_K, evaluates for every pair

        |s(Δ) − xᵀ M_u y| ≤ Σ_p |q_p| |k_p| min(2, θ_p |Δ|) + σ_{u+1}(M) ‖x‖ ‖y‖.

    At Δ = 0 the score is xᵀ M y, so that the first term is that of `slow_planes` and the second is Eckart and Young's.
    Where inputs have covariances C_x and C_y, C_x^{1/2} W_Qᵀ W_K C_y^{1/2} in the place of M, with whitened x and y,
    gives the bound of an input-aware factorisation.

    Parameters
    ----------
    x, y
        What queries and keys are made of, one column a pair.
    w_q, w_k
        Rows of a head's projections that make the planes: first coordinates of all planes, then second ones.
    frequencies
        θ_p, radians a token.
    lags
        Δ of each pair, in tokens.
    rank
        u, in 1 … 2 · planes.

    Returns
    -------
    Inequality
        One entry a pair.

    Raises
    ------
    FlowrankError
        If ``rank`` is out of range, or the projections have not two rows a plane.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = (torch.randn(8, 50, generator=g) for _ in range(2))
    >>> w_q, w_k = (torch.randn(6, 8, generator=g) for _ in range(2))
    >>> merged_planes(x, y, w_q, w_k, torch.tensor([0.02, 0.01, 0.0]), torch.arange(50.0), rank=4).holds
    True
    """
    planes = len(frequencies)
    if len(w_q) != 2 * planes or len(w_k) != 2 * planes:
        found = f"{len(w_q)} rows of w_q, {len(w_k)} of w_k"
        raise FlowrankError("w_q, w_k", expected=f"two rows for each of {planes} planes", found=found)
    if check_count(rank, "rank") > 2 * planes:
        raise FlowrankError("rank", expected=f"at most {2 * planes}, two for each plane", found=rank)
    x, y, w_q, w_k = (one.double() for one in (x, y, w_q, w_k))
    query, key = (torch.complex(*(w @ z).chunk(2)).T for w, z in ((w_q, x), (w_k, y)))
    angles = lags.double()[:, None] * frequencies.double()
    turned = torch.polar(torch.ones_like(angles), angles)
    left, sigma, right = torch.linalg.svd(w_q.T @ w_k, full_matrices=False)
    merged = ((x.T @ left[:, :rank] * sigma[:rank]) * (right[:rank] @ y).T).sum(dim=1)
    actual = ((query.conj() * turned * key).real.sum(dim=1) - merged).abs()
    dropped = sigma[rank] if rank < len(sigma) else sigma.new_zeros(())
    bound = slow_planes(query, key, frequencies, lags).bound + dropped * x.norm(dim=0) * y.norm(dim=0)
    return Inequality(actual, bound)


def _some(**tensors: Tensor) -> None:
    for name, one in tensors.items():
        if not one.numel():
            raise FlowrankError(name, expected="at least one number", found="none")
