"""From moments and weights to singular values, of every matrix by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowrank.analysis.streams import Streams
from flowrank.anatomy import Attention, Block, Projection
from flowrank.linalg import Moments, Spectrum
from flowrank.theory import theorem_4


class Key(NamedTuple):
    """Which matrix: where it is, what it is, and of which head (−1: of all)."""

    stack: str
    kind: str
    layer: int
    depth: int
    quantity: str
    head: int = -1


KEYS = list(Key._fields)


@dataclass(frozen=True)
class Place:
    """A sublayer and its name in a profile."""

    index: int
    place: int
    block: Block
    depth: int

    @property
    def kind(self) -> str:
        """One of "self", "cross", "group" and "mlp"."""
        return self.block.sublayers[self.place].kind

    @property
    def attention(self) -> Attention | None:
        """The attention layer, if it is one."""
        return self.block.sublayers[self.place].attention

    def key(self, quantity: str, head: int = -1) -> Key:
        """Name of one of its matrices."""
        return Key(self.block.stack, self.kind, self.block.layer, self.depth, quantity, head)


def places(blocks: Sequence[Block]) -> list[Place]:
    """Every sublayer, in the order of the blocks.

    Depth is the layer number of the rank schedule: the layer, and for cross-attention (encoder layers + layer).
    """
    encoder = sum(block.stack == "encoder" for block in blocks)
    return [
        Place(index, place, block, block.layer + (encoder if sublayer.kind == "cross" else 0))
        for index, block in enumerate(blocks)
        for place, sublayer in enumerate(block.sublayers)
    ]


@dataclass(frozen=True)
class WeightMatrix:
    """A weight's singular values and its shape."""

    spectrum: Spectrum
    shape: tuple[int, int]


def weight_spectra(blocks: Sequence[Block], dtype: torch.dtype = torch.float64) -> Iterator[tuple[Key, WeightMatrix]]:
    """Singular values of W_Q, W_K, W_V and W_O of every layer, all heads together and each alone."""
    for where in places(blocks):
        attention = where.attention
        if attention is None:
            continue
        for name, projection, widths in (
            ("W_Q", attention.query, attention.query_widths),
            ("W_K", attention.key, attention.query_widths),
            ("W_V", attention.value, attention.value_widths),
            ("W_O", attention.output, attention.value_widths),
        ):
            weight = projection.weight.to(dtype)
            if not weight.numel():
                continue
            yield where.key(name), WeightMatrix(_of_matrix(weight), (weight.shape[0], weight.shape[1]))
            parts = weight.split(list(widths), dim=1 if name == "W_O" else 0)
            for head, part in zip(attention.active, parts, strict=True):
                if part.numel():
                    yield where.key(name, head), WeightMatrix(_of_matrix(part), (part.shape[0], part.shape[1]))


