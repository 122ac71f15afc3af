"""Factorises attention layers by a method: groups of components, and smaller layers from those that are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.compression.groups import Group, Kept, marginal_losses
from flowrank.compression.methods import InputSVD, JointHeads, WeightSVD
from flowrank.compression.plan import Plan, factors
from flowrank.compression.rules import Budget
from flowrank.compression.turned import turned_tensors, turning_group, widths_of
from flowrank.errors import FlowrankError
from flowrank.family import Context, Family, shape_of
from flowrank.linalg import balanced_basis, balanced_scales, input_svd, moment_root
from flowrank.measure import HeadBases, HeadMoments, Turning, head_moments, input_moments, rank_losses
from flowrank.nn.shapes import AttentionShape, Shapes

Progress = Callable[[int], None]


class Factorization(ABC):
    """All components of a model under one method, before any is dropped."""

    groups: list[Group]
    fixed: int = 0  # parameters of attention that the method leaves as they are

    @abstractmethod
    def plan(self, kept: Kept) -> Plan:
        """The model whose attention layers hold the kept components only."""

    def _by_site(self, kept: Kept) -> dict[str, list[tuple[Group, Tensor]]]:
        sites: dict[str, list[tuple[Group, Tensor]]] = {}
        for group, components in zip(self.groups, kept, strict=True):
            sites.setdefault(group.site.name, []).append((group, components))
        return sites


@singledispatch
def factorization_of(
    method: Any, family: Family, contexts: Sequence[Context], seed: int, on_batch: Progress | None
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
        contexts: Sequence[Context],
        seed: int,
        on_batch: Progress | None,
        *,
        measured: bool,
        per_head: bool,
    ) -> None:
        moments = head_moments(family, contexts, seed=seed, on_batch=on_batch)
        self.heads = HeadComponents(family, moments)
        losses = None
        if measured:
            bases, turning = self.heads.bases, self.heads.turning
            losses = rank_losses(family, contexts, bases, turning=turning, seed=seed + 1, on_batch=on_batch)
        self.groups = self.heads.groups(losses, per_head=per_head)
        whole = [site for site in family.sites if site.chooses and not site.joint and not site.turns]
        self.fixed = sum(2 * site.d_model * site.heads * site.d_qk for site in whole)

    def plan(self, kept: Kept) -> Plan:
        """The model whose attention layers hold the kept components only."""
        return self.heads.plan(self.groups, kept)


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
        self.turning: dict[str, Turning] = {}
        self._spectra: dict[str, dict[str, Tensor]] = {}
        for name, site in self.sites.items():
            turning = moments[name].turning
            if turning is not None:
                self.turning[name] = Turning(turning, moments[name].queries.mean(), moments[name].keys.mean())
            self.bases[name], self._spectra[name] = _head_bases(site, moments[name])

    def groups(
        self,
        losses: dict[str, dict[str, Tensor]] | None,
        *,
        per_head: bool = False,
        without: frozenset[tuple[str, int]] = frozenset(),
    ) -> list[Group]:
        """Groups of components, of each head or of all heads of a layer, ``without`` some heads (site name, index)."""
        groups = []
        for name, site in self.sites.items():
            heads = [head for head in range(site.heads) if (name, head) not in without]
            if name in self.turning and heads:
                groups.append(turning_group(self.turning[name], heads, None if losses is None else losses[name]["QK"]))
            for part in ("QK", "VO") if site.joint else ("VO",):
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

    def plan(self, groups: Sequence[Group], kept: Kept) -> Plan:
        """The model whose attention layers hold the kept components only."""
        chosen = self.selected(groups, kept)
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, site in self.sites.items():
            tensors |= self._tensors(site, chosen.get(name, {}))
        return Plan(self.shapes(groups, kept), tensors)

    def shapes(self, groups: Sequence[Group], kept: Kept) -> Shapes:
        """Widths of the layers that keep these components."""
        chosen = self.selected(groups, kept)
        return Shapes({name: self._shape(site, chosen.get(name, {})) for name, site in self.sites.items()})

    def _shape(self, site: Attention, selected: dict[tuple[str, int], Tensor]) -> AttentionShape:
        queries, values = ([0] * site.all_heads for _ in range(2))
        planes: list[tuple[int, ...]] = [()] * site.all_heads
        turning, ranks = self.turning.get(site.name), dict[str, int]()
        merged = site.merged and len(selected.get(("VO", 0), ())) == site.d_vo
        for head, place in enumerate(site.active[: site.heads]):
            values[place] = len(selected.get(("VO", head), ()))
            if turning is not None and values[place]:
                choice = turning.at(len(selected.get(("QK", head), ())))
                queries[place], some, ranks = widths_of(turning, choice)
                planes[place] = some[head] if some else tuple(range(turning.planes))
            elif values[place]:
                queries[place] = len(self._query_components(site, selected, head))
        whole = tuple(range(site.d_kv // 2))
        turned = () if turning is None or (all(one in ((), whole) for one in planes) and whole in planes) else planes
        return AttentionShape(tuple(queries), tuple(values), ranks, tuple(turned), merged)

    @staticmethod
    def _query_components(site: Attention, selected: dict[tuple[str, int], Tensor], head: int) -> Tensor:
        """Kept components of a head's queries and keys: all, where its positions do not let them be changed."""
        whole = torch.arange(0 if site.joint or site.single_key else site.d_qk)
        return selected.get(("QK", head), whole)

    def _tensors(self, site: Attention, selected: dict[tuple[str, int], Tensor]) -> dict[str, dict[str, Tensor]]:
        basis, none = self.bases[site.name], torch.arange(0)
        widths = {"q": site.d_qk, "k": site.d_qk, "v": site.d_vo}
        rows = {
            letter: site.projections[letter].weight.view(site.heads, width, site.d_model)
            for letter, width in widths.items()
        }
        rows["o"] = site.output.weight.T.reshape(site.heads, site.d_vo, -1)
        turning = self.turning.get(site.name)
        if site.merged and len(selected.get(("VO", 0), none)) == site.d_vo:
            return {}
        maps = {"q": basis.query, "k": basis.key, "v": basis.output, "o": basis.gradient}
        parts: dict[str, list[Tensor]] = {letter: [] for letter in rows}
        for head in range(site.heads):
            value_kept = selected.get(("VO", head), none)
            query_kept = self._query_components(site, selected, head) if len(value_kept) else none
            for one, other, components in (("q", "k", query_kept), ("v", "o", value_kept)):
                if one == "q" and turning is not None:
                    continue
                if one == "q" and not site.joint and not site.single_key:
                    parts["q"].append(rows["q"][head][components])
                    parts["k"].append(rows["k"][head][components])
                    continue
                left, right = (maps[letter][head][:, components].T @ rows[letter][head] for letter in (one, other))
                left, right = balanced_scales(left.T, right)
                parts[one].append(left.T)
                parts[other].append(right)
        joined = {letter: torch.cat(part) for letter, part in parts.items() if part}
        joined["o"] = joined["o"].T
        tensors = {site.projections[letter].name: {"weight": matrix} for letter, matrix in joined.items()}
        return tensors if turning is None else tensors | self._turned(turning, selected)

    @staticmethod
    def _turned(turning: Turning, selected: dict[tuple[str, int], Tensor]) -> dict[str, dict[str, Tensor]]:
        """Tensors of queries and keys that turn; all heads that are left have one choice."""
        site = turning.site
        heads = [head for head in range(site.heads) if len(selected.get(("VO", head), ()))]
        features = len(selected.get(("QK", heads[0]), ())) if heads else 0
        choice = turning.at(features)
        if choice is None and len(heads) == site.heads:
            return {}
        return turned_tensors(turning, choice, heads)


