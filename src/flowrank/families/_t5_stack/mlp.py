"""T5's feed-forward layers at widths of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from flowrank.families._t5_stack.config import feed_forward_sizes
from flowrank.nn.factored import draw, dtype_of, replace_linears
from flowrank.nn.shapes import MlpShape


class NarrowT5DenseActDense(T5DenseActDense):
    """A feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: T5Config, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        replace_linears(self, shape.ranks, feed_forward_sizes(config, shape.width))

    def initialise(self, config: T5Config) -> None:
        """Random weights as T5 draws them, at this layer's own width."""
        _initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        hidden = self.dropout(self.act(self.wi(hidden_states)))
        return self.wo(hidden.to(dtype_of(self.wo)))


class NarrowT5DenseGatedActDense(T5DenseGatedActDense):
    """A gated feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: T5Config, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        replace_linears(self, shape.ranks, feed_forward_sizes(config, shape.width))

    def initialise(self, config: T5Config) -> None:
        """Random weights as T5 draws them, at this layer's own width."""
        _initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        hidden = self.dropout(self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states))
        return self.wo(hidden.to(dtype_of(self.wo)))


def narrow_feed_forward(
    layer: nn.Module, config: T5Config, shape: MlpShape, name: str
) -> NarrowT5DenseActDense | NarrowT5DenseGatedActDense:
    """Make the layer that stands in for a stock one."""
    shape.check(tuple(feed_forward_sizes(config, shape.width)), where=name)
    gated = isinstance(layer, T5DenseGatedActDense)
    return (NarrowT5DenseGatedActDense if gated else NarrowT5DenseActDense)(config, shape)


def _initialise(module: Any, config: T5Config) -> None:
    for name, layer in module.named_children():
        if name.startswith("w"):
            width = max(1, module.shape.width) if name == "wo" else config.d_model
            draw(layer, config.initializer_factor * width**-0.5)
