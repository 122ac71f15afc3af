"""The layers of a T5 stack, read once from a model and computed without what changes nothing.

Weights are the model's own tensors, but for heads of unequal widths, which are padded; activations are two-dimensional,
one row a token, and residuals are added inside the matrix product. Nothing is kept between two forecasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseActDense, T5LayerFF, T5LayerNorm, T5Stack

from flowrank.inference.packing import Packed
from flowrank.inference.products import Matrix, add_product, product
from flowrank.models.attention import CompressedT5Attention, HeadLayout
from flowrank.models.layers import FactoredEmbedding, FactoredLinear
from flowrank.models.quantized import Int8Linear, Int8Weight

Matrices = tuple[Matrix, ...]
"""One weight (out, in), or the two factors of one, applied from the left to the right."""

_HIDDEN = 1 << 20  # hidden units of a feed-forward layer at once: they then stay in the cache
_SHORT = 64  # up to so many keys, plain products beat the fused kernel


@dataclass(frozen=True)
class Heads:
    """An attention layer's weights, one even grid of heads.

    Attributes
    ----------
    query, key, value, output
        The projections; heads of unequal widths are padded with zeros, once.
    count
        h, the heads that are computed.
    d_qk, d_vo
        Their widths.
    alive
        Which of the layer's heads they are; None: all.
    """

    query: Matrices
    key: Matrices
    value: Matrices
    output: Matrices
    count: int
    d_qk: int
    d_vo: int
    alive: tuple[int, ...] | None

    @classmethod
    def of(cls, layer: T5Attention) -> Heads | None:
        """Weights of a layer, stock or compressed; None if no head is left."""
        if not isinstance(layer, CompressedT5Attention):
            width = layer.key_value_proj_dim
            query, key, value, output = (matrices_of(getattr(layer, name)) for name in "qkvo")
            return cls(query, key, value, output, layer.n_heads, width, width, None)
        if not layer.value_layout.widths:
            return None
        queries, values = layer.query_layout, layer.value_layout
        return cls(
            _spread(layer.q, queries),
            _spread(layer.k, queries),
            _spread(layer.v, values),
            _gathered(layer.o, values),
            len(values.widths),
            queries.widest,
            values.widest,
            None if layer.alive_heads is None else tuple(layer.alive_heads),
        )

    @property
    def features(self) -> int:
        """Keys and values of a token, h · (d_qk + d_vo)."""
        return self.count * (self.d_qk + self.d_vo)

    def to_source(self, query: Tensor) -> Tensor:
        """Take queries (…, h, n, d_qk) to the space of what they look at, (…, h, n, d), by W_K of each head."""
        *before, last = (_dense(matrix) for matrix in self.key)
        query = query @ last.unflatten(0, (self.count, -1))
        for matrix in reversed(before):
            query = query @ matrix
        return query

    def from_source(self, read: Tensor) -> Tensor:
        """Take what was read there, (…, h, n, d), back to values (…, h, n, d_vo), by W_V of each head."""
        *before, last = self.value
        read = project(read, tuple(before))
        return read @ _dense(last).unflatten(0, (self.count, -1)).transpose(1, 2)

    def biased(self, bias: Tensor) -> Tensor:
        """The heads' part of a position bias (1, heads of the layer, …)."""
        return bias if self.alive is None else bias[:, list(self.alive)]


def matrices_of(layer: nn.Module) -> Matrices:
    """Weights of a linear layer without a bias."""
    if isinstance(layer, FactoredLinear):
        return matrix_of(layer.down), matrix_of(layer.up)
    return (matrix_of(layer),)


def matrix_of(layer: nn.Module) -> Matrix:
    """Weight of a linear layer that is one matrix."""
    return layer.quantized if isinstance(layer, Int8Linear) else layer.weight.detach()  # type: ignore[operator]


def _dense(matrix: Matrix) -> Tensor:
    return matrix.dense() if isinstance(matrix, Int8Weight) else matrix


def _spread(layer: nn.Module, layout: HeadLayout) -> Matrices:
    """Weights whose output features lie on an even grid of heads."""
    *before, last = matrices_of(layer)
    total = len(layout.widths) * layout.widest
    if isinstance(last, Int8Weight):
        return (*before, last if layout.even else last.with_rows(layout.slots(last.values.device), total))
    if not layout.even:
        last = last.new_zeros(total, last.shape[1]).index_copy_(0, layout.slots(last.device), last)
    return (*before, last)


def _gathered(layer: nn.Module, layout: HeadLayout) -> Matrices:
    """Weights whose input features lie on an even grid of heads."""
    first, *after = matrices_of(layer)
    total = len(layout.widths) * layout.widest
    if isinstance(first, Int8Weight):
        return (first if layout.even else first.with_columns(layout.slots(first.values.device), total), *after)
    if not layout.even:
        first = first.new_zeros(first.shape[0], total).index_copy_(1, layout.slots(first.device), first)
    return (first, *after)


