"""Rank maths: spectra, ε-rank, streaming second moments and input-aware truncation.

Pure functions: tensors in, tensors out, float64 inside. Nothing here knows what a model is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError

RIDGE = 1e-6
"""Relative ridge on a second moment: this times its mean diagonal is added to the diagonal."""


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


class SecondMoment:
    """Streaming E[x xᵀ] of row vectors: O(d²) memory however many rows pass through.

    Parameters
    ----------
    dim
        d, the length of a row.
    groups
        Independent moments kept side by side (one per attention head, say).

    Examples
    --------
    >>> moment = SecondMoment(2)
    >>> moment.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> moment.mean()[0].tolist()
    [[0.5, 0.0], [0.0, 2.0]]
    """

    def __init__(self, dim: int, groups: int = 1) -> None:
        self.sum = torch.zeros(groups, dim, dim, dtype=torch.float64)
        self.weight = torch.zeros(groups, dtype=torch.float64)

    def update(self, rows: Float[Tensor, "*rows dim"]) -> None:
        """Add rows, shape (..., d), each with weight 1, to every group's moment."""
        flat = rows.detach().reshape(-1, rows.shape[-1]).double()
        self.add(flat.T @ flat, torch.tensor(float(flat.shape[0])))

    def add(self, gram: Tensor, weight: Tensor) -> None:
        """Add a Gram matrix (groups, d, d) or (d, d) that stands for rows of the given total weight."""
        self.sum += gram.detach().to(device="cpu", dtype=torch.float64)
        self.weight += weight.detach().to(device="cpu", dtype=torch.float64)

    def mean(self) -> Float[Tensor, "groups dim dim"]:
        """E[x xᵀ] per group; zero where nothing was added."""
        safe = torch.where(self.weight > 0, self.weight, 1.0)
        return self.sum / safe[:, None, None]


class Moments:
    """Streaming count, Σ x and Σ x xᵀ of row vectors, of which only the blocks on and above the diagonal are kept.

    That is 9/16 of the memory and of the work of `SecondMoment`.

    Parameters
    ----------
    dim
        d, the length of a row.
    dtype
        Type of products and sums. In float32 singular values below about 3 · 10⁻⁴ of the largest are noise.

    Examples
    --------
    >>> moments = Moments(2)
    >>> moments.update(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    >>> moments.count, moments.total.tolist(), moments.gram().tolist()
    (2, [2.0, 2.0], [[2.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self, dim: int, dtype: torch.dtype = torch.float64) -> None:
        width = max(1, -(-dim // 8))
        self.count = 0
        self.total = torch.zeros(dim, dtype=torch.float64)
        self._starts = range(0, dim, width)
        self._width = width
        self.dtype = dtype
        self._blocks = [torch.zeros(min(width, dim - i), dim - i, dtype=dtype) for i in self._starts]

    def update(self, rows: Float[Tensor, "*rows dim"]) -> None:
        """Add rows, shape (..., d)."""
        flat = rows.detach().reshape(-1, rows.shape[-1]).to(device="cpu", dtype=self.dtype)
        self.count += len(flat)
        self.total += flat.sum(dim=0)
        for start, block in zip(self._starts, self._blocks, strict=True):
            block.addmm_(flat[:, start : start + self._width].T, flat[:, start:])

    def gram(self) -> Float[Tensor, "dim dim"]:
        """Σ x xᵀ, in the type of the sums."""
        dim = len(self.total)
        gram = torch.zeros(dim, dim, dtype=self.dtype)
        for start, block in zip(self._starts, self._blocks, strict=True):
            gram[start : start + self._width, start:] = block
        return gram.triu() + gram.triu(1).T

    def image(
        self, weight: Float[Tensor, "outputs dim"], bias: Float[Tensor, " outputs"] | None = None
    ) -> Float[Tensor, "outputs outputs"]:
        """Σ y yᵀ of y = W x + b, in the type of the sums."""
        weight = weight.to(self.dtype)
        gram = weight @ self.gram() @ weight.T
        if bias is None:
            return gram
        bias = bias.to(self.dtype)
        shift = torch.outer(weight @ self.total.to(self.dtype), bias)
        return gram + shift + shift.T + self.count * torch.outer(bias, bias)


def moment_root(moment: Float[Tensor, "n n"], ridge: float = RIDGE) -> Float[Tensor, "n n"]:
    """L with C + ridge·mean(diag C)·I = L Lᵀ, lower triangular, float64.

    A zero moment has no directions to prefer: its root is the identity.

    Raises
    ------
    FlowrankError
        If the moment is not finite.

    Examples
    --------
    >>> moment_root(torch.diag(torch.tensor([4.0, 9.0])), ridge=0.0).diagonal().tolist()
    [2.0, 3.0]
    """
    moment = moment.double()
    if not torch.isfinite(moment).all():
        raise FlowrankError(
            "moment",
            expected="finite second moments of the activations",
            found="NaN or infinite entries",
            todo="check the calibration series and the model's weights",
        )
    scale = moment.diagonal().mean()
    eye = torch.eye(moment.shape[0], dtype=torch.float64)
    if scale <= 0:
        return eye
    symmetric = (moment + moment.T) / 2
    root, info = torch.linalg.cholesky_ex(symmetric + ridge * scale * eye)
    if int(info) == 0:
        return root
    eigenvalues, vectors = torch.linalg.eigh(symmetric)
    least = max(ridge, 1e-12) * scale
    return torch.linalg.qr((vectors * eigenvalues.clamp_min(least).sqrt()).T).R.T


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
    """Order in which to remove inputs of y = a W, cheapest first, when those left make up for each by least squares.

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

    The ridge on H_SS holds W̃ near W_S, so that what was never seen stays as it is.

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
