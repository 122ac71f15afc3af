"""Streaming second moments, and their roots."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.errors import FlowrankError

RIDGE = 1e-6
"""Relative ridge on a second moment: this times its mean diagonal is added to the diagonal."""


class SecondMoment:
    """Streaming E[x xᵀ] of row vectors: O(d²) memory however many rows pass through.

    Parameters
    ----------
    dim
        d, the length of a row.
    groups
        Number of independent moments, e.g. one per attention head.

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
