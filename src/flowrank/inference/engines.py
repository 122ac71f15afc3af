"""Which code path computes a pipeline's model, and whether the exact one can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from chronos.chronos_bolt import InstanceNorm, Patch, ResidualBlock
from torch import nn
from transformers import PreTrainedModel
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Block,
    T5DenseActDense,
    T5DenseGatedActDense,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5LayerSelfAttention,
    T5Stack,
)

from flowrank.errors import FlowrankError, check_count
from flowrank.inference.cross import CROSS_CACHES
from flowrank.models.attention import CompressedT5Attention
from flowrank.models.layers import FactoredEmbedding, FactoredLinear
from flowrank.models.mlp import CompressedResidualBlock, CompressedT5DenseActDense, CompressedT5DenseGatedActDense
from flowrank.models.quantized import Int8Linear

ENGINES = ("exact", "stock")
_Engine = TypeVar("_Engine")

_BLOCKS = (ResidualBlock, CompressedResidualBlock)
_KNOWN = (
    *(T5Attention, CompressedT5Attention, FactoredLinear, FactoredEmbedding, Int8Linear),
    *(T5Stack, T5Block, T5LayerSelfAttention, T5LayerCrossAttention, T5LayerFF),
    *(T5DenseActDense, T5DenseGatedActDense, T5LayerNorm),
    *(CompressedT5DenseActDense, CompressedT5DenseGatedActDense),
    *(*_BLOCKS, Patch, InstanceNorm),
    *(nn.Linear, nn.Embedding, nn.Dropout, nn.ModuleList, nn.ReLU),
)
_PLAIN_GENERATION = frozenset(  # settings that change no draw, or that every forecast sets itself
    (
        *("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache"),
        *("output_attentions", "output_hidden_states", "transformers_version"),
        *("do_sample", "temperature", "top_k", "top_p", "min_new_tokens", "max_new_tokens", "num_return_sequences"),
    )
)


class Inference(Generic[_Engine]):
    """How one pipeline computes: by which engine, within which memory.

    Parameters
    ----------
    engine_class
        `T5Engine` or `BoltEngine`. One is made for each forecast, so it sees the weights as they are.
    """

    def __init__(self, engine_class: type[_Engine]) -> None:
        self._class = engine_class
        self._name = "exact"
        self._cross_cache = "auto"
        self._budget: int | None = None

    @property
    def name(self) -> str:
        """Either "exact" or "stock"."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = check_engine(name)

    @property
    def cross_cache(self) -> str:
        """What Chronos-T5's cross-attention keeps of a context: "auto", "keys" or "latent"."""
        return self._cross_cache

    @cross_cache.setter
    def cross_cache(self, choice: str) -> None:
        if choice not in CROSS_CACHES:
            raise FlowrankError("cross_cache", expected=f"one of {', '.join(CROSS_CACHES)}", found=repr(choice))
        self._cross_cache = choice

    @property
    def memory_budget(self) -> int | None:
        """Bytes for activations and caches; None: the default of the device."""
        return self._budget

    @memory_budget.setter
    def memory_budget(self, budget: int | None) -> None:
        self._budget = check_budget(budget)

    def engine_for(self, model: PreTrainedModel) -> _Engine | None:
        """An engine for the model as it is now; None where the stock code path is wanted, or the only one that can."""
        if self._name == "stock" or not knows(model):
            return None
        return self._class(model)  # type: ignore[call-arg]

    def path_for(self, model: PreTrainedModel) -> str:
        """The code path that a forecast of the model takes now."""
        return "exact" if self._name == "exact" and knows(model) else "stock"


def check_engine(name: str, argument: str = "engine") -> str:
    """Return the name of an engine, or refuse it."""
    if name not in ENGINES:
        raise FlowrankError(argument, expected=f"one of {', '.join(ENGINES)}", found=repr(name))
    return name


def check_budget(budget: int | None) -> int | None:
    """Return a number of bytes or None, or refuse it."""
    return None if budget is None else check_count(budget, "memory_budget")


def knows(model: PreTrainedModel) -> bool:
    """Whether the exact engine computes all that the model does.

    It knows T5 layers, stock and compressed, of plain matrices, and Bolt's patches, in one number type other than fp16
    (in which T5 keeps a part in fp32) and on one device, in eval mode and outside autocast; no hooks; and no rule of
    generation beyond temperature, top-k and top-p.
    """
    if hasattr(model, "lm_head") and not _generates_plainly(model):
        return False
    kinds: set[tuple[torch.device, torch.dtype]] = set()
    for name, module, parent in _below(model):
        if not (_is_plain(module) and (module is model or type(module) in _KNOWN or name == "act")):
            return False
        weights = module._parameters
        if type(module) is nn.Linear and "weight" not in weights:
            return False
        if _has_bias(module) and type(parent) not in _BLOCKS and not (type(parent) is FactoredLinear and name == "up"):
            return False
        kinds.update((one.device, one.dtype) for one in weights.values() if one is not None and one.dtype != torch.int8)
    if len(kinds) != 1:
        return False
    ((device, dtype),) = kinds
    return dtype != torch.float16 and not torch.is_autocast_enabled(device.type)


def _below(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """A model and every module in it: its name there, itself, and what it is part of."""
    yield "", model, model
    parents = [model]
    while parents:
        parent = parents.pop()
        for name, module in parent._modules.items():
            if module is not None:
                yield name, module, parent
                if module._modules:
                    parents.append(module)


def _has_bias(module: nn.Module) -> bool:
    """Whether a linear layer, dense or of two factors, adds something."""
    last = module._modules.get("up") if type(module) is FactoredLinear else module
    return isinstance(last, nn.Linear | Int8Linear) and last._parameters.get("bias") is not None


def _is_plain(module: nn.Module) -> bool:
    """Whether a module does what its class says: no hooks, no training, no forward of its own."""
    if module.training or "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
        return False
    return not (module._backward_hooks or module._backward_pre_hooks)


def _generates_plainly(model: Any) -> bool:
    config = model.generation_config
    changed = {} if config is None else config.to_diff_dict()
    return {key for key in changed if not key.startswith("_")} <= _PLAIN_GENERATION
