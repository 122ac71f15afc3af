"""Which engine computes a pipeline's model, and when its view of the weights is renewed."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.models.t5.modeling_t5 import T5Attention

from flowrank.errors import FlowrankError, check_count
from flowrank.inference.cross import CROSS_CACHES
from flowrank.models.attention import FactoredLinear

ENGINES = ("exact", "stock")
_Engine = TypeVar("_Engine")


class Inference(Generic[_Engine]):
    """How one pipeline computes: by which engine, within which memory.

    Parameters
    ----------
    engine_class
        `T5Engine` or `BoltEngine`: made for the model when it is first needed, and again when a weight has changed.
    """

    def __init__(self, engine_class: type[_Engine]) -> None:
        self._class = engine_class
        self._name = "exact"
        self._cross_cache = "auto"
        self._budget: int | None = None
        self._made: _Engine | None = None
        self._state: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """Either "exact" or "stock"."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if name not in ENGINES:
            raise FlowrankError("engine", expected=f"one of {', '.join(ENGINES)}", found=repr(name))
        self._name = name

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
        self._budget = None if budget is None else check_count(budget, "memory_budget")

    def engine_for(self, model: PreTrainedModel) -> _Engine | None:
        """The engine for the model as it is now; None where the stock code path is wanted, or the only one that can."""
        if self._name == "stock" or model.training:
            return None
        state = _state(model)
        if state != self._state:
            self._made = self._class(model) if _is_plain(model) else None  # type: ignore[call-arg]
            self._state = state
        return self._made


def _state(model: nn.Module) -> tuple[Any, ...]:
    """What changes when a weight is written to, moved or replaced, or a layer is."""
    weights = (
        (id(parameter), parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for parameter in model.parameters()
    )
    return (*map(id, model.modules()), *weights)


def _is_plain(model: nn.Module) -> bool:
    """Whether the attention layers hold plain matrices, all on one device."""
    layers = [module for module in model.modules() if isinstance(module, T5Attention)]
    projections = [getattr(layer, name) for layer in layers for name in "qkvo"]
    return len({parameter.device for parameter in model.parameters()}) == 1 and all(
        type(one) in (nn.Linear, FactoredLinear) for one in projections
    )
