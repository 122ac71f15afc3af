"""Forecasts of single series and of groups of series by one graph: batches of like size, and steps beyond the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.graphs.facts import Facts
from flowrank.graphs.levels import interpolated, masses, weighted
from flowrank.graphs.runtimes import Runtime
from flowrank.graphs.series import ALIKE, BUDGET, ending

PATHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Quantiles that go on as series of their own beyond the steps of one pass."""


@dataclass(frozen=True)
class Rows:
    """Series of whole groups.

    Attributes
    ----------
    context
        Shape (series, time), fp32; NaN where nothing was observed.
    groups
        Shape (series,): series of one number are forecast together.
    future
        Shape (series, steps): values known ahead, NaN elsewhere.
    """

    context: np.ndarray
    groups: np.ndarray
    future: np.ndarray


class GroupGraph:
    """A graph of the kind "groups".

    Parameters
    ----------
    runtime
        The graph, opened.
    facts
        What it reads and gives.
    """

    parts = ("model",)

    def __init__(self, runtime: Runtime, facts: Facts) -> None:
        self.runtime, self.facts = runtime, facts

    def step(
        self,
        context: np.ndarray,
        groups: np.ndarray,
        future: np.ndarray | None,
        patches: int,
        *,
        memory_budget: int | None = None,
    ) -> np.ndarray:
        """Quantiles of some output patches, in one pass.

        Parameters
        ----------
        context
            Shape (series, time); NaN where nothing was observed.
        groups
            Shape (series,): series of one number are forecast together.
        future
            Shape (series, steps): values known ahead, NaN elsewhere; None: none are known.
        patches
            Output patches.
        memory_budget
            Bytes for activations; None: half a GiB, which one large group may exceed.

        Returns
        -------
        ndarray
            Shape (series, quantiles, patches · patch size), fp32.

        Raises
        ------
        FlowrankError
            If there are more patches than the graph gives, or a group does not fit into ``memory_budget``.
        """
        facts = self.facts
        if patches > facts.most_patches:
            raise FlowrankError(
                "max_output_patches",
                expected=f"at most {facts.most_patches}, which a graph of this model gives in one pass",
                found=patches,
                todo='leave it out, or pass engine="exact"',
            )
        steps = patches * facts.output_patch
        context = np.asarray(context[:, -facts.context_length :], dtype=np.float32)
        seen = ~np.isnan(context)
        needed = np.where(seen.any(axis=1), context.shape[1] - seen.argmax(axis=1), 1) if context.shape[1] else 1
        needed = -(-np.broadcast_to(needed, len(context)) // facts.patch)
        ahead = np.full((len(context), steps), np.nan, dtype=np.float32)
        if future is not None:
            known = min(steps, future.shape[1])
            ahead[:, :known] = future[:, :known]
        result = np.empty((len(context), len(facts.quantiles), steps), dtype=np.float32)
        for members in self._batches(groups, needed, patches, memory_budget):
            rows = np.concatenate(members)
            length = int(needed[rows].max()) * facts.patch
            result[rows] = self._run(ending(context[rows], length), ahead[rows], [len(one) for one in members])
        return result

    def predict(
        self, rows: Rows, horizon: int, *, paths: Sequence[float] = PATHS, memory_budget: int | None = None
    ) -> np.ndarray:
        """Quantiles of any horizon, (series, quantiles, horizon).

        Beyond the steps of one pass, some quantiles go on as series of their own, each with the series of its group at
        its level, and the quantiles of all that follow are those of the next steps, as chronos-forecasting has it.
        """
        facts, number = self.facts, len(paths)
        context, groups, future = rows.context[:, -facts.context_length :], rows.groups, rows.future
        made = [self.step(context, groups, future, self._patches(horizon), memory_budget=memory_budget)]
        left = horizon - made[-1].shape[-1]
        if left > 0:
            context, future = (np.repeat(one[:, None], number, axis=1) for one in (context, future))
            _, groups = np.unique(groups, return_inverse=True)
            groups = groups[:, None] * number + np.arange(number)
            places = [facts.quantiles.index(level) for level in paths]
            weights = np.outer(masses(paths), masses(facts.quantiles)).ravel()
        while left > 0:
            told = made[-1][:, places]
            known = future[..., : told.shape[-1]]
            told = np.where(np.isnan(known), told, known)
            context = np.concatenate([context, told], axis=-1)[..., -facts.context_length :]
            future = future[..., told.shape[-1] :]
            flat = [one.reshape(-1, one.shape[-1]) for one in (context, future)]
            ahead = self.step(flat[0], groups.ravel(), flat[1], self._patches(left), memory_budget=memory_budget)
            samples = ahead.reshape(len(context), -1, ahead.shape[-1]).swapaxes(1, 2)
            made.append(weighted(samples, weights, facts.quantiles).swapaxes(1, 2))
            left -= ahead.shape[-1]
        return np.concatenate(made, axis=-1)[..., :horizon]

    def at_levels(self, forecast: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Quantiles (…, quantiles, H) at any levels: (…, H, levels)."""
        return interpolated(levels, self.facts.quantiles, forecast.swapaxes(-1, -2))

    def _patches(self, steps: int) -> int:
        return min(math.ceil(steps / self.facts.output_patch), self.facts.most_patches)

    def _run(self, context: np.ndarray, ahead: np.ndarray, sizes: list[int]) -> np.ndarray:
        """Quantiles of whole groups, one after another: all of one series, or none."""
        inputs: dict[str, np.ndarray] = {"series": context, "series_future": ahead}
        if not self.facts.reads_groups:
            return self.runtime.run(inputs)
        single = max(sizes) == 1
        shape = (0, 1) if single else (len(sizes), max(sizes))
        present = np.arange(shape[1]) < np.array(sizes)[: shape[0], None]
        inputs["present"] = present.astype(np.float32)
        for name, values in (("groups", context), ("groups_future", ahead)):
            together = np.full((*shape, values.shape[1]), np.nan, dtype=np.float32)
            if not single:
                together[present] = values
            inputs[name] = together
        if not single:
            inputs |= {"series": context[:0], "series_future": ahead[:0]}
        found = self.runtime.run(inputs)
        return found if single else found[present.ravel()]

    def _batches(
        self, groups: np.ndarray, needed: np.ndarray, patches: int, memory_budget: int | None
    ) -> Iterator[list[np.ndarray]]:
        """Groups that run together, each as the indices of its series: of like number and length, as many as fit."""
        if not self.facts.reads_groups:
            groups = np.arange(len(needed))
        members = _members(groups)
        sizes = np.array([len(one) for one in members])
        lengths = np.array([needed[one].max() for one in members])
        budget = BUDGET if memory_budget is None else memory_budget
        order = np.lexsort((lengths, sizes))
        start = 0
        while start < len(order):
            least, shortest, longest, stop = sizes[order[start]], lengths[order[start]], 0, start
            while stop < len(order):
                size, length = sizes[order[stop]], lengths[order[stop]]
                longest, shortest = max(longest, length), min(shortest, length)
                each = self._bytes_a_group(int(size), int(longest) + 1 + patches)
                if stop == start:
                    self._check_fits(int(size), each, memory_budget)
                elif (
                    (size > 1) != (least > 1)
                    or size > ALIKE * least
                    or longest > max(shortest + 1, ALIKE * shortest)
                    or (stop + 1 - start) * each > budget
                ):
                    break
                stop += 1
            yield [members[one] for one in order[start:stop]]
            start = stop

    def _bytes_a_group(self, size: int, tokens: int) -> int:
        """Peak bytes of a group of so many series of so many tokens, in fp32."""
        across = 4 * tokens * self.facts.numbers[1] * size if size > 1 else 0
        return size * (self.facts.bytes_a_series(tokens) + across)

    @staticmethod
    def _check_fits(size: int, needs: int, memory_budget: int | None) -> None:
        if memory_budget is not None and size > 1 and needs > memory_budget:
            raise FlowrankError(
                "memory_budget",
                expected=f"at least {needs:,} bytes for a group of {size} series",
                found=f"{memory_budget:,}",
                todo=f"set memory_budget={needs}, or None; or forecast smaller groups, e.g. with a smaller batch_size "
                "where cross_learning=True makes a batch one group",
            )


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Indices of the series of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
