"""Hidden neurons, and ranks of matrices other than attention's: which to keep, what each is worth, and the new weights.

Neurons are removed from feed-forward layers and residual blocks in the order in which those left can make up for them
by least squares; matrices are cut in the metric of their inputs and of the probe's gradient at their outputs. What
either costs is measured on each series: the change of the weight, against the probe's gradient at the weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowrank.anatomy import Mlp, Vocabulary
from flowrank.compression.allocation import Group, marginal_losses
from flowrank.compression.plan import factors
from flowrank.family import Family
from flowrank.linalg import balanced_scales, moment_root, obs_order, refit
from flowrank.measure import LinearMoments, Tap, interpolated, linear_tap, rank_grid, with_constant
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear
from flowrank.nn.shapes import MlpShape, Shapes

BLOCK = 8
"""Neurons that come and go together in layers of at least 64: odd widths are slow to multiply."""

VOCABULARY = "vocabulary"
_EMBEDDING, _HEAD = "embedding", "head"


class Linear:
    """One linear layer or embedding: its matrix (m, n) and what it saw.

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
        """What it adds, if anything."""
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
        """Add what each width costs the series of a batch."""
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
        """What competes, after so many series."""
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
        self.sigma, self.size = sigma, _size(self.cost, self.dense_cost, min(linear.rank or len(sigma), len(sigma)))
        self.a, self.b = balanced_scales(a[:, : self.size], b[: self.size])
        self._losses = torch.zeros(self.size + 1, dtype=torch.float64)

    def observe(self, x: Tensor, gradient: Tensor) -> None:
        """Add what each rank costs the series of a batch."""
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


