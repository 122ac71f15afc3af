"""ViT-like models, for analysis."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowrank.anatomy import Anatomy, Projection, Sublayer
from flowrank.families._reading import Found, Place, has_parts, read_blocks
from flowrank.family import Family


class Vit(Family):
    """Models whose layers are built like ViT's."""

    name = "vit"

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether one of its modules is a block of ViT."""
        return any(_parts(module) is not None for module in model.modules())

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of the model."""
        return read_blocks(model, _read)


def _parts(block: Any) -> tuple[Any, tuple[str, str, str], nn.Module] | None:
    """Attention of a block, the names of its queries, keys and values, and its output layer."""
    if not has_parts(block, "layernorm_before", "layernorm_after", "attention"):
        return None
    layer = block.attention
    if has_parts(layer, "q_proj", "k_proj", "v_proj", "o_proj"):
        return layer, ("q_proj", "k_proj", "v_proj"), layer.o_proj
    if has_parts(layer, "attention.query", "attention.key", "attention.value", "output.dense"):
        return layer.attention, ("query", "key", "value"), layer.output.dense
    return None


def _read(place: Place, block: Any) -> Found | None:
    found = _parts(block)
    if found is None:
        return None
    inner, names, output = found
    query, key, value = (Projection(getattr(inner, name)) for name in names)
    width = int(query.module.out_features)  # type: ignore[arg-type]
    projections = query, key, value, Projection(output)
    attention = place.attention("encoder", "self", inner, projections, inner.num_attention_heads, width)
    return (
        "encoder",
        [Sublayer("self", block.layernorm_before, attention), Sublayer("mlp", block.layernorm_after)],
        True,
    )
