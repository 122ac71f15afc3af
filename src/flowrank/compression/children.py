"""Builds the child model from its parent and a plan."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.plan import Plan
from flowrank.family import family_of_config, family_of_model


def pipeline_of(model: PreTrainedModel) -> Any:
    """Pipeline for a model in memory."""
    return family_of_model(model).pipeline_of(model)


def parent_name(pipeline: Any) -> str:
    """Name or path that the pipeline was loaded from."""
    return str(getattr(pipeline, "name", None) or pipeline.inner_model.config._name_or_path or "in memory")


def child_of(parent: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A copy of ``parent`` in which some layers are replaced; all other tensors are the parent's own."""
    family = family_of_model(parent)
    vocabulary = family.anatomy_of(parent).vocabulary
    aliases = () if vocabulary is None else vocabulary.embeddings
    state = dict(parent.state_dict())
    for name, tensors in plan.tensors.items():
        for alias in aliases if name in aliases else (name,):
            for key in [key for key in state if key.startswith(f"{alias}.")]:
                del state[key]
            state |= {
                f"{alias}.{suffix}": _as_saved(tensor.to(parent.device, parent.dtype))
                for suffix, tensor in tensors.items()
            }
    return assembled(family.narrowed_config(parent.config, plan.shapes), state, parent)


def _as_saved(tensor: Tensor) -> Tensor:
    """Give a tensor the strides that it has after it was saved and loaded.

    A single column counts as contiguous with any strides, but MKL sums by them in another order.
    """
    return tensor.clone(memory_format=torch.contiguous_format)


def assembled(config: PreTrainedConfig, state: dict[str, Tensor], parent: PreTrainedModel) -> PreTrainedModel:
    """A model of a config that holds these tensors, uncopied; all its other attributes are as in ``parent``."""
    with torch.device("meta"):
        child = family_of_config(config).model_class(config)(config)
    child.load_state_dict(state, assign=True)
    _tie_like(child, parent)
    for name, buffer in parent.named_buffers():
        module, _, attribute = name.rpartition(".")
        with suppress(AttributeError):  # a smaller layer may have none
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
