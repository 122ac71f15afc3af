"""Factors of a matrix, and removal of its inputs, that are optimal for measured inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.linalg.moments import RIDGE, moment_root


def input_svd(
    weight: Float[Tensor, "inputs outputs"], root: Float[Tensor, "inputs inputs"] | None
) -> tuple[Float[Tensor, "inputs n"], Float[Tensor, " n"], Float[Tensor, "n outputs"]]:
    """Factors of W whose truncation after r columns minimises E‖x (W − W̃)‖² with E[x xᵀ] = L Lᵀ.

    Truncated SVD of Lᵀ W = U Σ Vᵀ gives W̃ = A_r B_r with A = L⁻ᵀ U Σ^{1/2} and B = Σ^{1/2} Vᵀ; the discarded
    energy is Σ_{j>r} σ_j². With ``root=None`` it is the plain SVD of W.

    Returns
    -------
    A, sigma, B
        float64, n = min(inputs, outputs), and A @ B = W.

    Examples
    --------
    >>> w = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> a, sigma, b = input_svd(w, None)
    >>> sigma.tolist(), bool(torch.allclose(a @ b, w.double()))
    ([3.0, 1.0], True)
    """
    weight = weight.double()
    left, sigma, right = torch.linalg.svd(weight if root is None else root.T @ weight, full_matrices=False)
    half = sigma.sqrt()
    a = left * half
    if root is not None:
        a = torch.linalg.solve_triangular(root.T, a, upper=True)
    return a, sigma, half[:, None] * right


def balanced_basis(
    left_gram: Float[Tensor, "n n"], right_gram: Float[Tensor, "n n"], ridge: float = RIDGE
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """Change of basis inside a bilinear form M = A Bᵀ after which truncation is optimal.

    With input metrics C_X = L_X L_Xᵀ and C_Y = L_Y L_Yᵀ the best rank-r replacement of M in E‖x M yᵀ‖² is the
    truncated SVD of L_Xᵀ A Bᵀ L_Y. Only the n × n Gram matrices Aᵀ C_X A = R₁ᵀ R₁ and Bᵀ C_Y B = R₂ᵀ R₂ are needed,
    which are the second moments of x A and of y B. With R₁ R₂ᵀ = U Σ Vᵀ the maps are S = R₂ᵀ V Σ^{-1/2} and
    T = R₁ᵀ U Σ^{-1/2}; S Tᵀ = I, so A S (B T)ᵀ = M, and dropping the columns j > r of both costs Σ_{j>r} σ_j².
    (In control theory: balanced truncation.)

    Parameters
    ----------
    left_gram, right_gram
        Shape (n, n), positive semi-definite.
    ridge
        Relative ridge on both, so that directions the calibration never saw keep an order.

    Returns
    -------
    S, T, sigma
        float64, sigma descending.

    Examples
    --------
    >>> s, t, sigma = balanced_basis(torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2), ridge=0.0)
    >>> sigma.tolist(), bool(torch.allclose(s @ t.T, torch.eye(2).double()))
    ([2.0, 1.0], True)
    """
    r1, r2 = moment_root(left_gram, ridge).T, moment_root(right_gram, ridge).T
    u, sigma, vt = torch.linalg.svd(r1 @ r2.T)
    inverse = sigma.clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    return r2.T @ vt.T * inverse, r1.T @ u * inverse, sigma


def balanced_scales(
    left: Float[Tensor, "m r"], right: Float[Tensor, "r n"]
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"]]:
    """Factors of the same product in which column j of the one and row j of the other have equal root mean squares.

    How a component's size is split between its factors changes no output, but what is done to the factors later: a
    step of an optimiser that moves all weights alike, rounding to few bits, a type of small range.

    Examples
    --------
    >>> a, b = balanced_scales(torch.tensor([[8.0], [0.0]]), torch.tensor([[2.0, 0.0]]))
    >>> (a @ b).tolist(), a.tolist(), b.tolist()
    ([[16.0, 0.0], [0.0, 0.0]], [[4.0], [0.0]], [[4.0, 0.0]])
    """
    mine, other = left.square().mean(dim=0).sqrt(), right.square().mean(dim=1).sqrt()
    scale = torch.where((mine > 0) & (other > 0), (other / mine).sqrt(), 1.0)
    return left * scale, right / scale[:, None]


def obs_order(
    gram: Float[Tensor, "n n"],
    readout: Float[Tensor, "n outputs"],
    *,
    fixed: int = 0,
    ridge: float = RIDGE,
) -> list[int]:
    """Order in which to remove inputs of y = a W, cheapest first, when the others reconstruct each by least squares.

    With H = E[a aᵀ], removing input j costs ‖w_j‖² / [H⁻¹]_jj, w_j being its row of W, and the best update of the other
    rows subtracts H⁻¹ e_j w_j / [H⁻¹]_jj (optimal brain surgeon, Hassibi and Stork 1993, for whole rows). From 1024
    inputs on several are removed between two updates.

    Parameters
    ----------
    gram
        H, positive semi-definite.
    readout
        W, in coordinates in which errors of y are to be small.
    fixed
        The last so many inputs stay.
    ridge
        Relative ridge on H.

    Returns
    -------
    list of int
        All inputs but the fixed ones.

    Examples
    --------
    >>> a = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.01], [0.0, 2.0, 0.0]], dtype=torch.float64)
    >>> obs_order(a.T @ a, torch.tensor([[1.0], [1.0], [1.0]]))  # the first and the last are nearly the same
    [0, 2, 1]
    """
    n = len(gram) - fixed
    root = moment_root(gram, ridge)
    inverse = torch.cholesky_inverse(root)
    rows = readout.double().clone()
    left = torch.arange(n)
    at_once = max(1, n // 512)
    order: list[int] = []
    while len(left):
        costs = rows[left].square().sum(dim=1) / inverse.diagonal()[left]
        gone = left[costs.argsort(stable=True)[:at_once]]
        order += gone.tolist()
        left = left[~torch.isin(left, gone)]
        correction = torch.linalg.solve(inverse[gone][:, gone], torch.cat([rows[gone], inverse[gone]], dim=1))
        update = inverse[:, gone] @ correction
        rows -= update[:, : rows.shape[1]]
        inverse -= update[:, rows.shape[1] :]
    return order


def refit(
    gram: Float[Tensor, "n n"], readout: Float[Tensor, "n outputs"], kept: Tensor, ridge: float = RIDGE
) -> Float[Tensor, "kept outputs"]:
    """Rows for the ``kept`` inputs S that minimise E‖a W − a_S W̃‖² with E[a aᵀ] = H: W̃ = W_S + H_SS⁻¹ H_SR W_R.

    The ridge on H_SS holds W̃ near W_S, so that directions without data do not change.

    Examples
    --------
    >>> gram = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # two equal inputs: either stands for both
    >>> refit(gram, torch.tensor([[2.0], [3.0]]), torch.tensor([0])).round(decimals=3).tolist()
    [[5.0]]
    """
    gram, readout = gram.double(), readout.double()
    gone = torch.ones(len(gram), dtype=torch.bool)
    gone[kept] = False
    scale = float(gram.diagonal().mean())
    if not len(kept) or not gone.any() or scale <= 0:
        return readout[kept]
    inner = gram[kept][:, kept] + ridge * scale * torch.eye(len(kept), dtype=torch.float64)
    root, info = torch.linalg.cholesky_ex(inner)
    if int(info):
        root = moment_root(inner)
    return readout[kept] + torch.cholesky_solve(gram[kept][:, gone] @ readout[gone], root)
