"""From a method and calibration series to groups of components, and from kept components to smaller layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from flowrank.capture import HeadBases, HeadMoments, head_moments, input_moments, rank_losses
from flowrank.compression.allocation import Budget, Group, Kept, marginal_losses
from flowrank.compression.methods import InputSVD, JointHeads, WeightSVD
from flowrank.errors import FlowrankError
from flowrank.families import AttentionSite, Family
from flowrank.linalg import balanced_basis, input_svd, levelled, moment_root
from flowrank.models import AttentionShape

Progress = Callable[[int], None]
Layer = tuple[AttentionShape, dict[str, Tensor]]
"""A site's new shape and its new tensors, named as in the module ("q.weight", "o.down.weight", …)."""


class Factorization(ABC):
    """All components of a model under one method, before any is dropped."""

    groups: list[Group]

    @abstractmethod
    def layers(self, kept: Kept) -> dict[str, Layer]:
        """New attention layers, by site name, that hold the kept components only."""

    def _by_site(self, kept: Kept) -> dict[str, list[tuple[Group, Tensor]]]:
        sites: dict[str, list[tuple[Group, Tensor]]] = {}
        for group, components in zip(self.groups, kept, strict=True):
            sites.setdefault(group.site.name, []).append((group, components))
        return sites


@singledispatch
def factorization_of(
    method: Any, family: Family, contexts: Sequence[Tensor], seed: int, on_batch: Progress | None
) -> Factorization:
    """Factorise every attention layer by a method; register further methods with ``factorization_of.register``.

    Raises
    ------
    FlowrankError
        If the method is of an unknown kind.
    """
    raise FlowrankError(
        "method",
        expected="WeightSVD, InputSVD or JointHeads",
        found=repr(method),
        todo="e.g. JointHeads(Budget(0.25))",
    )


class JointFactorization(Factorization):
    """Per-head components of W_Q W_Kᵀ and W_V W_O, in the balanced basis of each."""

    def __init__(
        self,
        family: Family,
        contexts: Sequence[Tensor],
        seed: int,
        on_batch: Progress | None,
        *,
        measured: bool,
        per_head: bool,
    ) -> None:
        moments = head_moments(family, contexts, seed=seed, on_batch=on_batch)
        self.heads = HeadComponents(family, moments)
        losses = rank_losses(family, contexts, self.heads.bases, seed=seed + 1, on_batch=on_batch) if measured else None
        self.groups = self.heads.groups(losses, per_head=per_head)

    def layers(self, kept: Kept) -> dict[str, Layer]:
        """New attention layers, by site name, that hold the kept components only."""
        return self.heads.layers(self.groups, kept)


class HeadComponents:
    """Components of every head of a model, in the balanced basis of each.

    Parameters
    ----------
    family
        View of the model.
    moments
        Of its heads, by site name.
    """

    def __init__(self, family: Family, moments: dict[str, HeadMoments]) -> None:
        self.sites = {site.name: site for site in family.sites}
        self.bases: dict[str, HeadBases] = {}
        self._spectra: dict[str, dict[str, Tensor]] = {}
        for name, site in self.sites.items():
            self.bases[name], self._spectra[name] = _head_bases(site, moments[name])

    def groups(
        self,
        losses: dict[str, dict[str, Tensor]] | None,
        *,
        per_head: bool = False,
        without: frozenset[tuple[str, int]] = frozenset(),
    ) -> list[Group]:
        """What competes: heads apart or the heads of a layer together, ``without`` some (site name, index)."""
        groups = []
        for name, site in self.sites.items():
            heads = [head for head in range(site.heads) if (name, head) not in without]
            for part in ("QK", "VO") if site.chooses else ("VO",):
                sigma = self._spectra[name][part]
                loss = None if losses is None else losses[name][part]
                if heads:
                    groups += (_apart if per_head else _pooled)(site, part, heads, sigma, loss)
        return groups

    @staticmethod
    def selected(groups: Sequence[Group], kept: Kept) -> dict[str, dict[tuple[str, int], Tensor]]:
        """Kept components of every head, by site name, then by part and head."""
        chosen: dict[str, dict[tuple[str, int], Tensor]] = {}
        for group, components in zip(groups, kept, strict=True):
            of_site = chosen.setdefault(group.site.name, {})
            for head in group.members:
                of_site[group.part, head] = components
        return chosen

    def layers(self, groups: Sequence[Group], kept: Kept) -> dict[str, Layer]:
        """New attention layers, by site name, that hold the kept components only."""
        chosen = self.selected(groups, kept)
        return {name: self._layer(site, chosen.get(name, {})) for name, site in self.sites.items()}

    def shape(self, site: AttentionSite, selected: dict[tuple[str, int], Tensor]) -> AttentionShape:
        """Widths of a layer that keeps the selected components."""
        queries, values = ([0] * site.module.n_heads for _ in range(2))
        for head, place in enumerate(site.alive):
            values[place] = len(selected.get(("VO", head), ()))
            queries[place] = len(selected.get(("QK", head), ())) if values[place] else 0
        return AttentionShape(tuple(queries), tuple(values), {})

    def _layer(self, site: AttentionSite, selected: dict[tuple[str, int], Tensor]) -> Layer:
        basis, none = self.bases[site.name], torch.arange(0)
        rows = {
            name: getattr(site.module, name).weight.detach().double().cpu().view(site.heads, width, site.d_model)
            for name, width in (("q", site.d_qk), ("k", site.d_qk), ("v", site.d_vo))
        }
        rows["o"] = site.module.o.weight.detach().double().cpu().T.reshape(site.heads, site.d_vo, -1)
        maps = {"q": basis.query, "k": basis.key, "v": basis.output, "o": basis.gradient}
        parts: dict[str, list[Tensor]] = {name: [] for name in rows}
        for head in range(site.heads):
            value_kept = selected.get(("VO", head), none)
            query_kept = selected.get(("QK", head), none) if len(value_kept) else none
            for one, other, components in (("q", "k", query_kept), ("v", "o", value_kept)):
                left, right = (maps[name][head][:, components].T @ rows[name][head] for name in (one, other))
                left, right = levelled(left.T, right)
                parts[one].append(left.T)
                parts[other].append(right)
        tensors = {f"{name}.weight": torch.cat(part) for name, part in parts.items()}
        tensors["o.weight"] = tensors["o.weight"].T
        return self.shape(site, selected), tensors


