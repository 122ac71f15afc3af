"""T5 models whose layers have widths of their own."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseActDense, T5DenseGatedActDense

from flowrank.families._t5_stack.attention import NarrowT5Attention
from flowrank.families._t5_stack.mlp import narrow_feed_forward
from flowrank.nn.narrowed import NarrowModel, is_real
from flowrank.nn.shapes import AttentionShape, MlpShape


class NarrowT5Model(NarrowModel):
    """Part of a model class that swaps the layers of its T5 stacks."""

    def narrow_attention(self, layer: nn.Module, shape: AttentionShape, name: str) -> nn.Module:
        """Make the attention layer that stands in for a stock one."""
        if not isinstance(layer, T5Attention):
            return super().narrow_attention(layer, shape, name)
        stack: Any = self.get_submodule(name.partition(".")[0])
        config: Any = stack.config  # a copy of ours
        made = NarrowT5Attention(
            config,
            shape.check(config.num_heads, where=name),
            has_relative_attention_bias=layer.has_relative_attention_bias,
            layer_idx=layer.layer_idx,
            is_causal=config.is_decoder and name.endswith(".SelfAttention"),
        )
        if is_real(made):
            made.initialise(self.config.initializer_factor)
        return made

    def narrow_mlp(self, layer: nn.Module, shape: MlpShape, name: str) -> nn.Module:
        """Make the feed-forward layer that stands in for a stock one."""
        if not isinstance(layer, T5DenseActDense | T5DenseGatedActDense):
            return super().narrow_mlp(layer, shape, name)
        config: Any = self.config
        made = narrow_feed_forward(layer, config, shape, name)
        if is_real(made):
            made.initialise(config)
        return made
