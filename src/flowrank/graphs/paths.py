"""Sample paths by two graphs: one encodes, the other decodes one step of all paths and draws their next tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.graphs.facts import Facts
from flowrank.graphs.noise import first_number, path_keys, series_keys, uniforms
from flowrank.graphs.runtimes import Runtime
from flowrank.graphs.series import ALIKE, BUDGET
from flowrank.graphs.tokens import Draws

HIDDEN = float(np.finfo(np.float32).min)
"""What is added to the score of a token that nothing attends to, as T5 has it."""

_GROWTH = 16  # places by which room for keys and values grows


class PathsGraph:
    """Graphs of the kind "paths".

    Parameters
    ----------
    encoder
        Tokens (series, length) and which of them are visible to keys and values of each layer's cross-attention.
    step
        The last tokens (series, paths) and what came before to the next ones, with their keys and values.
    facts
        What they read and give.
    """

    parts = ("encoder", "step")

    def __init__(self, encoder: Runtime, step: Runtime, facts: Facts) -> None:
        assert facts.tokens is not None
        self.encoder, self.step, self.facts, self.tokens = encoder, step, facts, facts.tokens
        self._crosses = cache_names("cross", self.tokens.cross)
        self._pasts = cache_names("past", self.tokens.past)

    def predict(
        self,
        context: np.ndarray,
        horizon: int,
        *,
        paths: int,
        draws: Draws,
        seed: int,
        keep_spread: bool = False,
        memory_budget: int | None = None,
    ) -> np.ndarray:
        """Sample paths of any horizon, (series, paths, horizon), fp32.

        What lies beyond the model's own horizon is forecast in blocks: after the median of the paths, as
        chronos-forecasting has it, or after each path for itself, to ``keep_spread``. A series' paths depend on its
        values and on the seed alone.
        """
        reach = self.facts.horizon
        context = np.asarray(context, dtype=np.float32)[:, -self.facts.context_length :]
        first, number, alone = context, first_number(seed), 1
        blocks: list[np.ndarray] = []
        while (done := len(blocks) * reach) < horizon:
            if blocks and keep_spread and alone == 1 < paths:
                context, alone = np.repeat(context, paths, axis=0), paths
            if blocks:
                told = blocks[-1].reshape(-1, reach) if alone > 1 else _lower_median(blocks[-1])
                context = np.concatenate([context, told], axis=1)[:, -self.facts.context_length :]
            keys = series_keys(first, number, len(blocks))
            tokens, visible, scale = self.tokens.read(context)
            drawn = self.sample(
                tokens,
                visible,
                steps=min(horizon - done, reach),
                paths=paths // alone,
                draws=draws,
                keys=path_keys(keys, paths) if alone > 1 else keys,
                memory_budget=memory_budget,
            )
            values = self.tokens.values(drawn, scale)
            blocks.append(values.reshape(len(first), paths, -1))
        return np.concatenate(blocks, axis=-1)

    def sample(
        self,
        tokens: np.ndarray,
        visible: np.ndarray,
        *,
        steps: int,
        paths: int,
        draws: Draws,
        keys: Sequence[int],
        memory_budget: int | None = None,
    ) -> np.ndarray:
        """Draw continuations of every series.

        Parameters
        ----------
        tokens, visible
            Shape (series, length): token ids, and which of them stand for something. Every series needs one.
        steps, paths
            H, at most the model's own horizon, and S.
        draws
            How tokens are drawn. Of tokens that tie with the last of ``top_k``, those of small values are taken.
        keys
            One a series (`flowrank.graphs.noise.series_keys`).
        memory_budget
            Bytes for activations and caches; None: half a GiB.

        Returns
        -------
        ndarray
            Token ids, shape (series, paths, steps).

        Raises
        ------
        FlowrankError
            If the model's logits are NaN or infinite.
        """
        drawn = np.empty((len(tokens), paths, steps), dtype=np.int64)
        budget = BUDGET if memory_budget is None else memory_budget
        for rows, start in self._batches(visible, paths, steps, budget):
            noise = uniforms([keys[row] for row in rows.tolist()], steps, paths)
            decoding = Decoding(self, tokens[rows, start:], visible[rows, start:], paths, steps, draws)
            last = np.full((len(rows), 1), self.tokens.start, dtype=np.int64)
            for step in range(steps):
                last = decoding.next(last, noise[:, step])
                drawn[rows, :, step] = last
        return drawn

    def logits(self, tokens: np.ndarray, visible: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """Logits (series, steps + 1, vocabulary) after the start and after each of the tokens (series, steps)."""
        series, steps = forced.shape
        decoding = Decoding(self, tokens, visible, 1, steps + 1, Draws())
        given = np.concatenate([np.full((series, 1), self.tokens.start), forced], axis=1)
        found = [decoding.logits(np.ascontiguousarray(column[:, None])) for column in given.T]
        return np.stack([one[:, 0] for one in found], axis=1)

    def _batches(self, visible: np.ndarray, paths: int, steps: int, budget: int) -> Iterator[tuple[np.ndarray, int]]:
        """Indices of series that run together, of like length and no more than fit, and where the longest begins."""
        length = visible.shape[1]
        needed = length - visible.argmax(axis=1)
        order = np.argsort(needed, kind="stable")
        start = 0
        while start < len(order):
            most = max(needed[order[start]] + 1, ALIKE * needed[order[start]])
            stop = int(np.searchsorted(needed[order], most, side="right"))
            longest = int(needed[order[stop - 1]])
            fit = max(1, budget // self._bytes_a_series(longest, paths, steps))
            for rows in np.array_split(order[start:stop], -(-(stop - start) // fit)):
                yield rows, length - int(needed[rows[-1]])
            start = stop

    def _bytes_a_series(self, tokens: int, paths: int, steps: int) -> int:
        """Peak bytes of one series: its tokens in the encoder, or its caches and one step of its paths."""
        past, cross = (
            sum(heads * (keys + values) for heads, keys, values in layers)
            for layers in (self.tokens.past, self.tokens.cross)
        )
        heads = max((heads for heads, _, _ in self.tokens.cross), default=0)
        in_decoder = tokens * cross + paths * ((steps + _GROWTH) * past + 3 * heads * tokens + 4 * self.tokens.count)
        return max(self.facts.bytes_a_series(tokens), 4 * in_decoder)


class Decoding:
    """Decodes the paths of a batch of series, one token a call.

    Keys and values of self-attention lie in room that grows, so that none is copied from step to step.
    """

    def __init__(
        self, graphs: PathsGraph, tokens: np.ndarray, visible: np.ndarray, paths: int, steps: int, draws: Draws
    ) -> None:
        self._graphs, self._paths, self._steps, self._position = graphs, paths, steps, 0
        seen = visible.astype(np.float32)
        encoder, held = graphs.encoder, graphs.step.held
        self._kept: list[np.ndarray] = []  # memory that the runtime reads
        given = {"tokens": encoder.held(self._keep(tokens)), "visible": encoder.held(self._keep(seen))}
        self._fixed = encoder.run_held(given, graphs._crosses)
        numbers = graphs.tokens.count if not draws.top_k else min(draws.top_k, graphs.tokens.count)
        outside = -1.0 if draws.top_p is None or draws.top_p >= 1 else 1.0 - draws.top_p
        options = {
            "mask": (1 - seen) * np.float32(HIDDEN),
            "temperature": np.array(draws.temperature, dtype=np.float32),
            "ranks": np.arange(numbers, dtype=np.int64),
            "outside": np.array(outside, dtype=np.float32),
        }
        self._fixed |= {name: held(self._keep(one)) for name, one in options.items()}
        self._past: dict[str, np.ndarray] = {}
        self._held: dict[str, Any] = {}
        self._grow(len(tokens), 1)

    def next(self, tokens: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The next tokens (series, paths), by noise (series, paths), after those of each path or the one of all."""
        drawn, total = self._step(tokens, noise, ("drawn", "total"))
        if not np.isfinite(total).all():
            raise FlowrankError(
                "model",
                expected="finite logits",
                found="NaN or infinity",
                todo="check the model's weights and the type they are computed in",
            )
        return drawn.copy()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (series, paths, vocabulary) after tokens (series, paths)."""
        (found,) = self._step(tokens, np.zeros((len(tokens), self._paths), dtype=np.float32), ("logits",))
        return found.copy()

    def _step(self, tokens: np.ndarray, noise: np.ndarray, wanted: tuple[str, ...]) -> list[np.ndarray]:
        runtime, pasts = self._graphs.step, self._graphs._pasts
        if pasts and self._position:
            _, paths, _, room, _ = self._past[pasts[0]].shape
            if paths < self._paths or room == self._position:
                self._grow(len(tokens), self._paths)
        inputs = {
            "tokens": np.ascontiguousarray(tokens),
            "noise": np.ascontiguousarray(noise),
            "rows": np.arange(self._paths) if tokens.shape[1] == self._paths else np.zeros(self._paths, np.int64),
            "position": np.array(self._position, dtype=np.int64),
        }
        given = {name: runtime.held(one) for name, one in inputs.items()}
        found = runtime.run_held({**given, **self._held, **self._fixed}, (*wanted, *(f"new_{name}" for name in pasts)))
        for name in pasts:
            self._past[name][:, :, :, self._position] = runtime.array(found[f"new_{name}"])[:, :, :, 0]
        self._position += 1
        return [runtime.array(found[name]) for name in wanted]

    def _grow(self, series: int, paths: int) -> None:
        """Room for more keys and values; what all paths share is repeated."""
        shapes = {
            f"past_{kind}{layer}": (heads, width)
            for layer, (heads, *widths) in enumerate(self._graphs.tokens.past)
            for kind, width in zip(("key", "value"), widths, strict=True)
        }
        room = min(self._position + _GROWTH, max(self._steps, self._position + 1))
        for name in self._graphs._pasts:
            heads, width = shapes[name]
            made = np.zeros((series, paths, heads, room, width), dtype=np.float32)
            if self._position:
                made[:, :, :, : self._position] = self._past[name][:, :, :, : self._position]
            self._past[name], self._held[name] = made, self._graphs.step.held(made)

    def _keep(self, array: np.ndarray) -> np.ndarray:
        self._kept.append(np.asarray(array, order="C"))
        return self._kept[-1]


def cache_names(prefix: str, layers: Sequence[tuple[int, int, int]]) -> list[str]:
    """Names of the keys and values of the layers that have heads."""
    return [
        f"{prefix}_{kind}{layer}" for layer, (heads, _, _) in enumerate(layers) if heads for kind in ("key", "value")
    ]


def _lower_median(paths: np.ndarray) -> np.ndarray:
    """The median over paths (series, paths, time), the lower of two, as torch has it."""
    middle = (paths.shape[1] - 1) // 2
    found: np.ndarray = np.partition(paths, middle, axis=1)[:, middle]
    return found
