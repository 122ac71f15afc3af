"""BERT-like models, for analysis: norms come after each sublayer."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowrank.anatomy import Anatomy, Attention, Kind, Projection, Stack, Sublayer
from flowrank.families._reading import Found, Place, has_parts, read_blocks
from flowrank.family import Family


class Bert(Family):
    """Models whose layers are built like BERT's."""

    name = "bert"

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether one of its modules is a block of BERT."""
        return any(_is_block(module) for module in model.modules())

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of the model."""
        return read_blocks(model, _read)


def _is_block(block: Any) -> bool:
    return has_parts(block, "attention.self.query", "attention.output.LayerNorm", "intermediate", "output.LayerNorm")


def _read(place: Place, block: Any) -> Found | None:
    if not _is_block(block):
        return None
    stack: Stack = "decoder" if getattr(block, "is_decoder", False) else "encoder"

    def attention(layer: Any, kind: Kind) -> Attention:
        inner = layer.self
        query, key, value = (Projection(getattr(inner, name)) for name in ("query", "key", "value"))
        projections = query, key, value, Projection(layer.output.dense)
        return place.attention(stack, kind, inner, projections, inner.num_attention_heads, inner.all_head_size)

    sublayers = [Sublayer("self", block.attention.output.LayerNorm, attention(block.attention, "self"))]
    if hasattr(block, "crossattention"):
        crossing = block.crossattention
        sublayers.append(Sublayer("cross", crossing.output.LayerNorm, attention(crossing, "cross")))
    sublayers.append(Sublayer("mlp", block.output.LayerNorm))
    return stack, sublayers, False
