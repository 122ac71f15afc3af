"""Chronos-Bolt's residual blocks at widths of their own."""

from __future__ import annotations

from typing import Any

from chronos.chronos_bolt import ResidualBlock

from flowrank.families._patch_block import READS, RESIDUAL, WRITES, NarrowBlock
from flowrank.nn.factored import draw


class NarrowResidualBlock(NarrowBlock, ResidualBlock):
    """A residual block with its own hidden neurons, whose matrices may be two factors."""

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this block's own width."""
        read = 2 * config.chronos_config["input_patch_size"]  # of both blocks, as there
        for name in (READS, WRITES, RESIDUAL):
            width = max(1, self.shape.width) if name == WRITES else read
            draw(getattr(self, name), config.initializer_factor * width**-0.5)