def project(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """Map rows (n, in) to (n, out)."""
    for matrix in matrices:
        x = product(x, matrix)
    return x


def add_projection(x: Tensor, update: Tensor, matrices: Matrices) -> None:
    """Add the projection of rows ``update`` (n, in) to ``x`` (n, out), in place."""
    *before, last = matrices
    add_product(x, project(update, tuple(before)), last)


def embedded(tokens: Tensor, layer: nn.Module) -> Tensor:
    """Embed token ids (n,) as rows (n, d)."""
    if isinstance(layer, FactoredEmbedding):
        return product(layer.codes(tokens), layer.basis.weight)
    return layer(tokens)


def normalised(x: Tensor, norm: T5LayerNorm) -> Tensor:
    """Rows (n, d) over their root mean square, times the layer's weight: T5's norm in two passes over memory."""
    if x.dtype != torch.float32:  # it computes in fp32
        return norm(x)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    result = x * size.square_().mul_(1.0 / x.shape[1]).add_(norm.variance_epsilon).rsqrt_()
    result *= norm.weight
    return result


def width_of(mlp: Any) -> int:
    """Activations of a row within a feed-forward layer or residual block: hidden neurons, and those between factors."""
    ranks = mlp.shape.ranks.values() if hasattr(mlp, "shape") else ()
    return (mlp.wo if hasattr(mlp, "wo") else mlp.output_layer).in_features + max(ranks, default=0)


class FeedForward:
    """A feed-forward layer: x ← x + W_O ReLU(W_I norm(x)), or whatever its module computes."""

    def __init__(self, layer: T5LayerFF) -> None:
        dense: Any = layer.DenseReluDense
        self.norm, self.dense = layer.layer_norm, dense
        self.width = width_of(dense)
        self.gone = dense.wo.in_features == 0
        self.plain = isinstance(dense, T5DenseActDense) and isinstance(dense.act, nn.ReLU)
        if self.plain:
            *self.before, self.inner = matrices_of(dense.wi)
            self.outer = matrices_of(dense.wo)

    def add(self, x: Tensor) -> None:
        """Update ``x`` (n, d) in place."""
        if self.gone:
            return
        for rows in x.chunk(max(1, -(-len(x) * self.width // _HIDDEN))):
            if self.plain:
                hidden = project(normalised(rows, self.norm), self.before)
                add_projection(rows, product(hidden, self.inner, relu=True), self.outer)
            else:
                rows += self.dense(normalised(rows, self.norm))


@dataclass(frozen=True)
class DecoderLayer:
    """One layer of a T5 decoder; None where no head is left."""

    own_norm: T5LayerNorm
    own: Heads | None
    cross_norm: T5LayerNorm
    cross: Heads | None
    feed_forward: FeedForward

    @classmethod
    def of_stack(cls, stack: T5Stack) -> list[DecoderLayer]:
        """Every layer of a decoder, in order."""
        blocks: Any = stack.block
        return [
            cls(
                own.layer_norm,
                Heads.of(own.SelfAttention),
                cross.layer_norm,
                Heads.of(cross.EncDecAttention),
                FeedForward(feed_forward),
            )
            for own, cross, feed_forward in (block.layer for block in blocks)
        ]


class Encoder:
    """A T5 encoder on packed tokens."""

    def __init__(self, stack: T5Stack) -> None:
        blocks: Any = stack.block
        self.layers = [
            (block.layer[0].layer_norm, Heads.of(block.layer[0].SelfAttention), FeedForward(block.layer[-1]))
            for block in blocks
        ]
        self.position = blocks[0].layer[0].SelfAttention
        self.final_norm = stack.final_layer_norm

    def numbers_a_token(self, tokens: int) -> int:
        """Activations held at the most for each token of a series of so many: the stream, and one layer's own."""
        d = self.final_norm.weight.shape[0]
        widest = 0
        for _, heads, _ in self.layers:
            if heads is not None:
                scores = 2 * heads.count * tokens if tokens <= _SHORT else 0
                widest = max(widest, heads.count * (3 * heads.d_qk + 3 * heads.d_vo) + scores)
        return 2 * d + widest

    def __call__(self, x: Tensor, packed: Packed) -> Tensor:
        """Encode tokens (n, d); ``x`` is overwritten."""
        bias = self.position.compute_bias(packed.span, packed.span, device=x.device).detach().to(x.dtype)
        for norm, heads, feed_forward in self.layers:
            if heads is not None:
                add_projection(x, _self_attention(normalised(x, norm), heads, packed, heads.biased(bias)), heads.output)
            feed_forward.add(x)
        return normalised(x, self.final_norm)


def _self_attention(x: Tensor, heads: Heads, packed: Packed, bias: Tensor) -> Tensor:
    """What the heads read from tokens (n, d), series by series: (n, h · d_vo)."""
    query, key, value = (project(x, matrices) for matrices in (heads.query, heads.key, heads.value))
    results = []
    for run in packed.runs:
        if run.whole:
            seen = bias[:, :, : run.length, : run.length]
        else:
            places = packed.positions[run.tokens] - packed.positions[run.tokens.start]
            seen = bias[:, :, places[:, None], places[None]]
        q, k, v = (
            part[run.tokens].view(run.count, run.length, heads.count, -1).transpose(1, 2)
            for part in (query, key, value)
        )
        results.append(_attend(q, k, v, seen).transpose(1, 2).flatten(0, 1).flatten(1))
    return results[0] if len(results) == 1 else torch.cat(results)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention: (B, h, L, d_qk), (B, h, L, d_qk), (B, h, L, d_vo) → (B, h, L, d_vo)."""
    if key.shape[2] <= _SHORT and query.device.type == "cpu":
        return (query @ key.transpose(2, 3)).add_(bias).softmax(dim=-1) @ value
    widths = query.shape[-1], value.shape[-1]
    if widths[0] != widths[1]:  # the fused kernel wants one width
        query, key, value = (pad(x, (0, max(widths) - x.shape[-1])) for x in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)[..., : widths[1]]
