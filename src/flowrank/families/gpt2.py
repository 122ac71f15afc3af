"""GPT-2-like models, for analysis: one matrix holds queries, keys and values."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowrank.anatomy import Anatomy, Attention, Kind, Projection, Sublayer
from flowrank.families._reading import Found, Place, has_parts, read_blocks
from flowrank.family import Family


class Gpt2(Family):
    """Models whose layers are built like GPT-2's."""

    name = "gpt2"

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether one of its modules is a block of GPT-2."""
        return any(_is_block(module) for module in model.modules())

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of the model."""
        return read_blocks(model, _read)


def _is_block(block: Any) -> bool:
    return has_parts(block, "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp")


def _read(place: Place, block: Any) -> Found | None:
    if not _is_block(block):
        return None

    def attention(layer: Any, kind: Kind) -> Attention:
        crosses = hasattr(layer, "q_attn")
        parts = 2 if crosses else 3
        query = _part(layer.q_attn, 0, 1) if crosses else _part(layer.c_attn, 0, parts)
        key, value = (_part(layer.c_attn, parts - 2 + i, parts) for i in range(2))
        projections = query, key, value, _part(layer.c_proj, 0, 1)
        return place.attention("decoder", kind, layer, projections, layer.num_heads, layer.embed_dim)

    sublayers = [Sublayer("self", block.ln_1, attention(block.attn, "self"))]
    if hasattr(block, "crossattention"):
        sublayers.append(Sublayer("cross", block.ln_cross_attn, attention(block.crossattention, "cross")))
    sublayers.append(Sublayer("mlp", block.ln_2))
    return "decoder", sublayers, True


def _part(module: nn.Module, part: int, parts: int) -> Projection:
    """Part of a `Conv1D`, which stores its matrix as (inputs, outputs)."""
    return Projection(module, part=part, parts=parts, transposed=True)
