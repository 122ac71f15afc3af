"""Neurons and matrices of a model other than attention's: their groups, and the weights of those that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flowrank.anatomy import Mlp, Vocabulary
from flowrank.compression.groups import Group, marginal_losses
from flowrank.compression.neurons import VOCABULARY, Factors, Linear, Neurons, rank_kept_whole
from flowrank.compression.plan import factors
from flowrank.family import Family
from flowrank.linalg import refit
from flowrank.measure import Tap, linear_tap
from flowrank.nn.shapes import MlpShape, Shapes

_EMBEDDING, _HEAD = "embedding", "head"


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
        """Taps of a second pass, which measures the loss without each neuron and each rank."""
        self.neurons = [Neurons(site, self.linears[site.name]) for site in self.sites]
        names = [site.name for site in self.sites if site.kind in self._kinds]
        names += [self.tokens.name] if self.tokens is not None else []
        self.cut = {(name, one): Factors(linear) for name in names for one, linear in self.linears[name].items()}
        taps = [linear_tap(one.out.module, one.observe) for one in self.neurons]
        return taps + [linear_tap(one.linear.module, one.observe) for one in self.cut.values()]

    def count(self, series: int) -> None:
        """End the second pass: make the groups."""
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
        size = rank_kept_whole(cost, dense, both[0].linear.rank or len(both[0].sigma))
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
        """Inner ranks of the matrices of a layer that become two factors, as these are smaller at the layer's width."""
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
        """Rows of the kept neurons, refitted to reconstruct the removed ones, and the bias, refitted likewise."""
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
