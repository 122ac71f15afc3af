"""The layers of a T5 stack, read once from a model and computed without what changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Block,
    T5DenseActDense,
    T5DenseGatedActDense,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5LayerSelfAttention,
    T5Stack,
)

from flowrank.engine.feed_forward import FeedForward, normalised
from flowrank.engine.heads import SHORT, Heads, add_projection, self_attention
from flowrank.engine.packing import Packed
from flowrank.families._t5_stack.attention import NarrowT5Attention
from flowrank.families._t5_stack.mlp import NarrowT5DenseActDense, NarrowT5DenseGatedActDense
from flowrank.nn.heads import HeadLayout

COMPUTED = (
    *(T5Attention, NarrowT5Attention, T5Stack, T5Block, T5LayerSelfAttention, T5LayerCrossAttention, T5LayerFF),
    *(T5DenseActDense, T5DenseGatedActDense, T5LayerNorm, NarrowT5DenseActDense, NarrowT5DenseGatedActDense),
)
"""Kinds of modules whose work the engine does."""

_HIDDEN = 1 << 20  # hidden units of a feed-forward layer at once: they then stay in the cache


def heads_of(layer: Any) -> Heads | None:
    """Weights of an attention layer, stock or narrowed; None if no head is left."""
    projections = [getattr(layer, name) for name in "qkvo"]
    if isinstance(layer, NarrowT5Attention):
        return Heads.of(projections, layer.query_layout, layer.value_layout, layer.active_heads)
    layout = HeadLayout((layer.key_value_proj_dim,) * layer.n_heads)
    return Heads.of(projections, layout, layout)


def feed_forward_of(layer: T5LayerFF) -> FeedForward:
    """A feed-forward layer, with or without gates."""
    dense: Any = layer.DenseReluDense
    plain = isinstance(dense, T5DenseActDense) and isinstance(dense.act, nn.ReLU)
    return FeedForward(layer.layer_norm, dense, dense.wi if plain else None, dense.wo, _HIDDEN)


@dataclass(frozen=True)
class DecoderLayer:
    """One layer of a T5 decoder; None where no head is left."""

    self_norm: T5LayerNorm
    self_attention: Heads | None
    cross_norm: T5LayerNorm
    cross_attention: Heads | None
    feed_forward: FeedForward

    @classmethod
    def of_stack(cls, stack: T5Stack) -> list[DecoderLayer]:
        """Every layer of a decoder, in order."""
        blocks: Any = stack.block
        return [
            cls(
                first.layer_norm,
                heads_of(first.SelfAttention),
                cross.layer_norm,
                heads_of(cross.EncDecAttention),
                feed_forward_of(feed_forward),
            )
            for first, cross, feed_forward in (block.layer for block in blocks)
        ]


class Encoder:
    """A T5 encoder on packed tokens."""

    def __init__(self, stack: T5Stack) -> None:
        blocks: Any = stack.block
        self.layers = [
            (block.layer[0].layer_norm, heads_of(block.layer[0].SelfAttention), feed_forward_of(block.layer[-1]))
            for block in blocks
        ]
        self.position = blocks[0].layer[0].SelfAttention
        self.final_norm = stack.final_layer_norm
        self._bias: tuple[int, Tensor] | None = None

    def numbers_a_token(self, tokens: int) -> int:
        """Activations held at the most for each token of a series of so many: the stream, and one layer's own."""
        d = self.final_norm.weight.shape[0]
        widest = 0
        for _, heads, _ in self.layers:
            if heads is not None:
                scores = 2 * heads.count * tokens if tokens <= SHORT else 0
                widest = max(widest, heads.count * (3 * heads.d_qk + 3 * heads.d_vo) + scores)
        return 2 * d + widest

    def __call__(self, x: Tensor, packed: Packed) -> Tensor:
        """Encode tokens (n, d); ``x`` is overwritten."""
        bias = self._bias_of(packed.span, x)
        for norm, heads, feed_forward in self.layers:
            if heads is not None:
                add_projection(x, self_attention(normalised(x, norm), heads, packed, heads.biased(bias)), heads.output)
            feed_forward.add(x)
        return normalised(x, self.final_norm)

    def _bias_of(self, span: int, like: Tensor) -> Tensor:
        """The position bias of so many places (1, h, span, span); the last one is kept."""
        if self._bias is None or self._bias[0] != span:
            bias = self.position.compute_bias(span, span, device=like.device).detach().to(like.dtype)
            self._bias = span, bias.contiguous()
        return self._bias[1]