def _size(cost: int, dense: int | None, whole: int) -> int:
    """Rank from which on a matrix is kept whole."""
    return whole if dense is None else min(whole, -(-dense // cost))


class Remainder:
    """All neurons and factors of a model, before any is dropped.

    Parameters
    ----------
    family
        View of the model.
    ends, factors
        Whether matrices may become products of two: those of patch blocks and vocabulary, of feed-forward layers.
    """

    def __init__(self, family: Family, *, ends: bool, factors: bool) -> None:
        self._kinds = {kind for kind, wanted in (("block", ends), ("mlp", factors)) if wanted}
        self.sites = [site for site in family.mlps if site.width]
        self.tokens = family.vocabulary if ends else None
        self.linears = {
            site.name: {
                name: Linear(module, constant=name == site.writes and getattr(module, "bias", None) is not None)
                for name, module in site.linears.items()
            }
            for site in self.sites
        }
        if self.tokens is not None:
            both = {_EMBEDDING: self.tokens.embedding, _HEAD: self.tokens.head}
            self.linears[self.tokens.name] = {name: Linear(module) for name, module in both.items()}
        self.neurons: list[Neurons] = []
        self.cut: dict[tuple[str, str], Factors] = {}
        self.groups: list[Group] = []

    def _watched(self) -> Iterable[Linear]:
        for site in self.sites:
            for name, linear in self.linears[site.name].items():
                if site.kind in self._kinds or name == site.writes:
                    yield linear
        if self.tokens is not None:
            yield from self.linears[self.tokens.name].values()

    def moment_taps(self) -> list[Tap]:
        """Taps of a first pass, which records inputs and gradients."""
        return [linear_tap(linear.module, linear.moments.update) for linear in self._watched()]

    def loss_taps(self) -> list[Tap]:
        """Taps of a second pass, which measures what each neuron and each rank is worth."""
        self.neurons = [Neurons(site, self.linears[site.name]) for site in self.sites]
        names = [site.name for site in self.sites if site.kind in self._kinds]
        names += [self.tokens.name] if self.tokens is not None else []
        self.cut = {(name, one): Factors(linear) for name in names for one, linear in self.linears[name].items()}
        taps = [linear_tap(one.out.module, one.observe) for one in self.neurons]
        return taps + [linear_tap(one.linear.module, one.observe) for one in self.cut.values()]

    def count(self, series: int) -> None:
        """Close the second pass: what competes is known."""
        self.groups = [one.group(series) for one in self.neurons]
        sites: dict[str, Mlp | Vocabulary] = {site.name: site for site in self.sites}
        for (where, name), one in self.cut.items():
            if self.tokens is not None and where == self.tokens.name:
                continue
            value = marginal_losses(one.losses(series, one.size))
            self.groups.append(Group(sites[where], name, (), one.sigma[: one.size], value, one.cost, one.dense_cost))
        if self.tokens is not None:
            self.groups.append(self._tokens_group(series))

    def _tokens_group(self, series: int) -> Group:
        """The embedding and the head keep the same rank: they have one matrix, or two of one size."""
        assert self.tokens is not None
        both = [self.cut[self.tokens.name, name] for name in (_EMBEDDING, _HEAD)]
        cost = sum(one.cost for one in both)
        dense = None
        if both[0].dense_cost is not None and both[1].dense_cost is not None:
            dense = both[0].dense_cost if self.tokens.tied else both[0].dense_cost + both[1].dense_cost
        size = _size(cost, dense, both[0].linear.rank or len(both[0].sigma))
        value = marginal_losses(sum((one.losses(series, size) for one in both), torch.zeros(size + 1)))
        return Group(self.tokens, VOCABULARY, (), both[1].sigma[:size], value, cost, dense)

    def shapes(self, ranks: dict[tuple[str, str], int]) -> Shapes:
        """Sizes of the layers and ranks of the vocabulary, from how many components of each group are kept."""
        shapes = {}
        for one in self.neurons:
            site = one.site
            width = one.block * ranks[site.name, one.part]
            shapes[site.name] = MlpShape(width, self._cut(site, width, ranks))
        rank = None if self.tokens is None else self._rank(self.tokens.name, VOCABULARY, ranks)
        return Shapes(mlp=shapes, vocabulary={} if rank is None else {_EMBEDDING: rank, _HEAD: rank})

    def _cut(self, site: Mlp, width: int, ranks: dict[tuple[str, str], int]) -> dict[str, int]:
        """Inner ranks of the matrices of a layer that are products of two: those that are smaller so at its width."""
        cut = {}
        for name, linear in self.linears[site.name].items():
            rank = self._rank(site.name, name, ranks)
            m, n = linear.weight.shape
            m, n = (width if name == site.writes else m), (width if name in site.reads else n)
            if rank is not None and (linear.rank is not None or rank * (m + n) < m * n):
                cut[name] = rank
        return cut

    def _rank(self, where: str, name: str, ranks: dict[tuple[str, str], int]) -> int | None:
        """Inner rank of a matrix; None: it stays dense."""
        group = next((one for one in self.groups if (one.site.name, one.part) == (where, name)), None)
        if group is None:
            return self.linears[where][name].rank
        kept = ranks[where, name]
        if group.dense_cost is not None and kept >= group.capacity:
            return None
        return max(1, kept)

    def tensors(self, ranks: dict[tuple[str, str], int]) -> dict[str, dict[str, Tensor]]:
        """New tensors by linear layer or embedding, from how many components of each group are kept."""
        shapes = self.shapes(ranks)
        result: dict[str, dict[str, Tensor]] = {}
        for one in self.neurons:
            result |= self._layer(one, shapes.mlp[one.site.name])
        if shapes.vocabulary and self.tokens is not None:
            embedding, head = (self.cut[self.tokens.name, name] for name in (_EMBEDDING, _HEAD))
            rank = shapes.vocabulary[_HEAD]
            codes = {"codes.weight": embedding.a[:, :rank], "basis.weight": embedding.b[:rank].T}
            result[self.tokens.embeddings[0]] = codes
            result[self.tokens.name] = factors(head.a[:, :rank], head.b[:rank])
        return result

    def _layer(self, neurons: Neurons, shape: MlpShape) -> dict[str, dict[str, Tensor]]:
        site, tensors = neurons.site, dict[str, dict[str, Tensor]]()
        kept = neurons.kept(shape.width).sort().values
        for name, linear in self.linears[site.name].items():
            a, b = self._factors(site.name, name, shape)
            bias = None if linear.bias is None else linear.bias.detach().double().cpu()
            if name == site.writes:
                rows = a if bias is None or b is not None else torch.cat([a, bias[None]])
                a, bias = self._refitted(neurons, kept, rows, bias, alone=b is not None)
            elif name in site.reads:
                last = a if b is None else b
                last = last[:, kept]
                a, b = (last, None) if b is None else (a, last)
                bias = None if bias is None else bias[kept]
            parts = {"weight": a.T} if b is None else factors(a, b)
            if bias is not None:
                parts["bias" if b is None else "up.bias"] = bias
            tensors[f"{site.name}.{name}"] = parts
        return tensors

    def _refitted(
        self, neurons: Neurons, kept: Tensor, rows: Tensor, bias: Tensor | None, *, alone: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of the kept neurons that make up for the others; the bias takes its part where rows are the outputs."""
        gram = neurons.out.moments.inputs
        if alone or bias is None:
            inner = gram[: neurons.site.width, : neurons.site.width]
            return refit(inner, rows, kept), bias
        both = refit(gram, rows, torch.cat([kept, torch.tensor([neurons.site.width])]))
        return both[:-1], both[-1]

    def _factors(self, where: str, name: str, shape: MlpShape) -> tuple[Tensor, Tensor | None]:
        """The matrix (m, n) of a linear layer, or its two factors (m, r) and (r, n)."""
        linear, rank = self.linears[where][name], shape.ranks.get(name)
        if rank is None:
            return linear.weight, None
        if (where, name) in self.cut:
            one = self.cut[where, name]
            return one.a[:, :rank], one.b[:rank]
        module: Any = linear.module
        return module.down.weight.detach().double().cpu().T, module.up.weight.detach().double().cpu().T
