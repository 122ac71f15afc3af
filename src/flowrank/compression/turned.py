"""Smaller queries and keys of layers in which they turn with their places: their groups, sizes and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowrank.compression.groups import Group, marginal_losses
from flowrank.compression.plan import factors
from flowrank.linalg import balanced_scales
from flowrank.measure import Choice, Turning
from flowrank.nn.factored import FactoredLinear


def turning_group(turning: Turning, heads: Sequence[int], losses: Tensor | None) -> Group:
    """The group of a layer's queries and keys: component n is the n-th feature's worth of parameters of all heads."""
    site = turning.site
    a_rank = 2 * (site.d_model + site.heads * site.d_qk)
    size = turning.features
    ends = [int(n * 2 * site.d_model * site.heads / a_rank) for n in range(size + 1)]
    energy = torch.cat([torch.zeros(1, dtype=torch.float64), turning.sigma.square().cumsum(0)])
    ends = [min(end, len(energy) - 1) for end in ends]
    sigma = (energy[ends[1:]] - energy[ends[:-1]]).clamp_min(0).sqrt()
    heads = list(heads)
    value = sigma.square() if losses is None else marginal_losses(losses[heads].sum(dim=0))
    return Group(site, "QK", tuple(heads), sigma, value, 2 * site.d_model * len(heads))


def widths_of(turning: Turning, choice: Choice | None) -> tuple[int, list[tuple[int, ...]], dict[str, int]]:
    """Features of a head's queries and keys, the planes in which each head turns, and ranks, under a choice."""
    site = turning.site
    if choice is None or choice.kind == "factors":
        ranks = {name: int(getattr(site.projections[name].module, "rank", 0)) for name in "qk"}
        ranks = {name: rank for name, rank in ranks.items() if rank}
        if choice is not None:
            ranks = {"q": choice.rank, "k": choice.rank}
        return site.d_qk, list(site.planes), ranks
    kept = turning.kept(choice)
    before = site.planes or (tuple(range(turning.planes)),) * site.heads
    planes = [tuple(before[head][plane] for plane in some.tolist()) for head, some in enumerate(kept)]
    return 2 * choice.planes + choice.rank, planes, {}


def turned_tensors(turning: Turning, choice: Choice | None, heads: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """New tensors of W_Q and W_K, of some heads, by the name of the layer."""
    site = turning.site
    rows = [one.weight.view(site.heads, site.d_qk, site.d_model) for one in (site.query, site.key)]
    names = site.query.name, site.key.name
    if not heads:
        return {name: {"weight": torch.zeros(0, site.d_model)} for name in names}
    features = [head * site.d_qk + feature for head in heads for feature in range(site.d_qk)]
    if choice is None:
        return {one.name: _rows(one.module, features) for one in (site.query, site.key)}
    if choice.kind == "factors":
        made = {}
        for side, name in enumerate(names):
            down, up = turning.factor(side, choice.rank)
            made[name] = factors(*balanced_scales((down.T @ rows[side].flatten(0, 1)).T, up[:, features]))
        return made
    columns, rest = turning.columns(turning.kept(choice)), turning.rest(choice)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for head in heads:
        slow = [one[head][rest[head]] for one in rows]
        if choice.kind == "merged":
            maps = [basis[head][:, : choice.rank] for basis in turning.block(choice)]
            left, right = (basis.T @ one for basis, one in zip(maps, slow, strict=True))
            left, right = balanced_scales(left.T, right)
            slow = [left.T, right]
        for part, one, block in zip(parts, rows, slow, strict=True):
            part += [one[head][columns[head]], block]
    return {name: {"weight": torch.cat(part)} for name, part in zip(names, parts, strict=True)}


def _rows(layer: Any, features: Sequence[int]) -> dict[str, Tensor]:
    """Tensors of a linear layer that gives some of its features only."""
    if isinstance(layer, FactoredLinear):
        return {"down.weight": layer.down.weight.detach(), "up.weight": layer.up.weight.detach()[features]}
    return {"weight": layer.weight.detach()[features]}
