"""Moments of what flows through a transformer, streamed out of every sublayer.

What is linear in something that is measured is not measured: queries, keys and values follow from the input of their
layer, what attention adds to the stream follows from its heads' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowrank.analysis.attended import Attended
from flowrank.analysis.turning import TurningStreams, watched
from flowrank.anatomy import Attention, Block, Sublayer
from flowrank.linalg import Moments, Spectrum


@dataclass
class Streams:
    """Everything measured while batches pass through a model.

    Attributes
    ----------
    moments
        By (block, sublayer, what): "input" (as the sublayer sees it, after a norm), "head_outputs", "update" (what an
        MLP adds), "summed" (stream plus update, where the norm comes after), "stream" (after the sublayer); by (block,
        −1, "embedding") the stream before the first block of a stack.
    source
        Of the encoder's output, as cross-attention reads it.
    attended
        Of attention matrices, by (block, sublayer).
    turning
        Of queries and keys that turn with their places, by (block, sublayer).
    """

    blocks: list[Block]
    dtype: torch.dtype
    moments: dict[tuple[int, int, str], Moments] = field(default_factory=dict)
    source: Moments | None = None
    attended: dict[tuple[int, int], Attended] = field(default_factory=dict)
    turning: dict[tuple[int, int], TurningStreams] = field(default_factory=dict)
    groups: Sequence[int] = ()
    _valid: dict[str, Tensor | None] = field(default_factory=dict)
    _spectra: dict[int, tuple[int, Spectrum]] = field(default_factory=dict)

    def see(self, stack: str, mask: Tensor | None, groups: Sequence[int] = ()) -> None:
        """Say which tokens (B, L) of a stack count in what comes (None: all), and how many series each group has."""
        self.groups = groups
        self._valid[stack] = None if mask is None or bool(mask.all()) else mask.bool()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, whatever passes through the model is measured."""
        handles: list[Any] = []
        crossing = True
        for index, block in enumerate(self.blocks):
            watch = _BlockWatch(self, index, block)
            handles.append(block.module.register_forward_pre_hook(watch.before, with_kwargs=True))
            handles.append(block.module.register_forward_hook(watch.after))
            for place, sublayer in enumerate(block.sublayers):
                handles.append(sublayer.norm.register_forward_hook(watch.at_norm(place)))
                if sublayer.attention is not None:
                    handles += self._at_attention(index, place, block, sublayer.attention)
                    if sublayer.kind == "cross" and crossing:
                        handles.append(sublayer.attention.key.module.register_forward_hook(self._at_source))
                        crossing = False
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def spectrum(self, moments: Moments) -> Spectrum:
        """Singular values of the rows that went into a moment; computed once."""
        count, spectrum = self._spectra.get(id(moments), (-1, None))
        if spectrum is None or count != moments.count:
            spectrum = Spectrum.of_gram(moments.gram(), self.dtype)
            self._spectra[id(moments)] = moments.count, spectrum
        return spectrum

    def add(self, key: tuple[int, int, str], rows: Tensor, stack: str) -> None:
        """Add tokens (B, L, n) of a stack to a moment."""
        if key not in self.moments:
            self.moments[key] = Moments(rows.shape[-1], self.dtype)
        self.moments[key].update(self._seen(rows, stack))

    def _seen(self, rows: Tensor, stack: str) -> Tensor:
        mask = self._valid.get(stack)
        return rows if mask is None or mask.shape != rows.shape[:2] else rows[mask.to(rows.device)]

    def _at_source(self, _module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        if self.source is None:
            self.source = Moments(inputs[0].shape[-1], self.dtype)
        self.source.update(self._seen(inputs[0], "encoder"))

    def _at_attention(self, index: int, place: int, block: Block, attention: Attention) -> list[Any]:
        def heads(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.add((index, place, "head_outputs"), in_time(inputs[0], block.sublayers[place]), block.stack)

        def weights(_module: Any, _inputs: Any, output: Any) -> None:
            *_, last = parts_of(output)
            if isinstance(last, Tensor) and last.ndim == 4 and last.shape[1] == len(attention.active):
                self._look((index, place), last, attention, block.stack)

        handles = [
            attention.output.module.register_forward_pre_hook(heads),
            attention.module.register_forward_hook(weights),
        ]
        if attention.turns:
            found = self.turning.setdefault((index, place), TurningStreams(attention))
            handles += watched(found, partial(self._mask, block.stack))
        return handles

    def _look(self, key: tuple[int, int], weights: Tensor, attention: Attention, stack: str) -> None:
        """Take note of attention weights: (B, h, L_q, L_k), or (L, h, series, series) over groups."""
        over_groups = attention.kind == "group"
        if over_groups and (attention.single_key or sum(self.groups) != weights.shape[2]):
            return
        attended = self.attended.setdefault(key, Attended.nothing(weights.shape[1]))
        if over_groups:
            attended.look_at_groups(weights, self._mask(stack, weights.shape[2], len(weights)), self.groups)
        else:
            queries = self._mask(stack, len(weights), weights.shape[2])
            keys = self._mask("encoder" if attention.kind == "cross" else stack, len(weights), weights.shape[3])
            attended.look(weights, queries, keys)

    def _mask(self, stack: str, series: int, tokens: int) -> Tensor | None:
        mask = self._valid.get(stack)
        return None if mask is None or mask.shape != (series, tokens) else mask.cpu()


def parts_of(output: Any) -> tuple[Any, ...]:
    """What a module returned, one by one."""
    if isinstance(output, Tensor):
        return (output,)
    return tuple(output.values() if isinstance(output, Mapping) else output)


def in_time(rows: Tensor, sublayer: Sublayer) -> Tensor:
    """Rows (series, tokens, n), also of a sublayer that attends to other series and has (tokens, series, n)."""
    return rows.transpose(0, 1) if sublayer.kind == "group" else rows


class _BlockWatch:
    """Follows the stream through one block."""

    def __init__(self, streams: Streams, index: int, block: Block) -> None:
        self.streams, self.index, self.block = streams, index, block
        self.stream: Tensor | None = None
        self.last: int | None = None  # the sublayer that the stream is in

    def before(self, _module: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stream = (inputs[0] if inputs else kwargs["hidden_states"]).detach()
        self.last = None
        if self.block.layer == 0:
            self.add(-1, "embedding", self.stream)

    def at_norm(self, place: int) -> Callable[..., None]:
        """Called with what went into the norm of a sublayer and what came out."""
        if self.block.norm_first:

            def before(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                if self.last is not None:
                    self.moved(in_time(inputs[0].detach(), self.sublayer(place)))
                self.last = place
                self.add(place, "input", in_time(output, self.sublayer(place)))

            return before

        def after(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert self.stream is not None
            self.add(place, "summed", inputs[0])
            if self.sublayer(place).attention is None:
                self.add(place, "update", inputs[0] - self.stream)
            self.stream = output.detach()
            self.add(place, "stream", self.stream)

        return after

    def after(self, _module: Any, _inputs: Any, output: Any) -> None:
        if self.block.norm_first and self.last is not None:
            self.moved(parts_of(output)[0].detach())
        self.stream = None

    def moved(self, stream: Tensor) -> None:
        """The stream after the sublayer that it is in."""
        assert self.stream is not None
        assert self.last is not None
        if self.sublayer(self.last).attention is None:
            self.add(self.last, "update", stream - self.stream)
        self.add(self.last, "stream", stream)
        self.stream = stream

    def sublayer(self, place: int) -> Sublayer:
        return self.block.sublayers[place]

    def add(self, place: int, what: str, rows: Tensor) -> None:
        self.streams.add((self.index, place, what), rows.detach(), self.block.stack)
