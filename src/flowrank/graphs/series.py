"""Forecasts of single series by a graph of one block: batches of like length, and blocks beyond the first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flowrank.graphs.facts import Facts
from flowrank.graphs.quantiles import mixture
from flowrank.graphs.runtimes import Runtime

BUDGET = 2**29
"""Bytes that a run's activations may take, unless told."""

ALIKE = 1.25  # the longest series of a batch over its shortest


class SeriesGraph:
    """A graph of the kind "series".

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

    def block(self, context: np.ndarray, *, memory_budget: int | None = None) -> np.ndarray:
        """Quantiles of one horizon.

        Parameters
        ----------
        context
            Shape (series, time); NaN where nothing was observed.
        memory_budget
            Bytes for activations; None: half a GiB.

        Returns
        -------
        ndarray
            Shape (series, quantiles, horizon), fp32.
        """
        facts = self.facts
        context = np.ascontiguousarray(context[:, -facts.context_length :], dtype=np.float32)
        patches = -(-_observed(context) // facts.patch)
        result = np.empty((len(context), len(facts.quantiles), facts.horizon), dtype=np.float32)
        for rows in self._batches(patches, BUDGET if memory_budget is None else memory_budget):
            length = int(patches[rows].max()) * facts.patch
            result[rows] = self.runtime.run({"context": ending(context[rows], length)})
        return result

    def predict(
        self, context: np.ndarray, horizon: int, *, keep_spread: bool = False, memory_budget: int | None = None
    ) -> np.ndarray:
        """Quantiles of any horizon, (series, quantiles, horizon).

        Beyond the model's own, each quantile goes on as a series of its own, and the quantiles of all that follow are
        the next block's, as chronos-forecasting has it; or those of the mixture, `flowrank.graphs.quantiles.mixture`,
        to ``keep_spread``.
        """
        facts = self.facts
        context = np.asarray(context, dtype=np.float32)[:, -facts.context_length :]
        blocks = [self.block(context, memory_budget=memory_budget)]
        paths = context[:, None]
        while len(blocks) * facts.horizon < horizon:
            told = np.broadcast_to(paths, (len(context), len(facts.quantiles), paths.shape[-1]))
            paths = np.concatenate([told, blocks[-1]], axis=-1)[..., -facts.context_length :]
            ahead = self.block(paths.reshape(-1, paths.shape[-1]), memory_budget=memory_budget)
            ahead = ahead.reshape(len(context), len(facts.quantiles), len(facts.quantiles), facts.horizon)
            if keep_spread:
                blocks.append(mixture(ahead, facts.quantiles))
                continue
            pooled = ahead.reshape(len(context), -1, facts.horizon)
            blocks.append(np.quantile(pooled, facts.quantiles, axis=1).swapaxes(0, 1).astype(np.float32))
        return np.concatenate(blocks, axis=-1)[..., :horizon]

    def _batches(self, patches: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        """Indices of series that run together: of like length, and no more than fit."""
        if len(patches) == 1:
            yield np.zeros(1, dtype=np.int64)
            return
        order = np.argsort(patches, kind="stable")
        start = 0
        while start < len(order):
            shortest, stop = patches[order[start]], start + 1
            while stop < len(order):
                longest = int(patches[order[stop]])
                each = self.facts.bytes_a_series(longest + 1)
                if longest > max(shortest + 1, ALIKE * shortest) or (stop + 1 - start) * each > budget:
                    break
                stop += 1
            yield order[start:stop]
            start = stop


def _observed(context: np.ndarray) -> np.ndarray:
    """Values of each row from its first observed one on, (n,); 1 of a row without any."""
    length = context.shape[1]
    if length and not np.isnan(context[:, 0]).any():
        return np.full(len(context), length)
    seen = ~np.isnan(context)
    return np.where(seen.any(axis=1), length - seen.argmax(axis=1), 1) if length else np.ones(len(context), np.int64)


def ending(rows: np.ndarray, length: int) -> np.ndarray:
    """The last ``length`` values of rows (n, time), with NaN before them where there are fewer."""
    if rows.shape[1] >= length:
        return np.ascontiguousarray(rows[:, rows.shape[1] - length :])
    made = np.full((len(rows), length), np.nan, dtype=rows.dtype)
    made[:, length - rows.shape[1] :] = rows
    return made
