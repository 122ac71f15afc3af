"""Chronos-Bolt's residual blocks at widths of their own."""

from __future__ import annotations

from typing import Any

from chronos.chronos_bolt import ResidualBlock

from flowrank.families._t5_stack.mlp import replace_linears
from flowrank.nn.factored import draw
from flowrank.nn.shapes import MlpShape

READS, WRITES, RESIDUAL = "hidden_layer", "output_layer", "residual_layer"


def block_sizes(inputs: int, outputs: int, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a block that maps ``inputs`` to ``outputs`` features."""
    return {READS: (inputs, width), WRITES: (width, outputs), RESIDUAL: (inputs, outputs)}


class NarrowResidualBlock(ResidualBlock):
    """A residual block with its own hidden neurons, whose matrices may be two factors; computed as a stock one is.

    Parameters
    ----------
    config
        Of the model.
    shape
        Width and ranks.
    in_dim, out_dim
        Features that it reads and writes.
    """

    def __init__(self, config: Any, shape: MlpShape, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, 1, out_dim, config.dense_act_fn, config.dropout_rate)
        self.shape = shape
        replace_linears(self, shape, block_sizes(in_dim, out_dim, shape.width), bias=True)

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this block's own width."""
        read = 2 * config.chronos_config["input_patch_size"]  # of both blocks, as there
        for name in (READS, WRITES, RESIDUAL):
            width = max(1, self.shape.width) if name == WRITES else read
            draw(getattr(self, name), config.initializer_factor * width**-0.5)
