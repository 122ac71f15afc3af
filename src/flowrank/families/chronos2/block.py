"""Chronos-2's feed-forward layers and patch blocks at widths of their own."""

from __future__ import annotations

from typing import Any

from chronos.chronos2.layers import MLP, ResidualBlock
from torch import nn

from flowrank.nn.factored import draw, linear
from flowrank.nn.shapes import MlpShape

READS, WRITES, RESIDUAL = "hidden_layer", "output_layer", "residual_layer"
FEED_FORWARD = ("wi", "wo")


def feed_forward_sizes(d_model: int, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a feed-forward layer."""
    return {"wi": (d_model, width), "wo": (width, d_model)}


def block_sizes(inputs: int, outputs: int, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a block that maps ``inputs`` to ``outputs`` features."""
    return {READS: (inputs, width), WRITES: (width, outputs), RESIDUAL: (inputs, outputs)}


class NarrowMLP(MLP):
    """A feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: Any, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        _replace(self, shape, feed_forward_sizes(config.d_model, shape.width), bias=False)

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this layer's own width."""
        draw(self.wi, config.initializer_factor * config.d_model**-0.5)
        draw(self.wo, config.initializer_factor * max(1, self.shape.width) ** -0.5)


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
        _replace(self, shape, block_sizes(in_dim, out_dim, shape.width), bias=True)

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this block's own width."""
        for name in (READS, WRITES, RESIDUAL):
            layer = getattr(self, name)
            draw(layer, config.initializer_factor * max(1, layer.in_features) ** -0.5)


def _replace(module: nn.Module, shape: MlpShape, sizes: dict[str, tuple[int, int]], *, bias: bool) -> None:
    for name, size in sizes.items():
        setattr(module, name, linear(*size, shape.ranks.get(name), bias=bias))
