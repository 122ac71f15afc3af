"""Forecasts of a pipeline's model by a graph runtime, in place of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from flowrank.engine.tracing import Graph, onnx_model
from flowrank.graphs import Facts, driver_of, open_graph

_TRIES = 3  # timed forecasts of each engine


class GraphEngine:
    """A model as a graph that a runtime has opened.

    Parameters
    ----------
    graph, facts
        An ONNX model, and what is known of it.
    runtime
        One of `flowrank.graphs.RUNTIMES`.

    Attributes
    ----------
    graph_class
        How models of the family are traced.
    """

    graph_class: ClassVar[type[Graph]]

    def __init__(self, graph: bytes, facts: Facts, runtime: str) -> None:
        self.driver = driver_of(open_graph(graph, runtime, threads=torch.get_num_threads()), facts)

    @classmethod
    def asked(cls, context: np.ndarray, groups: np.ndarray, future: np.ndarray, patches: int) -> tuple[Any, ...]:
        """What ``quantiles`` of the family's engines takes for series (series, time), as `Sample` has them."""
        return (torch.from_numpy(context),)


class Traced:
    """The graph engine of a model, made when first asked for and again when the model changed."""

    def __init__(self, engine_class: type[GraphEngine]) -> None:
        self.engine_class = engine_class
        self._state: Any = None
        self._graph: tuple[bytes, Facts] | None = None
        self._made: dict[str, GraphEngine] = {}

    def engine(self, model: Any, runtime: str, state: int) -> GraphEngine:
        """The engine by a runtime, of the model in the state of that number (`flowrank.engine.watching.Watch`)."""
        now = (state, torch.get_num_threads())
        if self._graph is None or now != self._state:
            graph = self.engine_class.graph_class.of(model)
            self._graph, self._state, self._made = (onnx_model(graph).SerializeToString(), graph.facts), now, {}
        if runtime not in self._made:
            self._made[runtime] = self.engine_class(*self._graph, runtime)
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
        series, points = getattr(inputs, "context", inputs).shape
        size = (series.bit_length(), points.bit_length())  # sizes within a factor of two count as one
        if size in self._chosen:
            return self._makers[self._chosen[size]]().quantiles(inputs, *args, **options)
        seconds: dict[str, float] = {}
        for name, make in self._makers.items():
            engine = make()
            engine.quantiles(inputs, *args, **options)
            for _ in range(_TRIES):
                start = time.perf_counter()
                result = engine.quantiles(inputs, *args, **options)
                seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
        self._chosen[size] = min(seconds, key=seconds.__getitem__)
        return result
