"""From a parent and what replaces its layers to a model of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.shapes import Weights
from flowrank.models import model_class_of
from flowrank.pipelines import FlowrankBoltPipeline, FlowrankT5Pipeline, Pipeline

_EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
_VOCABULARY = (*_EMBEDDINGS, "lm_head")


def around(model: PreTrainedModel) -> Pipeline:
    """Pipeline for a model in memory."""
    if hasattr(model, "input_patch_embedding"):
        return FlowrankBoltPipeline(model)
    return FlowrankT5Pipeline.around(model)


def parent_name(pipeline: Any) -> str:
    """What the pipeline was loaded as."""
    return str(getattr(pipeline, "name", None) or pipeline.inner_model.config._name_or_path or "in memory")


def child_of(parent: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    """A copy of ``parent`` in which some layers are replaced; all other tensors are the parent's own."""
    config = weights.shapes.config(parent.config)
    state = dict(parent.state_dict())
    reference = parent.get_parameter("encoder.final_layer_norm.weight")
    for name, tensors in weights.tensors.items():
        for alias in _EMBEDDINGS if name in _EMBEDDINGS else (name,):
            layers = {""} if name in _VOCABULARY else {f".{suffix.partition('.')[0]}" for suffix in tensors}
            for key in [key for key in state if key.startswith(tuple(f"{alias}{layer}." for layer in layers))]:
                del state[key]
            state |= {f"{alias}.{suffix}": _as_saved(tensor.to(reference)) for suffix, tensor in tensors.items()}
    return assembled(config, state, parent)


def _as_saved(tensor: Tensor) -> Tensor:
    """Give it the strides that it has when it is loaded.

    A single column counts as contiguous with any strides, but MKL sums by them in another order.
    """
    return tensor.clone(memory_format=torch.contiguous_format)


def assembled(config: PreTrainedConfig, state: dict[str, Tensor], parent: PreTrainedModel) -> PreTrainedModel:
    """A model of a config, of these very tensors; all that is no weight is as in ``parent``."""
    with torch.device("meta"):
        child = model_class_of(config)(config)
    child.load_state_dict(state, assign=True)
    _tie_like(child, parent)
    for name, buffer in parent.named_buffers():
        module, _, attribute = name.rpartition(".")
        child.get_submodule(module).register_buffer(attribute, buffer, persistent=False)
    if parent.can_generate():
        child.generation_config = parent.generation_config
    return child.eval().requires_grad_(False)


def _tie_like(child: PreTrainedModel, parent: PreTrainedModel) -> None:
    """Make parameters one object in the child where they are one in the parent (embeddings)."""
    first: dict[int, str] = {}
    own = {name for name, _ in child.named_parameters(remove_duplicate=False)}
    for name, parameter in parent.named_parameters(remove_duplicate=False):
        if name not in own:
            continue
        original = first.setdefault(id(parameter), name)
        if original != name:
            module, _, attribute = name.rpartition(".")
            setattr(child.get_submodule(module), attribute, child.get_parameter(original))
