"""Moments of what flows through a transformer, streamed out of every sublayer.

What is linear in something that is measured is not measured: queries, keys and values follow from the input of their
layer, what attention adds to the stream follows from its heads' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.anatomy import Attention, Block, Sublayer
from flowrank.linalg import Moments, Spectrum

ATTENTION_SERIES = 32
"""Series at most whose attention matrices are decomposed; fewer where they are long."""


@dataclass
class Attended:
    """What the attention matrices of one layer are like.

    Attributes
    ----------
    sigma
        Sum over the series of σ_j / σ_1 of each head, one entry a key, shape (h, longest), zeros after shorter ones.
    series
        How many went in.
    norm
        Upper bound on the spectral norm of each head's matrix, over all series that passed: √(largest row sum · largest
        column sum), shape (h,).
    """

    sigma: Tensor
    norm: Tensor
    series: int = 0

    def add(self, sigma: Tensor) -> None:
        """Add normalised singular values (h, n) of one series."""
        longest = max(sigma.shape[1], self.sigma.shape[1])
        self.sigma, sigma = (nn.functional.pad(one, (0, longest - one.shape[1])) for one in (self.sigma, sigma))
        self.sigma = self.sigma + sigma
        self.series += 1


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
    """

    blocks: list[Block]
    dtype: torch.dtype
    moments: dict[tuple[int, int, str], Moments] = field(default_factory=dict)
    source: Moments | None = None
    attended: dict[tuple[int, int], Attended] = field(default_factory=dict)
    _valid: dict[str, Tensor | None] = field(default_factory=dict)
    _spectra: dict[int, tuple[int, Spectrum]] = field(default_factory=dict)

    def see(self, stack: str, mask: Tensor | None) -> None:
        """Say which tokens (B, L) of a stack count in what comes; None: all."""
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
        source = "encoder" if block.sublayers[place].kind == "cross" else block.stack

        def heads(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            self.add((index, place, "head_outputs"), in_time(inputs[0], block.sublayers[place]), block.stack)

        def weights(_module: Any, _inputs: Any, output: Any) -> None:
            *_, last = parts_of(output)
            if isinstance(last, Tensor) and last.ndim == 4 and block.sublayers[place].kind != "group":
                self._look((index, place), last, block.stack, source)

        return [
            attention.output.module.register_forward_pre_hook(heads),
            attention.module.register_forward_hook(weights),
        ]

    def _look(self, key: tuple[int, int], weights: Tensor, stack: str, source: str) -> None:
        """Take note of attention weights (B, h, L_q, L_k)."""
        weights = weights.detach().float().cpu()
        queries = self._mask(stack, len(weights), weights.shape[2])
        keys = self._mask(source, len(weights), weights.shape[3])
        if queries is not None:
            weights = weights * queries[:, None, :, None]
        columns, rows = weights.sum(dim=2).amax(dim=(0, 2)), weights.sum(dim=3).amax(dim=(0, 2))
        norm = (columns * rows).sqrt().double()
        if key not in self.attended:
            self.attended[key] = Attended(torch.zeros(weights.shape[1], 1, dtype=torch.float64), norm)
        attended = self.attended[key]
        attended.norm = torch.maximum(attended.norm, norm)
        wanted = max(2, min(ATTENTION_SERIES, 2**29 // max(weights.shape[2:]) ** 3))
        for row in range(min(len(weights), wanted - attended.series)):
            one = weights[row]
            if queries is not None:
                one = one[:, queries[row]]
            if keys is not None:
                one = one[:, :, keys[row]]
            sigma = torch.linalg.svdvals(one)
            sigma = sigma / sigma[:, :1].clamp_min(torch.finfo(torch.float32).tiny)
            attended.add(nn.functional.pad(sigma.double(), (0, one.shape[2] - sigma.shape[1])))

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
