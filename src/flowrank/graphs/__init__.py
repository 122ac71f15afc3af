"""Models as graphs: opening them in a runtime, and forecasting with numpy alone. Nothing here needs torch."""

from __future__ import annotations

from flowrank.graphs.drivers import open_driver
from flowrank.graphs.facts import Facts
from flowrank.graphs.folder import MANIFEST, Export, is_export
from flowrank.graphs.groups import GroupGraph
from flowrank.graphs.model import ExportedModel
from flowrank.graphs.opening import open_export
from flowrank.graphs.paths import PathsGraph
from flowrank.graphs.runtimes import RUNTIMES, Runtime, check_installed, installed, open_graph
from flowrank.graphs.sampler import ExportedSampler
from flowrank.graphs.series import SeriesGraph
from flowrank.graphs.tokens import Draws, Tokens

__all__ = [
    "MANIFEST",
    "RUNTIMES",
    "Draws",
    "Export",
    "ExportedModel",
    "ExportedSampler",
    "Facts",
    "GroupGraph",
    "PathsGraph",
    "Runtime",
    "SeriesGraph",
    "Tokens",
    "check_installed",
    "installed",
    "is_export",
    "open_driver",
    "open_export",
    "open_graph",
]
