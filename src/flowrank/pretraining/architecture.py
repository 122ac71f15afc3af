"""A recipe's model: random weights at each layer's own width, or the weights of another model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ResidualBlock
from torch import nn
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from flowrank.errors import FlowrankError
from flowrank.models import (
    CompressedChronosBolt,
    CompressedT5Config,
    CompressedT5ForConditionalGeneration,
)
from flowrank.pipelines import FlowrankBoltPipeline, FlowrankT5Pipeline, Pipeline, load
from flowrank.pretraining.growth import grow
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.schedule import attention_shapes, layer_widths

SPECIAL_TOKENS = 2  # padding, end of sequence


def build(recipe: Recipe) -> Pipeline:
    """Make the pipeline that training starts from, in float32.

    Raises
    ------
    FlowrankError
        If explicit widths do not fit the layers, or the model to start from or to take the embedding of does not fit.

    Examples
    --------
    >>> recipe = Recipe(d_model=32, d_kv=8, d_ff=32, num_heads=2, num_layers=1, max_steps=1)
    >>> build(recipe).inner_model.config.num_decoder_layers
    1
    """
    if recipe.initial_model is not None:
        return load(recipe.initial_model, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _model(recipe)
        _spread_patches(model, recipe.patch_spread * recipe.initializer_factor)
        _scale_output(model, recipe)
        if recipe.grown_from is not None:
            grow(model, load(recipe.grown_from, dtype=torch.float32).inner_model)
    if recipe.family == "bolt":
        return FlowrankBoltPipeline(model=model)
    if recipe.token_embedding is not None:
        _reuse_embedding(model, recipe.token_embedding)
    return FlowrankT5Pipeline.around(model)


def adopted(recipe: Recipe, pipeline: Pipeline) -> Recipe:
    """Return the recipe with the data shape (family, lengths, patch, vocabulary) of a model that it starts from."""
    config = pipeline.inner_model.config
    chronos = config.chronos_config
    bolt = isinstance(pipeline, FlowrankBoltPipeline)
    context = int(chronos["context_length"])
    horizon = int(chronos["prediction_length"])
    shape: dict[str, Any] = {
        "family": "bolt" if bolt else "t5",
        "context_length": context,
        "prediction_length": horizon,
        "horizons": tuple(length for length in recipe.horizons if length <= horizon),
        "lengths": tuple(length for length in recipe.lengths if length <= context) or (context,),
        "dropout_rate": float(config.dropout_rate),
    }
    for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers"):
        shape[name] = int(getattr(config, name))
    if bolt:
        shape |= {"input_patch_size": chronos["input_patch_size"], "quantiles": tuple(chronos["quantiles"])}
    else:
        shape |= {"n_tokens": chronos["n_tokens"], "use_eos_token": chronos["use_eos_token"]}
        shape["tokenizer_limit"] = float(chronos["tokenizer_kwargs"]["high_limit"])
    return replace(recipe, **shape)


def trainable(model: PreTrainedModel, recipe: Recipe) -> None:
    """Freeze what the recipe freezes."""
    if recipe.freeze_token_embedding:
        model.get_input_embeddings().requires_grad_(False)


def _model(recipe: Recipe) -> PreTrainedModel:
    bolt = recipe.family == "bolt"
    common: dict[str, Any] = {
        "d_model": recipe.d_model,
        "d_kv": recipe.d_kv,
        "d_ff": recipe.d_ff,
        "num_heads": recipe.num_heads,
        "num_layers": recipe.num_layers,
        "num_decoder_layers": recipe.decoder_layers,
        "relative_attention_num_buckets": recipe.relative_attention_num_buckets,
        "relative_attention_max_distance": recipe.relative_attention_max_distance,
        "dropout_rate": recipe.dropout_rate,
        "initializer_factor": recipe.initializer_factor,
        "vocab_size": 2 if bolt else recipe.n_tokens,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    config: Any
    if recipe.schedule is None:
        config = T5Config(**common)
    else:
        layers, decoder_layers = recipe.num_layers, recipe.decoder_layers
        widths = layer_widths(recipe.schedule, layers=layers, decoder_layers=decoder_layers, d_kv=recipe.d_kv)
        shapes = attention_shapes(widths, layers=layers, decoder_layers=decoder_layers, heads=recipe.num_heads)
        config = CompressedT5Config(**common, attention_shapes=shapes)
    dense = recipe.schedule is None
    if bolt:
        config.chronos_config = _bolt_settings(recipe)
        config.chronos_pipeline_class = "ChronosBoltPipeline"
        return (ChronosBoltModelForForecasting if dense else CompressedChronosBolt)(config)
    config.chronos_config = t5_settings(recipe)
    config.chronos_pipeline_class = "ChronosPipeline"
    return (T5ForConditionalGeneration if dense else CompressedT5ForConditionalGeneration)(config)


def _bolt_settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "context_length": recipe.context_length,
        "prediction_length": recipe.prediction_length,
        "input_patch_size": recipe.input_patch_size,
        "input_patch_stride": recipe.input_patch_size,
        "quantiles": list(recipe.quantiles),
        "use_reg_token": True,
    }


def t5_settings(recipe: Recipe) -> dict[str, Any]:
    """What chronos-forecasting keeps in the config of a Chronos-T5 model: its tokenizer and how it samples."""
    return {
        "tokenizer_class": "MeanScaleUniformBins",
        "tokenizer_kwargs": {"low_limit": -recipe.tokenizer_limit, "high_limit": recipe.tokenizer_limit},
        "context_length": recipe.context_length,
        "prediction_length": recipe.prediction_length,
        "n_tokens": recipe.n_tokens,
        "n_special_tokens": SPECIAL_TOKENS,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "use_eos_token": recipe.use_eos_token,
        "model_type": "seq2seq",
        "num_samples": 20,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    }


@torch.no_grad()
def _spread_patches(model: nn.Module, spread: float) -> None:
    """Draw the weights of Bolt's patch blocks, which transformers 5 leaves to the scale of its own choice."""
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            for layer in (module.hidden_layer, module.output_layer, module.residual_layer):
                layer.weight.normal_(0.0, spread)
                layer.bias.zero_()


@torch.no_grad()
def _scale_output(model: nn.Module, recipe: Recipe) -> None:
    """Shrink what forecasts are read off: at the scale of the rest it starts far off the targets and learns slowly."""
    if recipe.family == "t5":
        model.get_parameter("shared.weight").mul_(recipe.output_scale)
        return
    block = model.get_submodule("output_patch_embedding")
    for name in ("output_layer", "residual_layer"):
        block.get_parameter(f"{name}.weight").mul_(recipe.output_scale)


@torch.no_grad()
def _reuse_embedding(model: PreTrainedModel, source: str) -> None:
    layer: Any = load(source, dtype=torch.float32).inner_model.get_input_embeddings()
    donor = layer(torch.arange(layer.num_embeddings))
    own = model.get_input_embeddings().get_parameter("weight")
    if donor.shape != own.shape:
        raise FlowrankError(
            "token_embedding",
            expected=f"a Chronos-T5 model with n_tokens × d_model = {tuple(own.shape)}",
            found=f"{source!r}, whose embedding is {tuple(donor.shape)}",
        )
    own.copy_(donor)
