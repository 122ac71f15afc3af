"""An attention layer's weights as exact engines read them, and products of rows and heads with them.

Weights are the model's tensors, uncopied, except for heads of unequal widths, which are padded, and small W_Q, W_K and
W_V, which for few rows are one weight; activations are two-dimensional, one row a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from flowrank.engine.packing import Packed
from flowrank.engine.products import Matrix, Weight, add_product, product
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear
from flowrank.nn.heads import HeadLayout
from flowrank.nn.int8 import Int8Linear, Int8Weight

Matrices = tuple[Matrix, ...]
"""One weight (out, in), or the two factors of one, applied from the left to the right."""

_JOINED = 1 << 20  # numbers of W_Q, W_K and W_V up to which they are joined
_FEW = 512  # rows below which one product instead of three is worth it
SHORT = 64  # up to so many keys, plain products beat the fused kernel


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
    active
        Which of the layer's heads they are; None: all.
    """

    query: Matrices
    key: Matrices
    value: Matrices
    output: Matrices
    count: int
    d_qk: int
    d_vo: int
    active: tuple[int, ...] | None

    @classmethod
    def of(
        cls,
        projections: Sequence[nn.Module],
        queries: HeadLayout,
        values: HeadLayout,
        active: Sequence[int] | None = None,
    ) -> Heads | None:
        """Weights of a layer; None if no head is left.

        Parameters
        ----------
        projections
            Its linear layers W_Q, W_K, W_V and W_O, dense or of two factors.
        queries, values
            Where the features of its heads lie.
        active
            Which heads they are; None: all.
        """
        if not values.widths:
            return None
        query, key, value, output = projections
        return cls(
            _spread(query, queries),
            _spread(key, queries),
            _spread(value, values),
            _gathered(output, values),
            len(values.widths),
            queries.widest,
            values.widest,
            None if active is None else tuple(active),
        )

    @property
    def features(self) -> int:
        """Keys and values of a token, h · (d_qk + d_vo)."""
        return self.count * (self.d_qk + self.d_vo)

    def of_rows(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of rows (n, d), (n, h · width) each."""
        if x.shape[0] >= _FEW or self._joined is None:
            return project(x, self.query), project(x, self.key), project(x, self.value)
        widths = [self.count * width for width in (self.d_qk, self.d_qk, self.d_vo)]
        query, key, value = product(x, self._joined).split(widths, dim=1)
        return query, key, value

    @cached_property
    def _joined(self) -> Weight | None:
        """W_Q, W_K and W_V as one weight; None where they are large, of two factors or of integers."""
        parts = [one for (*before, one) in (self.query, self.key, self.value) if not before]
        weights = [one.tensor for one in parts if isinstance(one, Weight)]
        if len(weights) < 3 or sum(one.numel() for one in weights) > _JOINED:
            return None
        return Weight(torch.cat(weights))

    def to_source(self, query: Tensor) -> Tensor:
        """Map queries (…, h, n, d_qk) by W_K of each head to the space of the tokens they attend to, (…, h, n, d)."""
        *before, last = (matrix.dense() for matrix in self.key)
        query = query @ last.unflatten(0, (self.count, -1))
        for matrix in reversed(before):
            query = query @ matrix
        return query

    def from_source(self, read: Tensor) -> Tensor:
        """Map averages of tokens, (…, h, n, d), by W_V of each head to values, (…, h, n, d_vo)."""
        *before, last = self.value
        read = project(read, tuple(before))
        return read @ last.dense().unflatten(0, (self.count, -1)).transpose(1, 2)

    def biased(self, bias: Tensor) -> Tensor:
        """The heads' part of a position bias (1, heads of the layer, …)."""
        return bias if self.active is None else bias[:, list(self.active)]


def matrices_of(layer: nn.Module) -> Matrices:
    """Weights of a linear layer without a bias."""
    if isinstance(layer, FactoredLinear):
        return matrix_of(layer.down), matrix_of(layer.up)
    return (matrix_of(layer),)


def matrix_of(layer: nn.Module) -> Matrix:
    """Weight of a linear layer that is one matrix."""
    return layer.quantized if isinstance(layer, Int8Linear) else Weight(layer.weight.detach())  # type: ignore[operator]


def _spread(layer: nn.Module, layout: HeadLayout) -> Matrices:
    """Weights whose output features lie on an even grid of heads."""
    *before, last = matrices_of(layer)
    total = len(layout.widths) * layout.widest
    if isinstance(last, Int8Weight):
        return (*before, last if layout.even else last.with_rows(layout.slots(last.values.device), total))
    if not layout.even:
        tensor = last.tensor
        last = Weight(tensor.new_zeros(total, tensor.shape[1]).index_copy_(0, layout.slots(tensor.device), tensor))
    return (*before, last)


def _gathered(layer: nn.Module, layout: HeadLayout) -> Matrices:
    """Weights whose input features lie on an even grid of heads."""
    first, *after = matrices_of(layer)
    total = len(layout.widths) * layout.widest
    if isinstance(first, Int8Weight):
        return (first if layout.even else first.with_columns(layout.slots(first.values.device), total), *after)
    if not layout.even:
        tensor = first.tensor
        first = Weight(tensor.new_zeros(len(tensor), total).index_copy_(1, layout.slots(tensor.device), tensor))
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


class Embedding:
    """An embedding of tokens, dense or of two factors."""

    def __init__(self, layer: nn.Module) -> None:
        self.codes, self.basis = layer, tuple[Matrix, ...]()
        if isinstance(layer, FactoredEmbedding):
            self.codes, self.basis = layer.codes, matrices_of(layer.basis)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Embed token ids (n,) as rows (n, d)."""
        return project(self.codes(tokens), self.basis)


def self_attention(x: Tensor, heads: Heads, packed: Packed, bias: Tensor) -> Tensor:
    """Outputs of the heads on tokens (n, d), series by series: (n, h · d_vo)."""
    query, key, value = heads.of_rows(x)
    results = []
    for run in packed.runs:
        if run.whole:
            biases = bias[:, :, : run.length, : run.length]
        else:
            places = packed.positions[run.tokens] - packed.positions[run.tokens.start]
            biases = bias[:, :, places[:, None], places[None]]
        q, k, v = (
            part[run.tokens].view(run.count, run.length, heads.count, -1).transpose(1, 2)
            for part in (query, key, value)
        )
        results.append(attend(q, k, v, biases).transpose(1, 2).flatten(0, 1).flatten(1))
    return results[0] if len(results) == 1 else torch.cat(results)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention: (B, h, L_q, d_qk), (B, h, L, d_qk), (B, h, L, d_vo) → (B, h, L_q, d_vo)."""
    if key.shape[2] <= SHORT and query.device.type == "cpu":
        if query.shape[0] == 1:
            keys = key[0].transpose(1, 2)
            scores = torch.bmm(query[0], keys) if bias is None else torch.baddbmm(bias[0], query[0], keys)
            return torch.bmm(scores.softmax(dim=-1), value[0])[None]
        scores = query @ key.transpose(2, 3)
        return (scores if bias is None else scores.add_(bias)).softmax(dim=-1) @ value
    widths = query.shape[-1], value.shape[-1]
    if widths[0] != widths[1]:  # the fused kernel wants one width
        query, key, value = (pad(x, (0, max(widths) - x.shape[-1])) for x in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)[..., : widths[1]]
