"""Writing models as graphs that other runtimes open."""

from __future__ import annotations

from flowrank.exporting.writing import FORMATS, OWNED, PRECISIONS, export

__all__ = ["FORMATS", "OWNED", "PRECISIONS", "export"]
