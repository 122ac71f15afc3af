"""Hidden neurons and ranks of matrices other than attention's: their order, the loss without each, and the new weights.

Neurons are removed from feed-forward layers and residual blocks in the order in which the remaining ones can
reconstruct them by least squares; matrices are truncated in the metric of their inputs and of the probe's gradient at
their outputs. The loss of either is measured on each series: the change of the weight times the probe's gradient at
the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowrank.anatomy import Mlp
from flowrank.compression.groups import Group, marginal_losses
from flowrank.linalg import balanced_scales, moment_root, obs_order, refit
from flowrank.measure import LinearMoments, interpolated, rank_grid, with_constant
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear

BLOCK = 8
"""Neurons that come and go together in layers of at least 64: odd widths are slow to multiply."""

VOCABULARY = "vocabulary"


class Linear:
    """One linear layer or embedding: its matrix (m, n) and second moments of its inputs and gradients.

    Parameters
    ----------
    module
        Dense, or of two factors.
    constant
        See `LinearMoments`.
    """

    def __init__(self, module: nn.Module, *, constant: bool = False) -> None:
        self.module = module
        self.one_hot = isinstance(module, nn.Embedding | FactoredEmbedding)
        self.weight = matrix_of(module)
        self.rank = module.rank if isinstance(module, FactoredLinear | FactoredEmbedding) else None
        self.moments = LinearMoments(*self.weight.shape, constant=constant, one_hot=self.one_hot)

    @property
    def bias(self) -> Tensor | None:
        """The bias, if there is one."""
        layer = self.module.up if isinstance(self.module, FactoredLinear) else self.module
        return getattr(layer, "bias", None)

    @property
    def reads(self) -> int:
        """Parameters of one output."""
        return (self.weight.shape[0] if self.rank is None else self.rank) + (self.bias is not None)

    @property
    def writes(self) -> int:
        """Parameters of one input."""
        return self.weight.shape[1] if self.rank is None else self.rank

    def gradients(self, x: Tensor, gradient: Tensor) -> Float[Tensor, "batch m n"]:
        """The probe's gradient at the matrix, series by series."""
        if not self.one_hot:
            return (with_constant(x) if self.moments.constant else x).transpose(1, 2) @ gradient
        result = gradient.new_zeros(len(x), *self.weight.shape)
        for row, ids, one in zip(result, x, gradient, strict=True):
            row.index_add_(0, ids, one)
        return result


def matrix_of(module: Any) -> Float[Tensor, "inputs outputs"]:
    """The matrix that rows are multiplied by, float64."""
    if isinstance(module, FactoredLinear):
        return (module.up.weight.double() @ module.down.weight.double()).T.detach().cpu()
    if isinstance(module, FactoredEmbedding):
        return (module.codes.weight.double() @ module.basis.weight.double().T).detach().cpu()
    weight = module.weight.detach().double().cpu()
    return weight if isinstance(module, nn.Embedding) else weight.T


