"""Makes chronos-forecasting know flowrank's models, without importing torch until chronos itself is imported.

Transformers and chronos-forecasting find classes in registries that are filled when the classes are defined. So the
models must be defined before ``BaseChronosPipeline.from_pretrained`` runs: at once if chronos is imported already,
else right after it is. Nothing of another library is changed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AfterChronos(importlib.abc.MetaPathFinder):
    """Lets the usual finders find chronos, and defines flowrank's models once it has been executed."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "chronos":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("chronos")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("flowrank.pipelines")

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Define flowrank's models now if chronos is there, else as soon as it is imported."""
    if "chronos" in sys.modules:
        importlib.import_module("flowrank.pipelines")
    elif not any(isinstance(finder, _AfterChronos) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterChronos())
