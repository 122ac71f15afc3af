"""Chronos-2's feed-forward layers and patch blocks at widths of their own."""

from __future__ import annotations

from typing import Any

from chronos.chronos2.layers import MLP, ResidualBlock

from flowrank.families._patch_block import NarrowBlock
from flowrank.nn.factored import draw, replace_linears
from flowrank.nn.shapes import MlpShape

FEED_FORWARD = ("wi", "wo")


def feed_forward_sizes(d_model: int, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a feed-forward layer."""
    return {"wi": (d_model, width), "wo": (width, d_model)}


class NarrowMLP(MLP):
    """A feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: Any, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        replace_linears(self, shape.ranks, feed_forward_sizes(config.d_model, shape.width))

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this layer's own width."""
        draw(self.wi, config.initializer_factor * config.d_model**-0.5)
        draw(self.wo, config.initializer_factor * max(1, self.shape.width) ** -0.5)


class NarrowResidualBlock(NarrowBlock, ResidualBlock):
    """A residual block with its own hidden neurons, whose matrices may be two factors."""
