"""What forecasts with a graph of each kind."""

from __future__ import annotations

from typing import Any

from flowrank.errors import FlowrankError
from flowrank.graphs.facts import Facts
from flowrank.graphs.groups import GroupGraph
from flowrank.graphs.runtimes import Runtime
from flowrank.graphs.series import SeriesGraph

_DRIVERS: dict[str, type[SeriesGraph] | type[GroupGraph]] = {"series": SeriesGraph, "groups": GroupGraph}


def driver_of(runtime: Runtime, facts: Facts) -> Any:
    """The driver of an opened graph: a `SeriesGraph` or a `GroupGraph`.

    Raises
    ------
    FlowrankError
        If the graph is of a kind that this version does not know.
    """
    if facts.kind not in _DRIVERS:
        raise FlowrankError(
            "graph",
            expected=f"a graph of the kind {' or '.join(_DRIVERS)}",
            found=repr(facts.kind),
            todo="pip install --upgrade flowrank",
        )
    return _DRIVERS[facts.kind](runtime, facts)