class Neurons:
    """Hidden neurons of one layer, the most useful first.

    Parameters
    ----------
    site
        The layer.
    linears
        Its linear layers, after the calibration pass.
    """

    part = "neurons"

    def __init__(self, site: Mlp, linears: dict[str, Linear]) -> None:
        self.site, self.linears = site, linears
        self.out = linears[site.writes]
        self.block = BLOCK if site.width >= 8 * BLOCK and site.width % BLOCK == 0 else 1
        moments = self.out.moments
        rows = self.out.weight
        if moments.constant:
            bias = self.out.bias
            assert bias is not None
            rows = torch.cat([rows, bias.detach().double().cpu()[None]])
        self._readout = rows
        order = obs_order(moments.inputs, rows @ moment_root(moments.gradients), fixed=int(moments.constant))
        self.order = torch.tensor(order[::-1], dtype=torch.long)
        self._grid = [self.block * blocks for blocks in rank_grid(site.width // self.block)]
        self._refits = [self.refit(width) for width in self._grid]
        self._losses = torch.zeros(1, site.width // self.block + 1, dtype=torch.float64)

    def kept(self, width: int) -> Tensor:
        """Indices of the neurons of a width, the most useful first."""
        return self.order[:width]

    def refit(self, width: int) -> Tensor:
        """New rows of the readout of the kept neurons, the constant's last."""
        return refit(self.out.moments.inputs, self._readout, self._with_constant(self.kept(width)))

    def _with_constant(self, neurons: Tensor) -> Tensor:
        last = range(self.site.width, self.site.width + int(self.out.moments.constant))
        return torch.cat([neurons, torch.tensor(last, dtype=torch.long)])

    def observe(self, x: Tensor, gradient: Tensor) -> None:
        """Add the loss at each width, on the series of a batch."""
        order = self._with_constant(self.order).to(x.device)
        at_weight = self.out.gradients(x, gradient.detach())[:, order].flatten(1)
        whole = at_weight @ self._readout[order.cpu()].flatten().to(at_weight)
        neurons, outputs = self.site.width, self._readout.shape[1]
        for width, rows in zip(self._grid, self._refits, strict=True):
            of_neurons, of_constant = rows[:width].flatten(), rows[width:].flatten()
            effect = at_weight[:, : width * outputs] @ of_neurons.to(at_weight) - whole
            effect += at_weight[:, neurons * outputs :] @ of_constant.to(at_weight)
            self._losses[0, width // self.block] += effect.square().sum().double().cpu()

    def group(self, count: int) -> Group:
        """The group of neurons that compete, after so many series."""
        blocks = self.site.width // self.block
        losses = interpolated(self._losses / max(1, count), rank_grid(blocks))[0]
        value = marginal_losses(losses)
        each = self.out.writes + sum(self.linears[name].reads for name in self.site.reads)
        return Group(self.site, self.part, (), value.sqrt(), value, self.block * each)


class Factors:
    """One matrix as a sum of rank-one components, in the metric of its inputs and of the probe's gradient.

    Parameters
    ----------
    linear
        The matrix, after the calibration pass.
    """

    def __init__(self, linear: Linear) -> None:
        self.linear = linear
        moments, inputs = linear.moments, len(linear.weight)
        if linear.one_hot:
            weights = moments.inputs + 1e-6 * moments.inputs.mean().clamp_min(1e-30)
            left: Tensor = weights.sqrt()
            core = left[:, None] * linear.weight
        else:
            left = moment_root(moments.inputs[:inputs, :inputs])
            core = left.T @ linear.weight
        right = moment_root(moments.gradients)
        u, sigma, v = torch.linalg.svd(core @ right, full_matrices=False)
        half = sigma.sqrt()
        a = u * half / left[:, None] if linear.one_hot else torch.linalg.solve_triangular(left.T, u * half, upper=True)
        b = torch.linalg.solve_triangular(right, half[:, None] * v, upper=False, left=False)
        self.sigma, self.size = (
            sigma,
            rank_kept_whole(self.cost, self.dense_cost, min(linear.rank or len(sigma), len(sigma))),
        )
        self.a, self.b = balanced_scales(a[:, : self.size], b[: self.size])
        self._losses = torch.zeros(self.size + 1, dtype=torch.float64)

    def observe(self, x: Tensor, gradient: Tensor) -> None:
        """Add the loss at each rank, on the series of a batch."""
        at_weight = self.linear.gradients(x, gradient.detach())[:, : len(self.linear.weight)]
        a, b = (one.to(at_weight) for one in (self.a, self.b))
        parts = ((at_weight @ b.T) * a).sum(dim=1)
        whole = at_weight.flatten(1) @ self.linear.weight.flatten().to(at_weight)
        heads = torch.cat([torch.zeros_like(parts[:, :1]), parts.cumsum(dim=1)], dim=1)
        self._losses += (heads - whole[:, None]).square().sum(dim=0).double().cpu()

    def losses(self, count: int, size: int) -> Float[Tensor, " ranks"]:
        """Loss at ranks 0 … size, of which the last is the whole matrix."""
        return torch.cat([self._losses[:size] / max(1, count), self._losses.new_zeros(1)])

    @property
    def cost(self) -> int:
        """Parameters of a component."""
        return sum(self.linear.weight.shape)

    @property
    def dense_cost(self) -> int | None:
        """Parameters of the matrix that needs no factors; None if there is none any more."""
        return self.linear.weight.numel() if self.linear.rank is None else None


def rank_kept_whole(cost: int, dense: int | None, whole: int) -> int:
    """Rank from which on a matrix is kept whole."""
    return whole if dense is None else min(whole, -(-dense // cost))
