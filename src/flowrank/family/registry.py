"""The families that are known: flowrank's own, and those that other packages add.

A package adds families by an entry point, in its ``pyproject.toml``::

    [project.entry-points."flowrank.families"]
    mine = "my_package.family:MyFamily"

A program adds one by `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from flowrank.anatomy import Anatomy
from flowrank.errors import FlowrankError
from flowrank.family.protocol import Family
from flowrank.family.training import Training
from flowrank.nn.config import NarrowConfig

ENTRY_POINTS = "flowrank.families"
_BUILT_IN = "flowrank.families"

_added: list[type[Family]] = []


def register(family: type[Family]) -> type[Family]:
    """Make a family known to this program; may decorate its class.

    Raises
    ------
    FlowrankError
        If another family has its name.
    """
    if any(one.name == family.name and one is not family for one in families()):
        raise FlowrankError("family", expected="a name that no other family has", found=repr(family.name))
    if family not in _added:
        _added.append(family)
    return family


def unregister(family: type[Family]) -> None:
    """Forget a family that `register` made known."""
    _added.remove(family)


def families() -> list[type[Family]]:
    """All of them: added ones first, then other packages', then flowrank's own."""
    return [*_added, *_installed()]


@cache
def _installed() -> tuple[type[Family], ...]:
    others = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    own = []
    for place in import_module(_BUILT_IN).BUILT_IN:
        module, _, name = place.partition(":")
        own.append(getattr(import_module(module), name))
    return (*others, *own)


def trained_families() -> dict[str, type[Family]]:
    """Families whose models can be trained, by what a recipe calls them; the first one is a recipe's default."""
    return {family.training.key: family for family in families() if family.training is not None}


def training_of(key: str) -> Training:
    """How models of a family are trained, by what a recipe calls it."""
    training = trained_families()[key].training
    assert training is not None
    return training


def training_keys() -> tuple[str, ...]:
    """What recipes call families, without loading flowrank's own."""
    own = tuple(import_module(_BUILT_IN).TRAINED)
    added = [*_added, *(point.load() for point in entry_points(group=ENTRY_POINTS))]
    return (*own, *(family.training.key for family in added if family.training is not None))


def family_of(pipeline: Any) -> Family:
    """View of a pipeline.

    Raises
    ------
    FlowrankError
        If its model is of no known family.

    Examples
    --------
    >>> import flowrank
    >>> len(family_of(flowrank.load("flow-bolt-mini")).sites)
    8
    """
    model = getattr(pipeline, "inner_model", None)
    if model is None:
        raise FlowrankError(
            "pipeline",
            expected="a pipeline, as flowrank.load returns",
            found=type(pipeline).__name__,
            todo="open the model with flowrank.load(...)",
        )
    return family_of_model(model, "pipeline")(pipeline)


def family_of_model(model: nn.Module, argument: str = "model") -> type[Family]:
    """Family of a model in memory.

    Raises
    ------
    FlowrankError
        If no family is known that has it.
    """
    for family in families():
        if family.has(model):
            return family
    raise FlowrankError(
        argument,
        expected=f"a model of one of the families {', '.join(one.name for one in families())}",
        found=type(model).__name__,
    )


def family_of_config(config: PreTrainedConfig | Mapping[str, Any], where: str = "in memory") -> type[Family]:
    """Family of the model of a config, or of what stands in ``config.json``.

    Raises
    ------
    FlowrankError
        If no family is known that owns it.
    """
    if isinstance(config, NarrowConfig):
        for family in families():
            if family.name == config.family:
                return family
    raw = config.to_dict() if isinstance(config, PreTrainedConfig) else config
    for family in families():
        if family.owns(raw):
            return family
    kinds = ", ".join(family.name for family in families() if family.pipeline_class is not None)
    todo = "flowrank opens time series models such as amazon/chronos-bolt-small"
    if "chronos_config" in raw and not raw.get("chronos_pipeline_class"):
        todo = "add chronos_pipeline_class, the name of the model's pipeline in chronos-forecasting, to config.json"
    raise FlowrankError(
        "model",
        expected=f"a model of one of the families {kinds}",
        found=f"model_type {raw.get('model_type')!r}, pipeline {raw.get('chronos_pipeline_class')!r}, {where}",
        todo=todo,
    )


def anatomy_of(model: nn.Module) -> Anatomy:
    """Layers of any model of a known family.

    Raises
    ------
    FlowrankError
        If no family is known that has it.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=8))
    >>> [(b.stack, b.layer, [s.kind for s in b.sublayers]) for b in anatomy_of(model).blocks]
    [('decoder', 0, ['self', 'mlp']), ('decoder', 1, ['self', 'mlp'])]
    """
    return family_of_model(model).anatomy_of(model)
