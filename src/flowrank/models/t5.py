"""Compressed Chronos models: the stock classes with attention layers of their own widths."""

from __future__ import annotations

from typing import Any

from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5ForConditionalGeneration, T5PreTrainedModel
from transformers.models.t5.modeling_t5 import T5Attention

from flowrank.models.attention import CompressedT5Attention
from flowrank.models.config import PROJECTIONS, CompressedT5Config


def attention_layers(model: nn.Module) -> dict[str, T5Attention]:
    """Every T5 attention layer by its dotted name, in the order of computation.

    Examples
    --------
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> config = T5Config(d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=1, vocab_size=8)
    >>> list(attention_layers(T5ForConditionalGeneration(config)))[-1]
    'decoder.block.0.layer.1.EncDecAttention'
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, T5Attention)}


def attention_parameters(model: nn.Module) -> int:
    """Parameters of the query, key, value and output projections of all attention layers.

    Examples
    --------
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> config = T5Config(d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=1, vocab_size=8)
    >>> attention_parameters(T5ForConditionalGeneration(config))
    768
    """
    return sum(
        parameter.numel()
        for layer in attention_layers(model).values()
        for name in PROJECTIONS
        for parameter in getattr(layer, name).parameters()
    )


class _CompressedMixin(T5PreTrainedModel):
    """Replaces the attention layers of a stock model by compressed ones, as its config says."""

    config_class = CompressedT5Config

    def __init__(self, config: CompressedT5Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for name, layer in attention_layers(self).items():
            parent, _, attribute = name.rpartition(".")
            assert isinstance(layer.config, CompressedT5Config)  # its stack's copy of ours
            compressed = CompressedT5Attention(
                layer.config,
                config.shape_of(name),
                has_relative_attention_bias=layer.has_relative_attention_bias,
                layer_idx=layer.layer_idx,
                is_causal=layer.is_causal,
            )
            setattr(self.get_submodule(parent), attribute, compressed)
            if next(compressed.parameters()).device.type != "meta":
                # Here, because transformers lets the T5 stack initialise its layers, at the config's one width.
                compressed.initialise(config.initializer_factor)
                for module in compressed.modules():
                    vars(module)["_is_hf_initialized"] = True
        self.post_init()


class CompressedT5ForConditionalGeneration(_CompressedMixin, T5ForConditionalGeneration):
    """Chronos-T5's language model with per-layer attention widths."""


class CompressedChronosBolt(_CompressedMixin, ChronosBoltModelForForecasting):
    """Chronos-Bolt with per-layer attention widths."""


AutoConfig.register(CompressedT5Config.model_type, CompressedT5Config)
AutoModelForSeq2SeqLM.register(CompressedT5Config, CompressedT5ForConditionalGeneration)
