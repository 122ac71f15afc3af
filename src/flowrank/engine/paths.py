"""Which code path computes a pipeline's model, and whether the exact one can."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from flowrank.engine.cross import CROSS_CACHES
from flowrank.engine.graphs import GraphEngine, Quickest, Traced
from flowrank.engine.watching import Watch
from flowrank.errors import FlowrankError, check_count
from flowrank.graphs import RUNTIMES, check_installed, installed
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear, Unchanged
from flowrank.nn.int8 import Int8Linear

FASTEST = "fastest"
ENGINES = ("exact", "stock", *RUNTIMES, FASTEST)
_Engine = TypeVar("_Engine", bound="Engine")

_PLAIN = (
    *(FactoredLinear, FactoredEmbedding, Int8Linear, Unchanged),
    *(nn.Linear, nn.Embedding, nn.Dropout, nn.ModuleList, nn.ReLU),
)


class Engine:
    """Base of the exact engines of model families: checks which models an engine can compute.

    Attributes
    ----------
    computed
        Classes of modules that it computes, apart from linear layers and embeddings, dense or smaller.
    with_biases
        Those of them whose linear layers may add a bias.
    """

    computed: ClassVar[tuple[type[nn.Module], ...]] = ()
    with_biases: ClassVar[tuple[type[nn.Module], ...]] = ()

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def knows(cls, model: Any) -> bool:
        """Whether it computes all that the model does.

        The model must be in eval mode, outside autocast and without hooks, on one device and in one number type other
        than fp16 (in which T5 keeps some weights in fp32).
        """
        kinds: set[tuple[torch.device, torch.dtype]] = set()
        known = (*_PLAIN, *cls.computed)
        for name, module, parent in _below(model):
            if not (_is_plain(module) and (module is model or type(module) in known or name == "act")):
                return False
            weights = module._parameters
            if type(module) is nn.Linear and "weight" not in weights:
                return False
            inner = type(parent) is FactoredLinear and name == "up"
            if _has_bias(module) and type(parent) not in cls.with_biases and not inner:
                return False
            found = (one for one in weights.values() if one is not None and one.dtype != torch.int8)
            kinds.update((one.device, one.dtype) for one in found)
        if len(kinds) != 1:
            return False
        ((device, dtype),) = kinds
        return dtype != torch.float16 and not torch.is_autocast_enabled(device.type)


class Inference(Generic[_Engine]):
    """How one pipeline computes: by which engine, within which memory.

    Parameters
    ----------
    engine_class
        Engine of the model's family; None: there is none, and only the stock code path can be used. An instance is kept
        as long as the model stays as it is (`flowrank.engine.watching.Watch`).
    graph_engine
        How the family's models run in a graph runtime; None: they do not.
    """

    def __init__(self, engine_class: type[_Engine] | None, graph_engine: type[GraphEngine] | None = None) -> None:
        self._class = engine_class
        self._traced = None if graph_engine is None else Traced(graph_engine)
        self._quickest = Quickest()
        self._watch, self._state = Watch(), 0
        self._known = False
        self._exact: _Engine | None = None
        self._name = "exact"
        self._cross_cache = "auto"
        self._budget: int | None = None

    @property
    def engine_class(self) -> type[_Engine] | None:
        """Engine of the model's family."""
        return self._class

    @property
    def graph_engine(self) -> type[GraphEngine] | None:
        """How the family's models run in a graph runtime."""
        return None if self._traced is None else self._traced.engine_class

    @property
    def name(self) -> str:
        """One of `ENGINES`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if check_engine(name) in RUNTIMES:
            if self._traced is None:
                raise FlowrankError(
                    "engine",
                    expected="exact, stock or fastest, for a model of this family",
                    found=repr(name),
                    todo="see the table of families and capabilities in the README",
                )
            check_installed(name)
        self._name = name

    @property
    def cross_cache(self) -> str:
        """What cross-attention keeps of a context where tokens are decoded one by one: "auto", "keys" or "latent"."""
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

    def engine_for(self, model: PreTrainedModel) -> Any:
        """An engine for the current model; None where the stock code path is chosen, or is the only one possible.

        Raises
        ------
        FlowrankError
            If a graph runtime is chosen and the model is not on the CPU.
        """
        path = self.path_for(model)
        if path == "stock":
            return None
        if path == "exact":
            return self._exact_engine(model)
        assert self._traced is not None
        traced, state = self._traced, self._state
        if path == FASTEST:
            makers = {name: partial(traced.engine, model, name, state) for name in installed()}
            return self._quickest.among({"exact": lambda: self._exact_engine(model), **makers}, state)
        if model.device.type != "cpu":
            raise FlowrankError(
                "engine",
                expected="exact or stock, for a model on a GPU: graph runtimes run on the CPU here",
                found=repr(path),
                todo='load the model with device_map="cpu"',
            )
        return traced.engine(model, path, state)

    def path_for(self, model: PreTrainedModel) -> str:
        """The code path that a forecast would take now."""
        if self._name == "stock" or self._class is None or not self._knows(model):
            return "stock"
        if self._name == FASTEST and (self._traced is None or model.device.type != "cpu"):
            return "exact"
        return self._name

    def _knows(self, model: PreTrainedModel) -> bool:
        """Whether the engine computes the model as it is now; what was made of an earlier state is dropped."""
        assert self._class is not None
        state = self._watch.number(model)
        if state != self._state:
            self._state, self._known, self._exact = state, self._class.knows(model), None
        return self._known

    def _exact_engine(self, model: PreTrainedModel) -> _Engine:
        assert self._class is not None
        engine = self._exact
        if engine is None:
            engine = self._exact = self._class(model)
        return engine

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: the choices, without what was made of the model."""
        return {**self.__dict__, "_watch": Watch(), "_state": 0, "_known": False, "_exact": None}


def check_engine(name: str, argument: str = "engine") -> str:
    """Return the name of an engine, or refuse it."""
    if name not in ENGINES:
        raise FlowrankError(argument, expected=f"one of {', '.join(ENGINES)}", found=repr(name))
    return name


def check_budget(budget: int | None) -> int | None:
    """Return a number of bytes or None, or refuse it."""
    return None if budget is None else check_count(budget, "memory_budget")


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
    """Whether a linear layer, dense or of two factors, has a bias."""
    last = module._modules.get("up") if type(module) is FactoredLinear else module
    return isinstance(last, nn.Linear | Int8Linear) and last._parameters.get("bias") is not None


def _is_plain(module: nn.Module) -> bool:
    """Whether a module computes what its class does: no hooks, eval mode, ``forward`` not replaced."""
    if module.training or "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
        return False
    return not (module._backward_hooks or module._backward_pre_hooks)
