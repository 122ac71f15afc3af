"""From a method and calibration series to groups of components, and from kept components to smaller layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.capture import HeadBases, HeadMoments, head_moments, input_moments, rank_losses
from flowrank.compression.allocation import Budget, Group, Kept, Part
from flowrank.compression.methods import InputSVD, JointHeads, WeightSVD
from flowrank.errors import FlowrankError
from flowrank.families import AttentionSite, Family
from flowrank.linalg import balanced_basis, input_svd, moment_root
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
        self.bases: dict[str, HeadBases] = {}
        spectra: dict[str, dict[str, Tensor]] = {}
        for site in family.sites:
            self.bases[site.name], spectra[site.name] = _head_bases(site, moments[site.name])
        losses = rank_losses(family, contexts, self.bases, seed=seed + 1, on_batch=on_batch) if measured else {}
        self.groups = []
        for site in family.sites:
            parts: tuple[Part, ...] = ("VO",) if site.single_key else ("QK", "VO")
            for part in parts:
                sigma = spectra[site.name][part]
                loss = losses[site.name][part] if measured else None
                self.groups += (_apart if per_head else _pooled)(site, part, sigma, loss)

    def layers(self, kept: Kept) -> dict[str, Layer]:
        """New attention layers, by site name, that hold the kept components only."""
        layers = {}
        for name, choices in self._by_site(kept).items():
            site = choices[0][0].site
            selected = {
                (group.part, head): components
                for group, components in choices
                for head in (range(site.heads) if group.head < 0 else [group.head])
            }
            layers[name] = self._layer(site, selected)
        return layers

    def _layer(self, site: AttentionSite, selected: dict[tuple[Part, int], Tensor]) -> Layer:
        basis, none = self.bases[site.name], torch.arange(0)
        rows = {
            name: getattr(site.module, name).weight.detach().double().cpu().view(site.heads, site.d_kv, -1)
            for name in ("q", "k", "v")
        }
        rows["o"] = site.module.o.weight.detach().double().cpu().T.reshape(site.heads, site.d_kv, -1)
        maps = {"q": basis.query, "k": basis.key, "v": basis.output, "o": basis.gradient}
        parts: dict[str, list[Tensor]] = {name: [] for name in rows}
        widths: dict[str, list[int]] = {"QK": [], "VO": []}
        for head in range(site.heads):
            value_kept = selected[("VO", head)]
            query_kept = selected.get(("QK", head), none) if len(value_kept) else none
            widths["QK"].append(len(query_kept))
            widths["VO"].append(len(value_kept))
            for name, components in zip("qkvo", (query_kept, query_kept, value_kept, value_kept), strict=True):
                parts[name].append(maps[name][head][:, components].T @ rows[name][head])
        spare = (0,) * (site.module.n_heads - site.heads)
        shape = AttentionShape((*widths["QK"], *spare), (*widths["VO"], *spare), {})
        tensors = {f"{name}.weight": torch.cat(part) for name, part in parts.items()}
        tensors["o.weight"] = tensors["o.weight"].T
        return shape, tensors


def _apart(site: AttentionSite, part: Part, sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group a head."""
    groups = []
    for head in range(site.heads):
        value = sigma[head].square() if losses is None else marginal_losses(losses[head])
        heads = site.module.n_heads // site.heads
        groups.append(Group(site, part, head, sigma[head], value, 2 * site.d_model, heads=heads))
    return groups


def _pooled(site: AttentionSite, part: Part, sigma: Tensor, losses: Tensor | None) -> list[Group]:
    """One group for all heads: its component j is the j-th of every head."""
    value = sigma.square().sum(dim=0) if losses is None else marginal_losses(losses.sum(dim=0))
    pooled, heads = sigma.square().sum(dim=0).sqrt(), site.module.n_heads // site.heads
    return [Group(site, part, -1, pooled, value, 2 * site.d_model * site.heads, heads=heads)]


def _head_bases(site: AttentionSite, moments: HeadMoments) -> tuple[HeadBases, dict[str, Tensor]]:
    pairs = []
    for left, right in ((moments.queries, moments.keys), (moments.outputs, moments.gradients)):
        scale = left.weight[:, None, None]
        heads = [balanced_basis(a, b) for a, b in zip(left.mean(), right.mean() * scale, strict=True)]
        pairs.append([torch.stack(parts) for parts in zip(*heads, strict=True)])
    (query, key, qk), (output, gradient, vo) = pairs
    return HeadBases(query, key, output, gradient), {"QK": qk, "VO": vo}


def marginal_losses(losses: Float[Tensor, " ranks"]) -> Float[Tensor, " n"]:
    """What each further component saves, from the loss at ranks 0 … n: slopes of the lower convex hull, descending.

    On the hull a greedy choice over all groups is optimal, and a component is never worth more than the one before.

    Examples
    --------
    >>> marginal_losses(torch.tensor([10.0, 9.0, 2.0, 0.0])).tolist()
    [4.0, 4.0, 2.0]
    """
    runs: list[tuple[float, int]] = []
    for saved in (losses[:-1] - losses[1:]).tolist():
        total, length = saved, 1
        while runs and runs[-1][0] / runs[-1][1] < total / length:
            before, more = runs.pop()
            total, length = total + before, length + more
        runs.append((total, length))
    slopes = [total / length for total, length in runs for _ in range(length)]
    return torch.tensor(slopes, dtype=torch.float64).clamp_min(0.0)


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
                        -1,
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
            ranks: dict[str, int] = {}
            tensors: dict[str, Tensor] = {}
            for group, components in choices:
                part = group.part
                if len(components) >= group.capacity:
                    tensors[f"{part}.weight"] = getattr(group.site.module, part).weight.detach()
                    continue
                a, b = self.factors[name, part]
                ranks[part] = len(components)
                tensors[f"{part}.down.weight"] = a[:, components].T
                tensors[f"{part}.up.weight"] = b[components].T
            module = choices[0][0].site.module
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
