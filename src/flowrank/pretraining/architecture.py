"""A recipe's model: random weights at each layer's own width, or the weights of another model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.family import Family, Training, anatomy_of, family_of, trained_families
from flowrank.nn.shapes import Shapes
from flowrank.pipelines import Pipeline, load
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.schedule import attention_shapes, layer_widths
from flowrank.randomness import globally_seeded


def build(recipe: Recipe) -> Any:
    """Make the pipeline that training starts from, in float32; its recipe is that of the model it was made of.

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
    family = trained_families()[recipe.family]
    training = family.training
    assert training is not None
    donor = None if recipe.grown_from is None else load(recipe.grown_from, dtype=torch.float32)
    with globally_seeded(recipe.seed):
        config = _config(recipe, family, training)
        model = family.model_class(config)(config)
        training.initialise(model, recipe)
        if donor is not None:
            training.grow(model, donor.inner_model)
    if recipe.token_embedding is not None:
        embedding = load(recipe.token_embedding, dtype=torch.float32).inner_model
        training.reuse_embedding(model, embedding, recipe.token_embedding)
    pipeline = family.pipeline_of(model)
    pipeline.recipe = None if donor is None else donor.recipe
    return pipeline


def adopted(recipe: Recipe, pipeline: Pipeline) -> Recipe:
    """Return the recipe with the data shape (family, lengths, patch, vocabulary) of a model that it starts from."""
    family = family_of(pipeline)
    if family.training is None:
        raise family.lacks("training")
    shape = family.training.fields(pipeline.inner_model.config)
    context, horizon = shape["context_length"], shape["prediction_length"]
    return replace(
        recipe,
        family=family.training.key,
        horizons=tuple(length for length in recipe.horizons if length <= horizon),
        lengths=tuple(length for length in recipe.lengths if length <= context) or (context,),
        **shape,
    )


def trainable(model: PreTrainedModel, recipe: Recipe) -> None:
    """Freeze what the recipe freezes."""
    if recipe.freeze_token_embedding:
        model.get_input_embeddings().requires_grad_(False)


def _config(recipe: Recipe, family: type[Family], training: Training) -> PreTrainedConfig:
    """The dense config of a recipe, or that of narrower heads where it has a schedule."""
    config = training.config(recipe)
    if recipe.schedule is None:
        return config
    with torch.device("meta"):
        anatomy = anatomy_of(family.model_class(config)(config))
    named = {layer.name: layer.depth for layer in anatomy.attention}
    layers = {"layers": anatomy.layers("encoder"), "decoder_layers": anatomy.layers("decoder")}
    widths = layer_widths(recipe.schedule, **layers, d_kv=recipe.d_kv)
    narrow = {layer.name for layer in anatomy.attention if widths[layer.depth] < recipe.d_kv}
    rotary = {layer.name for layer in anatomy.attention if layer.positions.kind == "rotary"}
    shapes = attention_shapes(widths, named, recipe.num_heads, rotary=rotary & narrow)
    return family.narrowed_config(config, Shapes(shapes))