def _dense_cost(site: Attention, part: str) -> int | None:
    """Parameters of values and output as one matrix, where they are; None: they are two."""
    return site.d_model**2 if site.merged and part == "VO" else None


def _apart(site: Attention, part: str, heads: list[int], sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group a head."""
    groups = []
    stands_for = site.all_heads if site.single_key else 1
    for head in heads:
        value = sigma[head].square() if losses is None else marginal_losses(losses[head])
        dense = _dense_cost(site, part)
        groups.append(Group(site, part, (head,), sigma[head], value, 2 * site.d_model, dense, heads=stands_for))
    return groups


def _pooled(site: Attention, part: str, heads: list[int], sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group for all heads: its component j is the j-th of every head."""
    sigma = sigma[heads]
    value = sigma.square().sum(dim=0) if losses is None else marginal_losses(losses[heads].sum(dim=0))
    pooled, stands_for = sigma.square().sum(dim=0).sqrt(), site.all_heads if site.single_key else 1
    cost, dense = 2 * site.d_model * len(heads), _dense_cost(site, part)
    return [Group(site, part, tuple(heads), pooled, value, cost, dense, heads=stands_for)]


def _head_bases(site: Attention, moments: HeadMoments) -> tuple[HeadBases, dict[str, Tensor]]:
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
        contexts: Sequence[Context],
        seed: int,
        on_batch: Progress | None,
        *,
        input_aware: bool,
        measured: bool,
    ) -> None:
        self.groups = []
        self.factors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._sites = {site.name: site for site in family.sites}
        moments = input_moments(family, contexts, seed=seed, on_batch=on_batch) if input_aware or measured else {}
        for site in family.sites:
            for name in site.matrices:
                weight = site.projections[name].weight.T
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
                        heads=site.all_heads,
                    )
                )

    def plan(self, kept: Kept) -> Plan:
        """The model whose attention layers hold the kept components only."""
        shapes: dict[str, AttentionShape] = {}
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, choices in self._by_site(kept).items():
            site = self._sites[name]
            ranks: dict[str, int] = {}
            for group, components in choices:
                projection = site.projections[group.part]
                if len(components) >= group.capacity:
                    continue  # dense, as it is
                a, b = self.factors[name, group.part]
                ranks[group.part] = len(components)
                tensors[projection.name] = factors(*balanced_scales(a[:, components], b[components]))
                if projection.bias is not None:
                    tensors[projection.name]["up.bias"] = projection.bias
            shapes[name] = replace(shape_of(site), ranks=ranks)
        return Plan(Shapes(shapes), tensors)


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