def _of_matrix(matrix: Tensor) -> Spectrum:
    """By the Gram matrix of the shorter side, in the matrix' own type."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return Spectrum.of_gram(gram, gram.dtype)


def activation_spectra(streams: Streams) -> Iterator[tuple[Key, Spectrum]]:
    """Singular values of everything that flowed through the blocks, a token one row."""
    for where in places(streams.blocks):
        block, attention = where.block, where.attention
        last = where.place == len(block.sublayers) - 1
        if block.layer == 0 and where.place == 0:
            embedding = streams.moments.get((where.index, -1, "embedding"))
            if embedding is not None:
                yield Key(block.stack, "embedding", 0, 0, "embedding"), streams.spectrum(embedding)
        for quantity in ("input", "head_outputs", "update", "summed"):
            moments = streams.moments.get((where.index, where.place, quantity))
            if moments is not None and len(moments.total):
                yield where.key(quantity), streams.spectrum(moments)
        if attention is not None:
            yield from _of_attention(streams, where, attention)
        stream = streams.moments.get((where.index, where.place, "stream"))
        if stream is not None:
            key = where.key("stream")
            if last:
                key = Key(block.stack, "residual", block.layer, block.layer, "residual")
            yield key, streams.spectrum(stream)


def _of_attention(streams: Streams, where: Place, attention: Attention) -> Iterator[tuple[Key, Spectrum]]:
    read = input_of(streams, where)
    source = streams.source if where.kind == "cross" else read
    for quantity, projection, moments, widths in (
        ("queries", attention.query, read, attention.query_widths),
        ("keys", attention.key, source, attention.query_widths),
        ("values", attention.value, source, attention.value_widths),
    ):
        if moments is not None and any(widths):
            gram = _image(projection, moments)
            yield where.key(quantity), Spectrum.of_gram(gram, gram.dtype)
            yield from _by_head(where, quantity, gram, attention, widths)
    heads = streams.moments.get((where.index, where.place, "head_outputs"))
    if heads is not None and len(heads.total):
        yield where.key("update"), Spectrum.of_gram(_image(attention.output, heads), streams.dtype)
        yield from _by_head(where, "head_outputs", heads.gram(), attention, attention.value_widths)
    attended = streams.attended.get((where.index, where.place))
    if attended is not None and attended.series:
        for head, sigma in zip(attention.active, attended.sigma / attended.series, strict=True):
            yield where.key("attention", head), Spectrum(sigma)


def input_of(streams: Streams, where: Place) -> Moments | None:
    """What a sublayer reads of its own stack; where norms come after, that is the stream before it."""
    own = streams.moments.get((where.index, where.place, "input"))
    return before(streams, where) if own is None and not where.block.norm_first else own


def before(streams: Streams, where: Place) -> Moments | None:
    """The stream before a sublayer."""
    if where.place > 0:
        return streams.moments.get((where.index, where.place - 1, "stream"))
    if where.block.layer == 0:
        return streams.moments.get((where.index, -1, "embedding"))
    last = len(streams.blocks[where.index - 1].sublayers) - 1
    return streams.moments.get((where.index - 1, last, "stream"))


def _image(projection: Projection, moments: Moments) -> Tensor:
    return moments.image(projection.weight, projection.bias)


def _by_head(
    where: Place, quantity: str, gram: Tensor, attention: Attention, widths: tuple[int, ...]
) -> Iterator[tuple[Key, Spectrum]]:
    """Each head alone: the blocks on the diagonal of the Gram matrix of all."""
    start = 0
    for head, width in zip(attention.active, widths, strict=True):
        part = gram[start : start + width, start : start + width]
        start += width
        if width:
            yield where.key(quantity, head), Spectrum.of_gram(part, gram.dtype)


@dataclass(frozen=True)
class Lift:
    """Theorem 4 and what was measured: σ_k of the stream after an attention layer, over σ_1."""

    key: Key
    actual: Tensor
    bound: Tensor


def lifts(streams: Streams) -> Iterator[Lift]:
    """How far each attention layer may lift the singular values of the stream, and how far it did.

    Theorem 4 with the layer's own constants: for each head the norm of W_O W_V and a bound on the norm of its attention
    matrices over all series. For layers without biases, whose update is linear in what they read.
    """
    for where in places(streams.blocks):
        attention, attended = where.attention, streams.attended.get((where.index, where.place))
        if attention is None or attended is None:
            continue
        after_what = "stream" if where.block.norm_first else "summed"
        stream = before(streams, where)
        after = streams.moments.get((where.index, where.place, after_what))
        read = streams.source if where.kind == "cross" else input_of(streams, where)
        if stream is None or after is None or read is None:
            continue
        if attention.value.bias is not None or attention.output.bias is not None:
            continue
        widths = list(attention.value_widths)
        outputs, values = attention.output.weight.split(widths, dim=1), attention.value.weight.split(widths)
        gains = [product_norm(o, v) * float(norm) for o, v, norm in zip(outputs, values, attended.norm, strict=True)]
        gain = max(sum(gains) / len(gains), 1e-300)
        sigma, result, source = (streams.spectrum(m).sigma for m in (stream, after, read))
        if not sigma[0] > 0 or not result[0] > 0:
            continue
        bound = theorem_4(
            sigma,
            heads=len(gains),
            depth=1,
            value_norm=gain,
            kept=float(result[0] / sigma[0]),
            attention_norm=1.0,
            source=source,
        )
        yield Lift(where.key("stream"), result / result[0], bound)


def product_norm(left: Tensor, right: Tensor) -> float:
    """Spectral norm of A B by the Gram matrices of the short side between them: A is (m, r), B is (r, n), r small.

    Examples
    --------
    >>> round(product_norm(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]])), 6)
    10.0
    """
    values, vectors = torch.linalg.eigh(left.double().T @ left.double())
    root = vectors * values.clamp_min(0).sqrt()
    return float(torch.linalg.eigvalsh(root.T @ (right.double() @ right.double().T) @ root)[-1].clamp_min(0).sqrt())
