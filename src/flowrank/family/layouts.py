"""Sizes and kinds of all layers of a model by its config alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from transformers import PreTrainedConfig

from flowrank.anatomy import Layer
from flowrank.family.protocol import shapes_of
from flowrank.family.registry import family_of_config
from flowrank.nn.shapes import KEY, Shapes


@dataclass(frozen=True)
class Layout:
    """All layers of a model.

    Attributes
    ----------
    shapes
        Sizes of every layer, dense ones too.
    dense
        Those of a model in which every layer is dense.
    kinds
        What each layer is, by name (`flowrank.family.Family.layer_kind`).
    vocabulary
        Kind of the tokens' embedding and head; None without any.
    inner
        Layers of the blocks, as opposed to the ends.
    single_key
        Attention layers that see one key.
    around
        Name of the linear layer that goes around the neurons of a residual block, by block.
    """

    shapes: Shapes
    dense: Shapes
    kinds: dict[str, str]
    vocabulary: str | None
    inner: frozenset[str]
    single_key: frozenset[str]
    around: dict[str, str]

    def residual(self, name: str) -> dict[str, int]:
        """Rank of the residual path of a block, which stays when its neurons become fewer."""
        ranks = self.shapes.mlp[name].ranks
        return {layer: rank for layer, rank in ranks.items() if layer == self.around.get(name)}


def layout_of(config: PreTrainedConfig) -> Layout:
    """Layers of a model that has this config, without making it: its dense one is made once, without weights."""
    raw = {key: value for key, value in config.to_dict().items() if key not in (KEY, "architectures", "model_type")}
    dense = _dense(family_of_config(config).name, json.dumps(raw, default=str, sort_keys=True), _Hidden(config))
    return replace(dense, shapes=dense.shapes.updated(Shapes.of(config)))


class _Hidden:
    """A config that goes with a cache's key, of which it is no part."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=16)
def _dense(_family: str, _raw: str, hidden: _Hidden) -> Layout:
    config = hidden.config
    family = family_of_config(config)
    raw = {key: value for key, value in config.to_dict().items() if key not in (KEY, "architectures", "model_type")}
    stock = family.stock_config_class(**raw)
    with torch.device("meta"):
        model = family.model_class(stock)(stock)
    anatomy = family.anatomy_of(model)
    layers: list[Layer] = [*anatomy.attention, *anatomy.mlps]
    kinds = {layer.name: family.layer_kind(layer) for layer in layers}
    vocabulary = None if anatomy.vocabulary is None else family.layer_kind(anatomy.vocabulary)
    shapes = shapes_of(anatomy)
    blocks = [one.attention or one.mlp for block in anatomy.blocks for one in block.sublayers]
    return Layout(
        shapes,
        shapes,
        kinds,
        vocabulary,
        inner=frozenset(one.name for one in blocks if one is not None),
        single_key=frozenset(one.name for one in anatomy.attention if one.single_key),
        around={one.name: one.residual for one in anatomy.mlps if one.residual is not None},
    )
