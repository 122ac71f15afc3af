"""Opening an exported folder."""

from __future__ import annotations

from pathlib import Path

from flowrank.graphs.folder import Export
from flowrank.graphs.model import ExportedModel
from flowrank.graphs.sampler import ExportedSampler


def open_export(
    folder: str | Path, *, engine: str | None = None, threads: int | None = None, memory_budget: int | None = None
) -> ExportedModel:
    """Open a model that `flowrank.export` wrote.

    Parameters
    ----------
    folder
        Where it was written to.
    engine, threads, memory_budget
        As of `ExportedModel`.

    Raises
    ------
    FlowrankError
        If a file is missing or changed, or no runtime for it is installed.
    """
    export = Export.read(folder)
    kind = ExportedSampler if export.facts.kind == "paths" else ExportedModel
    return kind(export, engine=engine, threads=threads, memory_budget=memory_budget)
