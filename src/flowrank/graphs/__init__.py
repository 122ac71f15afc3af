"""Models as graphs: opening them in a runtime, and forecasting with numpy alone. Nothing here needs torch."""

from __future__ import annotations

from flowrank.graphs.drivers import driver_of
from flowrank.graphs.facts import Facts
from flowrank.graphs.folder import MANIFEST, Export, is_export
from flowrank.graphs.groups import GroupGraph
from flowrank.graphs.model import ExportedModel
from flowrank.graphs.runtimes import RUNTIMES, Runtime, check_installed, installed, open_graph
from flowrank.graphs.series import SeriesGraph

__all__ = [
    "MANIFEST",
    "RUNTIMES",
    "Export",
    "ExportedModel",
    "Facts",
    "GroupGraph",
    "Runtime",
    "SeriesGraph",
    "check_installed",
    "driver_of",
    "installed",
    "is_export",
    "open_graph",
]
