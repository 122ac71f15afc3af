"""The folder of an exported model: a graph, what is known of it, and a digest of each file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.graphs.drivers import parts_of
from flowrank.graphs.facts import Facts

MANIFEST = "export.json"
VERSION = 1
ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}
"""Of a graph's file, by format."""


@dataclass(frozen=True)
class Export:
    """What stands in an exported folder.

    Attributes
    ----------
    folder
        Where it is.
    manifest
        All of ``export.json``.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Export:
        """Open a folder, after checking that its files are those that were written.

        Raises
        ------
        FlowrankError
            If ``export.json`` is unreadable or of a later version, or a file is missing or has another digest.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            found = manifest["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlowrankError(
                "model",
                expected=f"a folder with {MANIFEST}, as flowrank export writes it",
                found=f"{folder}: {error}",
                todo="export the model again",
            ) from error
        if found != VERSION:
            raise FlowrankError(
                "model",
                expected=f"an export of version {VERSION}",
                found=f"version {found} in {folder / MANIFEST}",
                todo="pip install --upgrade flowrank, or export the model again",
            )
        export = cls(folder, manifest)
        export._check_files()
        return export

    def _check_files(self) -> None:
        for name, expected in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file():
                raise FlowrankError(
                    "model", expected=f"the file {name}", found=f"none in {self.folder}", todo="copy the whole folder"
                )
            if digest(path) != expected:
                raise FlowrankError(
                    "model",
                    expected=f"{name} with the sha256 that {MANIFEST} tells, {expected[:12]}…",
                    found=f"{digest(path)[:12]}… in {self.folder}",
                    todo="the file was changed or is not whole: copy the folder again, or export the model again",
                )

    @property
    def graphs(self) -> dict[str, Path]:
        """The file of each graph, by name."""
        return {part: self.folder / f"{part}{ENDINGS[self.manifest['format']]}" for part in parts_of(self.facts)}

    @property
    def facts(self) -> Facts:
        """What the graph reads and gives."""
        return Facts.from_dict(self.manifest["graph"])


def is_export(source: str | Path) -> bool:
    """Whether a folder holds an exported model."""
    return (Path(source) / MANIFEST).is_file()


def digest(path: Path) -> str:
    """The sha256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
