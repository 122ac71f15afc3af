"""Which rank where: `allocate` turns a rule and groups of components into kept components."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from flowrank.compression.groups import Group, Kept
from flowrank.compression.rules import Allocation, Budget, Epsilon, FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.linalg import Spectrum
from flowrank.solving import largest


def beyond_fixed(allocation: Allocation, fixed: float, dense: float) -> Allocation:
    """The allocation for the parameters that a method can change, where ``fixed`` of ``dense`` cannot be changed.

    Raises
    ------
    FlowrankError
        If those alone are more than the ratio.

    Examples
    --------
    >>> beyond_fixed(Budget(0.75), 50, 100)
    Budget(ratio=0.5, unit='parameters')
    """
    ratio = allocation.ratio
    if not fixed or ratio is None:
        return allocation
    if ratio * dense <= fixed:
        raise FlowrankError(
            "ratio",
            expected=f"at least {fixed / dense:.3g}: queries and keys that turn with their positions stay whole",
            found=ratio,
            todo="keep more, or use InputSVD, which makes them two factors",
        )
    return replace(allocation, ratio=(ratio * dense - fixed) / (dense - fixed))


def of_more(allocation: Allocation, times: float) -> Allocation:
    """The allocation for a model whose parameters were ``times`` as many when the ratio was given.

    Examples
    --------
    >>> of_more(Budget(0.5), 1.6), of_more(Budget(0.8), 1.6)
    (Budget(ratio=0.8, unit='parameters'), Budget(ratio=1.0, unit='parameters'))
    """
    if allocation.ratio is None or times == 1:
        return allocation
    return replace(allocation, ratio=min(1.0, allocation.ratio * times))


@singledispatch
def allocate(allocation: Any, groups: Sequence[Group], dense_parameters: float) -> Kept:
    """Components to keep of every group.

    Parameters
    ----------
    allocation
        `Uniform`, `Epsilon`, `FlowOfRanks` or `Budget`.
    groups
        Groups of components, which compete for the budget.
    dense_parameters
        Attention parameters of the dense model, which ratios refer to.

    Raises
    ------
    FlowrankError
        If the allocation is of an unknown kind.
    """
    raise FlowrankError(
        "allocation", expected="Uniform, Epsilon, FlowOfRanks or Budget", found=type(allocation).__name__
    )


@allocate.register
def _(allocation: Epsilon, groups: Sequence[Group], dense_parameters: float) -> Kept:
    def ranks(epsilon: float) -> list[int]:
        return [Spectrum(group.sigma).epsilon_rank(epsilon) for group in groups]

    if allocation.epsilon is not None:
        return _leading(groups, ranks(allocation.epsilon))
    _refuse_below(_price(groups, ranks(1 - 1e-12)) / dense_parameters, allocation)
    budget = (allocation.ratio or 0.0) * dense_parameters
    return _leading(groups, _largest(lambda digits: ranks(0.1**digits), 16.0, groups, budget))


@allocate.register
def _(allocation: FlowOfRanks, groups: Sequence[Group], dense_parameters: float) -> Kept:
    def ranks(d0: float) -> list[int]:
        return [min(group.capacity, allocation.width(group.site.depth, d0 * group.heads)) for group in groups]

    if allocation.d0 is not None:
        return _leading(groups, ranks(allocation.d0))
    _refuse_below(_price(groups, ranks(1e-9)) / dense_parameters, allocation)
    widest = 2.0 * max((group.size for group in groups), default=1)
    return _leading(groups, _largest(ranks, widest, groups, (allocation.ratio or 0.0) * dense_parameters))


def _refuse_below(least: float, allocation: Epsilon | FlowOfRanks) -> None:
    if allocation.ratio is not None and least > allocation.ratio:
        raise FlowrankError(
            "ratio",
            expected=f"at least {least:.4g} under {type(allocation).__name__} on this model, where nothing vanishes",
            found=allocation.ratio,
            todo="keep more, or use Budget",
        )


def _price(groups: Sequence[Group], ranks: Sequence[int]) -> float:
    return sum(group.price(rank) for group, rank in zip(groups, ranks, strict=True))


def _largest(ranks: Callable[[float], list[int]], end: float, groups: Sequence[Group], budget: float) -> list[int]:
    """Ranks at the largest x in [0, end] whose price stays within the budget, which they grow with."""
    return ranks(largest(lambda x: _price(groups, ranks(x)) <= budget, 1e-9, end))


@allocate.register
def _(allocation: Uniform, groups: Sequence[Group], dense_parameters: float) -> Kept:
    budget = allocation.ratio * dense_parameters

    def exact(share: float) -> list[float]:
        return [share * group.capacity for group in groups]

    def whole(share: float) -> list[int]:
        return [math.floor(rank + 1e-9) for rank in exact(share)]

    # A matrix turns dense a little before its factors would cost as much, so the share of ranks is searched, not
    # computed; what rounding down leaves goes to the largest remainders, spread evenly over the model.
    share = min(1.0, budget / max(1, _price(groups, whole(1.0))))
    while _price(groups, whole(share)) > budget:
        share *= 0.999
    ranks, remainders = whole(share), exact(share)
    left = budget - _price(groups, ranks)
    order = sorted(range(len(groups)), key=lambda i: (ranks[i] - remainders[i], i * 0.6180339887498949 % 1))
    for i in order:
        step = groups[i].price(min(ranks[i] + 1, groups[i].capacity)) - groups[i].price(ranks[i])
        if 0 < step <= left and ranks[i] < groups[i].capacity:
            ranks[i] += 1
            left -= step
    return _leading(groups, ranks)


@allocate.register
def _(allocation: Budget, groups: Sequence[Group], dense_parameters: float) -> Kept:
    return spend(allocation.ratio * dense_parameters, groups)


def spend(budget: float, groups: Sequence[Group]) -> Kept:
    """The most valuable components within an absolute budget; those that cost nothing are kept."""
    values = [group.value.clone() for group in groups]
    while True:
        kept = _most_valuable(groups, values, budget)
        idle = _queries_of_dead_heads(groups, kept)
        if not idle:
            return kept
        for i in idle:
            values[i] = torch.full_like(values[i], -1.0)


def _most_valuable(groups: Sequence[Group], values: Sequence[Tensor], budget: float) -> Kept:
    offers = [
        (-float(value) / group.cost if group.cost > 0 else -math.inf, index, int(component))
        for index, (group, all_values) in enumerate(zip(groups, values, strict=True))
        for component, value in enumerate(all_values)
        if value >= 0
    ]
    chosen: list[list[int]] = [[] for _ in groups]
    for _, index, component in sorted(offers):
        group, mine = groups[index], chosen[index]
        if len(mine) >= group.capacity:
            continue
        step = group.price(len(mine) + 1) - group.price(len(mine))
        if step <= budget:
            mine.append(component)
            budget -= step
    return [
        torch.arange(group.size) if len(mine) >= group.capacity else torch.tensor(sorted(mine), dtype=torch.long)
        for group, mine in zip(groups, chosen, strict=True)
    ]


def _queries_of_dead_heads(groups: Sequence[Group], kept: Kept) -> list[int]:
    dead = {
        (group.site.name, group.members)
        for group, components in zip(groups, kept, strict=True)
        if group.part == "VO" and not len(components)
    }
    return [
        i
        for i, (group, components) in enumerate(zip(groups, kept, strict=True))
        if group.part == "QK" and (group.site.name, group.members) in dead and len(components)
    ]


def _leading(groups: Sequence[Group], ranks: Sequence[int]) -> Kept:
    return [torch.arange(g.size if r >= g.capacity else r) for g, r in zip(groups, ranks, strict=True)]
