"""How families that are described for analysis only read the layers of a model, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from flowrank.anatomy import Anatomy, Attention, Block, Kind, Projection, Stack, Sublayer

Found = tuple[Stack, list[Sublayer], bool]
"""Stack of a block, its sublayers, and whether norms come first."""

Read = Callable[["Place", Any], Found | None]


class Place:
    """Where a block is; makes the description of its attention."""

    def __init__(self, name: str, layers: dict[str, int]) -> None:
        self.name, self.layers = name, layers

    def attention(
        self,
        stack: Stack,
        kind: Kind,
        module: nn.Module,
        projections: tuple[Projection, Projection, Projection, Projection],
        heads: int,
        width: int,
    ) -> Attention:
        """Heads of one width."""
        each = width // heads
        layer = self.layers[stack]
        query, key, value, output = projections
        return Attention(
            self.name,
            stack,
            "cross" if kind == "cross" else "self",
            layer,
            layer,
            module,
            query,
            key,
            value,
            output,
            active=tuple(range(heads)),
            query_widths=(each,) * heads,
            value_widths=(each,) * heads,
            d_model=output.weight.shape[0],
            all_heads=heads,
            d_kv=each,
            scale=each**-0.5,
        )


def read_blocks(model: nn.Module, read: Read) -> Anatomy:
    """Offer every module of a model to ``read``, and number the blocks that it finds."""
    counts: dict[str, int] = {"encoder": 0, "decoder": 0}
    blocks = []
    for name, module in model.named_modules():
        found = read(Place(name, counts), module)
        if found is not None:
            stack, sublayers, norm_first = found
            blocks.append(Block(stack, counts[stack], module, tuple(sublayers), norm_first))
            counts[stack] += 1
    return Anatomy(tuple(blocks))


def has_parts(module: Any, *paths: str) -> bool:
    """Whether a module has all of these parts, by dotted names."""
    for path in paths:
        place = module
        for name in path.split("."):
            place = getattr(place, name, None)
            if place is None:
                return False
    return True