def _apart(site: AttentionSite, part: str, heads: list[int], sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group a head."""
    groups = []
    stands_for = site.module.n_heads if site.single_key else 1
    for head in heads:
        value = sigma[head].square() if losses is None else marginal_losses(losses[head])
        groups.append(Group(site, part, (head,), sigma[head], value, 2 * site.d_model, heads=stands_for))
    return groups


def _pooled(site: AttentionSite, part: str, heads: list[int], sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group for all heads: its component j is the j-th of every head."""
    sigma = sigma[heads]
    value = sigma.square().sum(dim=0) if losses is None else marginal_losses(losses[heads].sum(dim=0))
    pooled, stands_for = sigma.square().sum(dim=0).sqrt(), site.module.n_heads if site.single_key else 1
    return [Group(site, part, tuple(heads), pooled, value, 2 * site.d_model * len(heads), heads=stands_for)]


def _head_bases(site: AttentionSite, moments: HeadMoments) -> tuple[HeadBases, dict[str, Tensor]]:
    pairs = []
    for left, right in ((moments.queries, moments.keys), (moments.outputs, moments.gradients)):
        if not left.sum.numel():  # no query or key has a feature
            empty = left.sum
            pairs.append([empty, empty, empty.sum(dim=2)])
            continue
        scale = left.weight[:, None, None]
        heads = [balanced_basis(a, b) for a, b in zip(left.mean(), right.mean() * scale, strict=True)]
        pairs.append([torch.stack(parts) for parts in zip(*heads, strict=True)])
    (query, key, qk), (output, gradient, vo) = pairs
    return HeadBases(query, key, output, gradient), {"QK": qk, "VO": vo}


class MatrixFactorization(Factorization):
    """Components of each projection matrix by itself; two factors where that is smaller."""

    def __init__(
        self,
        family: Family,
        contexts: Sequence[Tensor],
        seed: int,
        on_batch: Progress | None,
        *,
        input_aware: bool,
        measured: bool,
    ) -> None:
        self.groups = []
        self.factors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._modules = {site.name: site.module for site in family.sites}
        moments = input_moments(family, contexts, seed=seed, on_batch=on_batch) if input_aware or measured else {}
        for site in family.sites:
            for name in ("q", "k", "v", "o"):
                weight = getattr(site.module, name).weight.detach().double().cpu().T
                metric, importance = None, 1.0
                if moments:
                    record = moments[site.name]
                    metric = record.inputs[name].mean()[0]
                    importance = record.sensitivity.get(name, 0.0) / (weight.shape[1] * max(1, len(contexts)))
                    if not input_aware:
                        importance *= float(metric.diagonal().mean())
                a, sigma, b = input_svd(weight, moment_root(metric) if input_aware and metric is not None else None)
                self.factors[site.name, name] = (a, b)
                self.groups.append(
                    Group(
                        site,
                        name,
                        (),
                        sigma,
                        sigma.square() * importance,
                        cost=sum(weight.shape),
                        dense_cost=weight.numel(),
                        heads=site.module.n_heads,
                    )
                )

    def layers(self, kept: Kept) -> dict[str, Layer]:
        """New attention layers, by site name, that hold the kept components only."""
        layers = {}
        for name, choices in self._by_site(kept).items():
            module = self._modules[name]
            ranks: dict[str, int] = {}
            tensors: dict[str, Tensor] = {}
            for group, components in choices:
                part = group.part
                if len(components) >= group.capacity:
                    tensors[f"{part}.weight"] = getattr(module, part).weight.detach()
                    continue
                a, b = self.factors[name, part]
                ranks[part] = len(components)
                left, right = levelled(a[:, components], b[components])
                tensors[f"{part}.down.weight"] = left.T
                tensors[f"{part}.up.weight"] = right.T
            dense = AttentionShape.dense(module.n_heads, module.key_value_proj_dim)
            layers[name] = (AttentionShape(dense.d_qk, dense.d_vo, ranks), tensors)
        return layers


@factorization_of.register
def _(method: JointHeads, family: Family, contexts: Any, seed: int, on_batch: Progress | None) -> Factorization:
    measured = isinstance(method.allocation, Budget)
    return JointFactorization(family, contexts, seed, on_batch, measured=measured, per_head=method.per_head)


@factorization_of.register
def _(method: InputSVD, family: Family, contexts: Any, seed: int, on_batch: Progress | None) -> Factorization:
    measured = isinstance(method.allocation, Budget)
    return MatrixFactorization(family, contexts, seed, on_batch, input_aware=True, measured=measured)


@factorization_of.register
def _(method: WeightSVD, family: Family, contexts: Any, seed: int, on_batch: Progress | None) -> Factorization:
    measured = isinstance(method.allocation, Budget)
    return MatrixFactorization(family, contexts, seed, on_batch, input_aware=False, measured=measured)
