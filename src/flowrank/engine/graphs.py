"""Forecasts of a pipeline's model by a graph runtime, in place of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from flowrank.engine.tracing import Graph, ModelGraph, onnx_model
from flowrank.graphs import Facts, open_driver

_TRIES = 3  # timed forecasts of each engine


@dataclass(frozen=True)
class Parts:
    """A model as functions that can be traced.

    Attributes
    ----------
    graphs
        By the names that the driver of their kind knows.
    facts
        What they read and give.
    """

    graphs: Mapping[str, Graph]
    facts: Facts


class GraphEngine:
    """A model as graphs that a runtime has opened.

    Parameters
    ----------
    graphs, facts
        ONNX models by name, and what is known of them.
    runtime
        One of `flowrank.graphs.RUNTIMES`.

    Attributes
    ----------
    graph_class
        How models of the family are traced, where one graph is a whole model.
    """

    graph_class: ClassVar[type[ModelGraph]]

    def __init__(self, graphs: Mapping[str, bytes], facts: Facts, runtime: str) -> None:
        self.driver = open_driver(graphs, facts, runtime, threads=torch.get_num_threads())

    @classmethod
    def traced(cls, model: Any) -> Parts:
        """The graphs of a model, dense or compressed.

        Raises
        ------
        FlowrankError
            If it has something that graphs of the family do not compute.
        """
        graph = cls.graph_class.of(model)
        return Parts({"model": graph}, graph.facts)

    @classmethod
    def asked(cls, context: np.ndarray, groups: np.ndarray, future: np.ndarray, patches: int) -> tuple[Any, ...]:
        """What ``quantiles`` of the family's engines takes for series (series, time), as `Sample` has them."""
        return (torch.from_numpy(context),)


class Traced:
    """The graph engine of a model, made when first asked for and again when the model changed."""

    def __init__(self, engine_class: type[GraphEngine]) -> None:
        self.engine_class = engine_class
        self._state: Any = None
        self._graphs: tuple[dict[str, bytes], Facts] | None = None
        self._made: dict[str, GraphEngine] = {}

    def engine(self, model: Any, runtime: str, state: int) -> GraphEngine:
        """The engine by a runtime, of the model in the state of that number (`flowrank.engine.watching.Watch`)."""
        now = (state, torch.get_num_threads())
        if self._graphs is None or now != self._state:
            parts = self.engine_class.traced(model)
            graphs = {name: onnx_model(one).SerializeToString() for name, one in parts.graphs.items()}
            self._graphs, self._state, self._made = (graphs, parts.facts), now, {}
        if runtime not in self._made:
            self._made[runtime] = self.engine_class(*self._graphs, runtime)
        return self._made[runtime]

    def __deepcopy__(self, _memo: Any) -> Traced:
        return Traced(self.engine_class)

    def __reduce__(self) -> tuple[Any, ...]:
        return Traced, (self.engine_class,)


class Quickest:
    """Remembers which of several engines was the fastest for forecasts of a size, by a short measurement."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[int, ...], str] = {}
        self._state: Any = None

    def among(self, makers: Mapping[str, Callable[[], Any]], state: int) -> Any:
        """An engine that is the fastest of several; what it knows holds as long as the model stays in one state."""
        now = (state, torch.get_num_threads())
        if now != self._state:
            self._chosen, self._state = {}, now
        return _Choice(makers, self._chosen)

    def __deepcopy__(self, _memo: Any) -> Quickest:
        return Quickest()

    def __reduce__(self) -> tuple[Any, ...]:
        return Quickest, ()


class _Choice:
    """An engine that measures the others once for each size and then calls the fastest of them."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]], chosen: dict[tuple[int, ...], str]) -> None:
        self._makers, self._chosen = makers, chosen

    def quantiles(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """What the fastest engine gives."""
        return self._of_fastest("quantiles", getattr(inputs, "context", inputs), inputs, *args, **options)

    def sample(self, tokens: Any, *args: Any, **options: Any) -> Any:
        """What the fastest engine draws."""
        return self._of_fastest("sample", tokens, tokens, *args, **options)

    def _of_fastest(self, verb: str, sized: Any, *args: Any, **options: Any) -> Any:
        series, points = sized.shape
        size = (series.bit_length(), points.bit_length())  # sizes within a factor of two count as one
        if size in self._chosen:
            return getattr(self._makers[self._chosen[size]](), verb)(*args, **options)
        seconds: dict[str, float] = {}
        for name, make in self._makers.items():
            call = getattr(make(), verb)
            call(*args, **options)
            for _ in range(_TRIES):
                start = time.perf_counter()
                result = call(*args, **options)
                seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
        self._chosen[size] = min(seconds, key=seconds.__getitem__)
        return result
