"""One budget over a whole model: heads, their widths, neurons, factors of matrices, and thereby whole layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from flowrank.compression.allocation import allocate, spend
from flowrank.compression.factorize import HeadComponents
from flowrank.compression.groups import Group, Kept
from flowrank.compression.neurons import Neurons
from flowrank.compression.plan import Plan
from flowrank.compression.prices import Price, fixed_costs, priced, refuse_below, stands
from flowrank.compression.remainder import Remainder
from flowrank.compression.rules import Uniform, Unit
from flowrank.family import Context, Family
from flowrank.measure import head_moments, rank_losses
from flowrank.nn.config import NarrowConfig
from flowrank.nn.shapes import Shapes

_PRECISION = 2e-3  # of a budget
_TRIES = 16


class WholeFactorization:
    """All components of a model: fitted on two thirds of the calibration series, and measured on the others.

    Parameters
    ----------
    family, contexts, seed, on_batch
        As of `factorization_of`.
    parts
        Parts that compete, as in `WholeModel`; all others do not change.
    """

    def __init__(
        self,
        family: Family,
        contexts: Sequence[Context],
        seed: int,
        on_batch: Callable[[int], None] | None,
        *,
        parts: Sequence[str],
    ) -> None:
        self.family, self.config, self.parts = type(family), family.model.config, parts
        self.rest = Remainder(family, ends="ends" in parts, factors="factors" in parts)
        # What was fitted is measured on other series: a decoder of one token has no more tokens than there are series.
        judging = contexts[::3]
        fitting = [one for i, one in enumerate(contexts) if i % 3] or judging
        moments = head_moments(family, fitting, also=self.rest.moment_taps(), seed=seed, on_batch=on_batch)
        self.heads = HeadComponents(family, moments)
        bases, turning = self.heads.bases, self.heads.turning
        taps = self.rest.loss_taps()
        self.losses = rank_losses(family, judging, bases, turning=turning, also=taps, seed=seed + 1, on_batch=on_batch)
        self.rest.count(len(judging))

    def shrunk(self, goal: float, price: Price, *, unit: Unit, uniform: bool = False) -> Plan:
        """Plan of the most useful model within a budget.

        Parameters
        ----------
        goal
            Cost of the smaller model, at most.
        price
            Of a config, in ``unit``.
        uniform
            Whether every group keeps the same share, regardless of its losses.

        Raises
        ------
        FlowrankError
            If the parts that cannot be removed cost more.
        """
        groups = self._groups()
        least = price(self._config(groups, [torch.arange(0)] * len(groups)))
        refuse_below(least, goal, price(self.config), unit)
        fixed: dict[str, float] = {}
        if unit != "parameters":
            every = groups

            def config_of(ranks: dict[int, int]) -> NarrowConfig:
                return self._config(every, _all_but(every, ranks))

            groups = priced(every, price, config_of)
            fixed = fixed_costs(groups, price, config_of)
        everything = groups, _all_but(groups, {})
        if price(self._config(*everything)) <= goal:
            return self._plan(*everything)
        total = sum(group.price(group.capacity) for group in groups)
        best = groups, [torch.arange(0)] * len(groups)
        low, high = 0.0, total
        budget = min(total, max(0.0, goal - least))
        # Components are priced in the model as it is: a matrix between two layers that both shrink ends up cheaper.
        for _ in range(_TRIES):
            chosen = self._uniform(groups, budget, total) if uniform else self._most_useful(groups, budget, fixed)
            found = price(self._config(*chosen))
            if found <= goal:
                best, low = chosen, budget
            else:
                high = budget
            if (1 - _PRECISION) * goal <= found <= goal or high - low <= _PRECISION * total / 10:
                break
            budget = (low + high) / 2
        return self._plan(*best)

    def _groups(self, without: frozenset[tuple[str, int]] = frozenset()) -> list[Group]:
        heads = self.heads.groups(self.losses, without=without) if "heads" in self.parts else []
        return heads + [one for one in self.rest.groups if "neurons" in self.parts or one.part != Neurons.part]

    @staticmethod
    def _uniform(groups: list[Group], budget: float, total: float) -> tuple[list[Group], Kept]:
        if budget <= 0:
            return groups, [torch.arange(0)] * len(groups)
        return groups, allocate(Uniform(min(1.0, budget / total)), groups, total)

    def _most_useful(self, groups: list[Group], budget: float, fixed: dict[str, float]) -> tuple[list[Group], Kept]:
        """Spend a budget; remove heads and layers worth less than their cost buys elsewhere; repeat until none is."""
        gone: frozenset[tuple[str, int]] = frozenset()
        dropped: set[str] = set()
        costs = {(one.site.name, one.part): one.cost / max(1, len(one.members)) for one in groups}
        while True:
            kept = spend(budget, groups)
            fresh = self._not_worth_it(groups, kept) - gone
            layer = None if fresh else self._layer_not_worth_it(groups, kept, fixed)
            if fresh:
                gone |= fresh
                groups = [
                    replace(one, cost=costs[one.site.name, one.part] * max(1, len(one.members)))
                    if one.members
                    else before
                    for one, before in _paired(self._groups(gone), groups)
                ]
            elif layer is not None:
                dropped.add(layer)
            else:
                return groups, kept
            groups = [
                replace(one, value=torch.full_like(one.value, -1.0)) if one.site.name in dropped else one
                for one in groups
            ]

    def _not_worth_it(self, groups: list[Group], kept: Kept) -> frozenset[tuple[str, int]]:
        """Heads (site name, index) whose loss per unit of cost is below that of the last kept component."""
        margin = _margin(groups, kept)
        loss: dict[tuple[str, int], float] = {}
        cost: dict[tuple[str, int], float] = {}
        for one, mine in zip(groups, kept, strict=True):
            for head in one.members if len(one.members) > 1 else ():
                by_rank = self.losses[one.site.name][one.part][head]
                where = one.site.name, head
                saved = by_rank[0] - by_rank[len(mine)] if one.part == "VO" else -by_rank[len(mine)]
                loss[where] = loss.get(where, 0.0) + float(saved)
                cost[where] = cost.get(where, 0.0) + one.cost / len(one.members) * len(mine)
        return frozenset(where for where in loss if cost[where] > 0 and loss[where] / cost[where] < margin)

    def _layer_not_worth_it(self, groups: list[Group], kept: Kept, fixed: dict[str, float]) -> str | None:
        """The layer of the least loss per unit of cost, if that is less than the last kept component's."""
        loss, cost = dict[str, float](), dict[str, float]()
        left = {one.site.name for one, mine in zip(groups, kept, strict=True) if stands(one) and len(mine)}
        for one, mine in zip(groups, kept, strict=True):
            name = one.site.name
            if name not in left or not stands(one) or fixed.get(name, 0.0) <= 0:
                continue
            cost[name] = cost.get(name, fixed[name]) + one.price(len(mine))
            saved = -one.value[len(mine) :].sum() if one.part == "QK" else one.value[: len(mine)].sum()
            loss[name] = loss.get(name, 0.0) + float(saved)
        worth = {name: loss[name] / cost[name] for name in cost}
        least = min(worth, key=worth.__getitem__, default=None)
        return least if least is not None and worth[least] < _margin(groups, kept) else None

    def _ranks(self, groups: list[Group], kept: Kept) -> dict[tuple[str, str], int]:
        """Components kept of every group other than attention."""
        ranks = {(one.site.name, one.part): one.capacity for one in self.rest.groups}
        return ranks | {
            (one.site.name, one.part): len(mine)
            for one, mine in zip(groups, kept, strict=True)
            if (one.site.name, one.part) in ranks
        }

    def _config(self, groups: list[Group], kept: Kept) -> NarrowConfig:
        return self.family.narrowed_config(self.config, self._shapes(groups, kept))

    def _shapes(self, groups: list[Group], kept: Kept) -> Shapes:
        rest = self.rest.shapes(self._ranks(groups, kept))
        return rest.updated(self.heads.shapes(groups, kept)) if "heads" in self.parts else rest

    def _plan(self, groups: list[Group], kept: Kept) -> Plan:
        made = self.heads.plan(groups, kept) if "heads" in self.parts else Plan()
        return Plan(self._shapes(groups, kept), {**made.tensors, **self.rest.tensors(self._ranks(groups, kept))})


def _margin(groups: list[Group], kept: Kept) -> float:
    """Loss per unit of cost of the least valuable component that is kept."""
    margins = [
        float(one.value[len(mine) - 1]) / one.cost
        for one, mine in zip(groups, kept, strict=True)
        if 0 < len(mine) < one.capacity and one.cost > 0
    ]
    return min(margins, default=0.0)


def _all_but(groups: list[Group], ranks: dict[int, int]) -> Kept:
    """All components, except in groups listed by index, which keep so many."""
    return [torch.arange(ranks.get(index, group.size)) for index, group in enumerate(groups)]


def _paired(fresh: list[Group], before: list[Group]) -> list[tuple[Group, Group]]:
    """Groups that remain, each with its earlier version."""
    old = {(one.site.name, one.part): one for one in before}
    return [(one, old[one.site.name, one.part]) for one in fresh]
