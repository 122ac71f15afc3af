"""Compressed Chronos models: the stock classes with layers of their own widths."""

from __future__ import annotations

from typing import Any

from chronos.chronos_bolt import ChronosBoltModelForForecasting, ResidualBlock
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    T5ForConditionalGeneration,
    T5PreTrainedModel,
)
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseActDense, T5DenseGatedActDense

from flowrank.errors import FlowrankError
from flowrank.models.attention import CompressedT5Attention
from flowrank.models.config import PROJECTIONS, CompressedT5Config
from flowrank.models.layers import FactoredEmbedding, draw, linear
from flowrank.models.mlp import compressed_mlp
from flowrank.models.quantized import Int8Linear, Int8Weight, quantized_layers


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


def mlp_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every T5 feed-forward layer and residual block by its dotted name, in the order of computation.

    Examples
    --------
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> config = T5Config(d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=1, vocab_size=8)
    >>> list(mlp_layers(T5ForConditionalGeneration(config)))
    ['encoder.block.0.layer.1.DenseReluDense', 'decoder.block.0.layer.2.DenseReluDense']
    """
    kinds = (T5DenseActDense, T5DenseGatedActDense, ResidualBlock)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


class _CompressedMixin(T5PreTrainedModel):
    """Replaces the layers of a stock model by compressed ones, as its config says."""

    config_class = CompressedT5Config

    def __init__(self, config: CompressedT5Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for name, layer in attention_layers(self).items():
            assert isinstance(layer.config, CompressedT5Config)  # its stack's copy of ours
            compressed = CompressedT5Attention(
                layer.config,
                config.shape_of(name),
                has_relative_attention_bias=layer.has_relative_attention_bias,
                layer_idx=layer.layer_idx,
                is_causal=layer.is_causal,
            )
            if _is_real(compressed):
                compressed.initialise(config.initializer_factor)
            self._put(name, compressed)
        self._compress_mlps(config)
        self._compress_vocabulary(config)
        self.post_init()
        self._quantize(config)

    def _compress_mlps(self, config: CompressedT5Config) -> None:
        stock = mlp_layers(self)
        for name in config.entries("mlp_shapes"):
            if name not in stock:
                raise FlowrankError(
                    f"config.json mlp_shapes[{name!r}]",
                    expected="a feed-forward layer or residual block of the model",
                    found=f"{type(self).__name__} without one of that name",
                    todo="restore config.json from the machine that compressed the model",
                )
            compressed = compressed_mlp(stock[name], config, config.mlp_shape_of(name, config.d_ff))
            if _is_real(compressed):
                compressed.initialise(config)
            self._put(name, compressed)

    def _quantize(self, config: CompressedT5Config) -> None:
        dense = {name: layer for name, layer in self.named_modules() if type(layer) is nn.Linear}
        for name in quantized_layers(config):
            if name not in dense:
                raise FlowrankError(
                    "config.json quantization",
                    expected="names of linear layers of the model",
                    found=f"{name!r}, which is none of {type(self).__name__}",
                    todo="restore config.json from the machine that quantized the model",
                )
            self._put(name, Int8Linear(Int8Weight.of(dense[name].weight), dense[name].bias))

    def _compress_vocabulary(self, config: CompressedT5Config) -> None:
        if config.vocabulary_ranks:
            raise FlowrankError(
                "config.json vocabulary_ranks",
                expected=f"none, as {type(self).__name__} has no vocabulary",
                found=repr(config.vocabulary_ranks),
            )

    def _put(self, name: str, layer: nn.Module) -> None:
        """Put a layer in its place, where transformers shall not draw its weights again.

        It lets the T5 stack do so, at the config's one width.
        """
        parent, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(parent), attribute, layer)
        if _is_real(layer):
            for module in layer.modules():
                vars(module)["_is_hf_initialized"] = True


def _is_real(layer: nn.Module) -> bool:
    return next(layer.parameters()).device.type != "meta"


class CompressedT5ForConditionalGeneration(_CompressedMixin, T5ForConditionalGeneration):
    """Chronos-T5's language model with per-layer widths, and a vocabulary that may be two factors."""

    def _compress_vocabulary(self, config: CompressedT5Config) -> None:
        embedding, head = (config.vocabulary_rank_of(part) for part in ("embedding", "head"))
        if embedding is None and head is None:
            return
        lm_head = linear(config.d_model, config.vocab_size, head)
        if embedding is not None:
            shared = FactoredEmbedding(config.vocab_size, config.d_model, embedding)
            if _is_real(shared):
                draw(shared, config.initializer_factor)
            for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
                self._put(name, shared)
        if _is_real(lm_head):
            draw(lm_head, config.initializer_factor)
        self._put("lm_head", lm_head)
        weights = ("weight",) if embedding is None else ("codes.weight", "basis.weight")
        self._tied_weights_keys = {
            f"{stack}.embed_tokens.{weight}": f"shared.{weight}"
            for stack in ("encoder", "decoder")
            for weight in weights
        }

    def _init_weights(self, module: nn.Module) -> None:
        if module is not self or not isinstance(self.shared, FactoredEmbedding):
            super()._init_weights(module)


class CompressedChronosBolt(_CompressedMixin, ChronosBoltModelForForecasting):
    """Chronos-Bolt with per-layer widths."""


AutoConfig.register(CompressedT5Config.model_type, CompressedT5Config)
AutoModelForSeq2SeqLM.register(CompressedT5Config, CompressedT5ForConditionalGeneration)


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a Chronos-T5 or Chronos-Bolt model by its config, stock where no layer has a width of its own.

    Examples
    --------
    >>> from transformers import T5Config
    >>> model_class_of(T5Config()).__name__
    'T5ForConditionalGeneration'
    """
    bolt = "input_patch_size" in (getattr(config, "chronos_config", None) or {})
    if isinstance(config, CompressedT5Config):
        return CompressedChronosBolt if bolt else CompressedT5ForConditionalGeneration
    return ChronosBoltModelForForecasting if bolt else T5ForConditionalGeneration
