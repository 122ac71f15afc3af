"""Residual blocks around patches, as Chronos-Bolt and Chronos-2 have them, at widths of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flowrank.engine.feed_forward import PatchBlock
from flowrank.engine.tracing import in_fp32
from flowrank.nn.factored import draw, replace_linears
from flowrank.nn.shapes import MlpShape

READS, WRITES, RESIDUAL = "hidden_layer", "output_layer", "residual_layer"


def block_sizes(inputs: int, outputs: int, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a block that maps ``inputs`` to ``outputs`` features."""
    return {READS: (inputs, width), WRITES: (width, outputs), RESIDUAL: (inputs, outputs)}


class NarrowBlock:
    """Part of a class that makes a stock residual block one of its own hidden neurons.

    Its matrices may be two factors; it is computed as a stock one is.

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
        super().__init__(in_dim, 1, out_dim, config.dense_act_fn, config.dropout_rate)  # type: ignore[call-arg]
        self.shape = shape
        sizes = block_sizes(in_dim, out_dim, shape.width)
        replace_linears(self, shape.ranks, sizes, bias=True)  # type: ignore[arg-type]

    def initialise(self, config: Any) -> None:
        """Random weights as chronos-forecasting draws them, at this block's own width."""
        for name in (READS, WRITES, RESIDUAL):
            layer = getattr(self, name)
            draw(layer, config.initializer_factor * max(1, layer.in_features) ** -0.5)


def patch_block(block: Any) -> PatchBlock:
    """A block as exact engines compute it."""
    return PatchBlock(block, *(getattr(block, name) for name in (READS, WRITES, RESIDUAL)))


class PatchBlockGraph(nn.Module):
    """W_O act(W_I x) + W_R x, each with a bias."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block: Any = in_fp32(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        block = self.block
        result = block.output_layer(block.act(block.hidden_layer(x))) + block.residual_layer(x)
        return block.layer_norm(result) if getattr(block, "use_layer_norm", False) else result
