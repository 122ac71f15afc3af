"""Layers of a model by name, and models with layers of given sizes."""

from __future__ import annotations

from chronos.chronos2.config import Chronos2CoreConfig

from flowrank.families.chronos2.model import NarrowChronos2, NarrowChronos2Config
from flowrank.families.chronos_bolt.model import NarrowChronosBolt, NarrowChronosBoltConfig
from flowrank.families.chronos_t5.model import NarrowChronosT5, NarrowChronosT5Config
from flowrank.family import anatomy_of
from flowrank.nn.shapes import VERSION


def attention_layers(model):
    """Every attention layer by its dotted name, in the order of computation."""
    return {layer.name: layer.module for layer in anatomy_of(model).attention}


def mlp_layers(model):
    """Every feed-forward layer and residual block by its dotted name, in the order of computation."""
    return {layer.name: layer.module for layer in anatomy_of(model).mlps}


def attention_parameters(model):
    return anatomy_of(model).parameters_of_attention()


def narrow_config(model_or_config, *, bolt=None, **sizes):
    """The config of a model, but for sizes of layers: attention, mlp, vocabulary, int8, univariate."""
    config = getattr(model_or_config, "config", model_or_config)
    raw = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures", "flowrank")}
    chronos = raw.get("chronos_config", {})
    kind = NarrowChronosBoltConfig if "input_patch_size" in chronos else NarrowChronosT5Config
    if isinstance(config, Chronos2CoreConfig):
        kind = NarrowChronos2Config
    elif bolt is not None:
        kind = NarrowChronosBoltConfig if bolt else NarrowChronosT5Config
    sizes = {key: value for key, value in sizes.items() if value is not None}
    return kind(**raw, flowrank={"version": VERSION, **sizes})


def narrow_model(model_or_config, **sizes):
    """A model of that config, with random weights."""
    config = narrow_config(model_or_config, **sizes)
    classes = {NarrowChronos2Config: NarrowChronos2, NarrowChronosBoltConfig: NarrowChronosBolt}
    return classes.get(type(config), NarrowChronosT5)(config)
