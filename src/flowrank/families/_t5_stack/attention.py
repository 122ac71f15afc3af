"""T5 attention whose heads have widths of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import pad
from transformers import T5Config
from transformers import initialization as init
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.t5 import modeling_t5
from transformers.models.t5.modeling_t5 import T5Attention

from flowrank.nn.factored import draw, linear
from flowrank.nn.heads import HeadLayout
from flowrank.nn.shapes import AttentionShape

# Since transformers 5.15 an attention layer always returns its weights, and a bias without the mask in it. Before, the
# first layer of a stack adds the mask to the bias, and all later ones take it from there.
RETURNS_WEIGHTS = hasattr(modeling_t5, "eager_attention_forward")


class NarrowT5Attention(T5Attention):
    """T5 attention with its own width for every head, and projections that may be two factors.

    Runs wherever a stock `T5Attention` runs: same arguments, same cache, same attention kernels. Heads whose value
    width is 0 are not computed at all.
    """

    def __init__(
        self,
        config: T5Config,
        shape: AttentionShape,
        *,
        has_relative_attention_bias: bool,
        layer_idx: int | None,
        is_causal: bool,
    ) -> None:
        super().__init__(config, has_relative_attention_bias=has_relative_attention_bias, layer_idx=layer_idx)
        self.config, self.is_causal, self.scaling = config, is_causal, 1.0
        self.shape = shape
        active = [head for head, width in enumerate(shape.d_vo) if width > 0]
        self.active_heads: list[int] | None = None if len(active) == self.n_heads else active
        self.query_layout = HeadLayout([shape.d_qk[head] for head in active])
        self.value_layout = HeadLayout([shape.d_vo[head] for head in active])
        for name in ("q", "k", "v", "o"):
            setattr(self, name, self._projection(name))

    def _projection(self, name: str) -> nn.Module:
        width = (self.query_layout if name in "qk" else self.value_layout).total
        size = (width, self.d_model) if name == "o" else (self.d_model, width)
        return linear(*size, self.shape.ranks.get(name))

    def key_value_widths(self) -> tuple[int, int]:
        """Features cached a token, over all heads: of keys, of values."""
        return self.query_layout.total, self.value_layout.total

    @torch.no_grad()
    def initialise(self, factor: float) -> None:
        """Random weights as T5 draws them, at this layer's own widths."""
        d_qk, inner = self.query_layout.widest, max(1, self.value_layout.total)
        spread = {
            "q": (self.d_model * d_qk) ** -0.5,
            "k": self.d_model**-0.5,
            "v": self.d_model**-0.5,
            "o": inner**-0.5,
        }
        for name, std in spread.items():
            projection = getattr(self, name)
            if 0 not in (projection.in_features, projection.out_features):
                draw(projection, factor * std)
        if self.has_relative_attention_bias:
            init.normal_(self.relative_attention_bias.weight, mean=0.0, std=factor * self.d_model**-0.5)

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Attend from ``hidden_states`` (B, L, d) to themselves or to ``key_value_states``.

        The cache comes as ``past_key_values``, or as ``cache`` since transformers 5.24.

        Returns
        -------
        output, position_bias, weights
            (B, L, d); the bias of all heads (1, h, L, L_k) that later layers reuse; the attention weights, where the
            attention implementation gives them. Before transformers 5.15 the last only if ``output_attentions``.
        """
        cache = past_key_values if cache is None else cache
        past_seen = cache.get_seq_length(self.layer_idx) if cache is not None else 0
        past_seen = past_seen.clone() if isinstance(past_seen, Tensor) else past_seen
        query = self.query_layout.split(self.q(hidden_states))
        key, value = self._keys_and_values(hidden_states, key_value_states, cache)

        length, key_length = hidden_states.shape[1], key.shape[-2]
        if position_bias is None:
            if self.has_relative_attention_bias:
                position_bias = self.compute_bias(length, key_length, device=query.device, past_seen_tokens=past_seen)
            else:
                position_bias = query.new_zeros(1, self.n_heads, length, key_length)
            if mask is not None and not RETURNS_WEIGHTS:
                position_bias = position_bias + _additive(mask, query)[..., :key_length]
        if not RETURNS_WEIGHTS:
            mask = None
        if self.value_layout.widths:
            bias = position_bias if self.active_heads is None else position_bias[:, self.active_heads]
            heads_output, weights = self._attend(query, key, value, mask, bias, **kwargs)
            output = self.o(self.value_layout.join(heads_output))
        else:
            output, weights = torch.zeros_like(hidden_states), None
        if RETURNS_WEIGHTS or output_attentions:
            return output, position_bias, weights
        return output, position_bias

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attention by the model's kernel: (B, L, heads, widest value), and the weights where it gives them.

        The fused kernels want queries and values of one width, and fall back to a slow path otherwise. So the narrower
        is padded, except for a single query, where two plain products are faster than copying the keys.
        """
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _attend_explicitly)
        widths = query.shape[-1], value.shape[-1]
        if attend is not _attend_explicitly and widths[0] != widths[1]:
            if query.shape[2] == 1 and not self.training:
                attend, mask = _attend_explicitly, None if mask is None else _additive(mask, query)
            else:
                query, key, value = (pad(x, (0, max(widths) - x.shape[-1])) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, mask, dropout=dropout, scaling=self.scaling, position_bias=bias, **kwargs
        )
        return output[..., : widths[1]], weights

    def _keys_and_values(
        self, hidden_states: Tensor, key_value_states: Tensor | None, past_key_values: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, L_k, widest), from the cache where it has them; the cache holds no padding.

        A static cache has as many heads of values as of keys, so both are kept by head, or neither.
        """
        by_head = self.query_layout.even and self.value_layout.even
        is_cross = key_value_states is not None
        cache, crossing = past_key_values, False
        if isinstance(past_key_values, EncoderDecoderCache):
            crossing = is_cross
            cache = past_key_values.cross_attention_cache if is_cross else past_key_values.self_attention_cache
        if crossing and past_key_values.is_updated.get(self.layer_idx):
            layer = cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            source = hidden_states if key_value_states is None else key_value_states
            key = self.query_layout.stored(self.k(source), by_head=by_head)
            value = self.value_layout.stored(self.v(source), by_head=by_head)
            if cache is not None:
                key, value = cache.update(key, value, self.layer_idx)
                if crossing:
                    past_key_values.is_updated[self.layer_idx] = True
        return self.query_layout.restored(key, by_head=by_head), self.value_layout.restored(value, by_head=by_head)


def _attend_explicitly(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float,
    scaling: float,
    position_bias: Tensor,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention by two plain products: (B, L, heads, widest value), and the weights."""
    scores = query @ key.transpose(2, 3) * scaling + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = dropped(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Turn a mask of booleans (True: attend) into one to add to scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, torch.finfo(like.dtype).min)
