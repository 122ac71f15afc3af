"""Which rank where: allocations are values, `allocate` turns one into kept components."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.anatomy import Layer
from flowrank.errors import FlowrankError
from flowrank.linalg import Spectrum

Unit = Literal["parameters", "flops", "cache", "latency"]
"""What a budget counts."""


@dataclass(frozen=True)
class Group:
    """Components that compete: those of one head's QK or VO product, of one matrix, or the neurons of one layer.

    Attributes
    ----------
    site
        The layer.
    part
        "QK" or "VO" for joint factorisation, "neurons", or the name of one matrix.
    members
        The heads whose components they are, by index among those of the site; none for other layers.
    heads
        Heads whose widths add up to the group's rank.
    sigma
        Shape (n,), descending, in the method's own metric.
    value
        Shape (n,): what removing the component costs, in units of the model's loss, the same for all groups.
    cost
        Parameters that a kept component takes, or whatever else the budget counts.
    dense_cost
        The same of the dense matrix that is kept instead where factors would not be smaller; None if there is none.
    """

    site: Layer
    part: str
    members: tuple[int, ...]
    sigma: Float[Tensor, " n"]
    value: Float[Tensor, " n"]
    cost: float
    dense_cost: float | None = None
    heads: int = 1

    @property
    def size(self) -> int:
        """n, the number of components."""
        return int(self.sigma.numel())

    @property
    def capacity(self) -> int:
        """Smallest rank at which the group is kept whole."""
        if self.dense_cost is None or self.cost <= 0:
            return self.size
        return min(self.size, math.ceil(self.dense_cost / self.cost))

    def price(self, rank: int) -> float:
        """Parameters, or whatever else is counted, at that rank."""
        if self.dense_cost is not None and rank >= self.capacity:
            return self.dense_cost
        return rank * self.cost


Kept = list[Tensor]
"""For every group the indices of its kept components, ascending."""


@dataclass(frozen=True)
class _Share:
    ratio: float

    def __post_init__(self) -> None:
        check_ratio(self.ratio)


@dataclass(frozen=True)
class Uniform(_Share):
    """Every head (or matrix) keeps the same fraction, so that ``ratio`` of the attention parameters remains.

    What the family's structure makes idle (queries and keys of a layer that attends to one key) is dropped first.

    Parameters
    ----------
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    """


@dataclass(frozen=True)
class Epsilon:
    """Every head (or matrix) keeps its ε-rank: the components with σ_j / σ_1 > ε (the paper's rule).

    Parameters
    ----------
    epsilon
        Relative tolerance in [0, 1); leave it out and give ``ratio`` for the smallest ε that keeps at most that share
        of the parameters.
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    """

    epsilon: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        _one_of(self, "epsilon", "ratio")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.epsilon is not None and not (_is_number(self.epsilon) and 0 <= self.epsilon < 1):
            raise FlowrankError("epsilon", expected="a number in [0, 1)", found=self.epsilon, todo="pass e.g. 0.05")


@dataclass(frozen=True)
class FlowOfRanks:
    """The paper's schedule: head width d̃(i) = ⌈ d̃_0 (1 + i)^α ⌉ at layer i (equation of section 4, Table 1).

    Cross-attention of decoder layer i counts as layer (encoder layers + i).

    Parameters
    ----------
    d0
        d̃_0; leave it out and give ``ratio`` for the largest d̃_0 that keeps at most that share of the parameters.
    alpha
        α, how fast widths grow.
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    rounding
        "ceil" as in the paper, or "power_of_two" (the nearest) as in the authors' code.

    Examples
    --------
    >>> [FlowOfRanks(d0=3, alpha=0.27).width(layer) for layer in (0, 1, 5, 11, 23)]
    [3, 4, 5, 6, 8]
    """

    d0: float | None = None
    alpha: float = 0.35
    ratio: float | None = None
    rounding: Literal["ceil", "power_of_two"] = "ceil"

    def __post_init__(self) -> None:
        _one_of(self, "d0", "ratio")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.d0 is not None and not (_is_number(self.d0) and self.d0 > 0):
            raise FlowrankError("d0", expected="a positive width", found=self.d0)
        if not (_is_number(self.alpha) and math.isfinite(self.alpha)):
            raise FlowrankError("alpha", expected="a finite exponent", found=self.alpha)
        if self.rounding not in ("ceil", "power_of_two"):
            raise FlowrankError("rounding", expected="'ceil' or 'power_of_two'", found=repr(self.rounding))

    def width(self, layer: int, d0: float | None = None) -> int:
        """Head width at a layer."""
        exact = (self.d0 if d0 is None else d0) * (1 + layer) ** self.alpha
        if self.rounding == "power_of_two":
            return 2 ** max(0, round(math.log2(exact)))
        return max(1, math.ceil(exact - 1e-9))


@dataclass(frozen=True)
class Budget(_Share):
    """One budget for the whole model: components are kept by measured loss per unit of it, wherever they are.

    Parameters
    ----------
    ratio
        Kept share of what is counted, in (0, 1]: of the attention layers with a method that compresses those, of the
        whole model with `WholeModel`.
    unit
        What is counted, with `WholeModel`: ``"parameters"``, ``"flops"`` of a forecast, bytes of the key and value
        ``"cache"``, or ``"latency"`` as predicted for this machine, after a short measurement on it.
    """

    unit: Unit = "parameters"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in get_args(Unit):
            raise FlowrankError("unit", expected=f"one of {', '.join(get_args(Unit))}", found=repr(self.unit))


Allocation = Uniform | Epsilon | FlowOfRanks | Budget


def check_ratio(ratio: Any, argument: str = "ratio") -> None:
    """Refuse a ratio outside (0, 1]."""
    if not _is_number(ratio) or not 0 < ratio <= 1:
        raise FlowrankError(
            argument,
            expected="the kept share of the attention parameters, a number in (0, 1]",
            found=repr(ratio),
            todo="pass e.g. 0.25 to keep a quarter",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _one_of(allocation: Any, first: str, second: str) -> None:
    if (getattr(allocation, first) is None) == (getattr(allocation, second) is None):
        raise FlowrankError(
            type(allocation).__name__,
            expected=f"{first} or {second}, one of them",
            found=repr(allocation),
            todo=f"give {first} for the rule itself or {second} for a size",
        )


def beyond_fixed(allocation: Allocation, fixed: float, dense: float) -> Allocation:
    """The allocation of what a method can change, where it leaves ``fixed`` of ``dense`` parameters as they are.

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


@singledispatch
def allocate(allocation: Any, groups: Sequence[Group], dense_parameters: float) -> Kept:
    """Components to keep of every group.

    Parameters
    ----------
    allocation
        `Uniform`, `Epsilon`, `FlowOfRanks` or `Budget`.
    groups
        What competes.
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
    """Ranks at the largest x in [0, end] whose price stays within the budget, by bisection; they grow with x."""
    low, high = 1e-9, end
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _price(groups, ranks(middle)) <= budget else (low, middle)
    return ranks(low)


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
    """Components that are worth most within an absolute budget; what costs nothing is kept."""
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
