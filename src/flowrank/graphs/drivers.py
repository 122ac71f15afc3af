"""What forecasts with graphs of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.graphs.facts import Facts
from flowrank.graphs.groups import GroupGraph
from flowrank.graphs.paths import PathsGraph
from flowrank.graphs.runtimes import open_graph
from flowrank.graphs.series import SeriesGraph

_DRIVERS: dict[str, Any] = {"series": SeriesGraph, "groups": GroupGraph, "paths": PathsGraph}


def parts_of(facts: Facts) -> tuple[str, ...]:
    """Names of the graphs that a model of a kind has.

    Raises
    ------
    FlowrankError
        If they are of a kind that this version does not know.
    """
    if facts.kind not in _DRIVERS:
        raise FlowrankError(
            "graph",
            expected=f"a graph of the kind {' or '.join(_DRIVERS)}",
            found=repr(facts.kind),
            todo="pip install --upgrade flowrank",
        )
    parts: tuple[str, ...] = _DRIVERS[facts.kind].parts
    return parts


def open_driver(
    graphs: Mapping[str, Path | bytes],
    facts: Facts,
    runtime: str,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    needs: str = "",
) -> Any:
    """Open a model's graphs: a `SeriesGraph`, a `GroupGraph` or a `PathsGraph`.

    Parameters
    ----------
    graphs
        Files, or the bytes of ONNX models, by the names of `parts_of`.
    facts
        What they read and give.
    runtime, threads, precision, needs
        As of `open_graph`.

    Raises
    ------
    FlowrankError
        If they are of a kind that this version does not know; or as `open_graph`.
    """
    opened = [
        open_graph(graphs[part], runtime, threads=threads, precision=precision, needs=needs) for part in parts_of(facts)
    ]
    return _DRIVERS[facts.kind](*opened, facts)
