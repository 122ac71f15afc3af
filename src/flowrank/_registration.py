"""Makes transformers, and so chronos-forecasting, know flowrank's models, without importing either.

All that others need to know is the ``model_type`` of a config that flowrank wrote: `transformers.AutoConfig` asks for
it first, whoever opens a model. So that is registered as soon as transformers' registry of configs exists: now, or
right after it has been executed. Classes of models and pipelines are defined when such a config is read.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_REGISTRY = "transformers.models.auto.configuration_auto"
_OF_VERSION_0_1 = "flowrank_t5"
_finding = threading.local()


class _Loader(importlib.abc.Loader):
    """Executes a module as its own loader does, then registers flowrank's configs in it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register_configs()


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the usual finders find transformers' registry. Looking for a module changes nothing; executing it does."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _REGISTRY or getattr(_finding, "busy", False):
            return None
        _finding.busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            _finding.busy = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def register() -> None:
    """Register flowrank's configs now if transformers' registry is there, else as soon as it is executed."""
    if _REGISTRY in sys.modules:
        _register_configs()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register_configs() -> None:
    config = importlib.import_module("flowrank.nn.config")
    registry = importlib.import_module(_REGISTRY)
    for kind in (config.SENTENCE, _OF_VERSION_0_1):
        registry.AutoConfig.register(kind, config.opener(kind, _read), exist_ok=True)


def _read(raw: dict[str, Any], **kwargs: Any) -> Any:
    """Config of the family that owns what stands in ``config.json``."""
    family = importlib.import_module("flowrank.family").family_of_config(raw)
    return family.read_config(raw, **kwargs)
