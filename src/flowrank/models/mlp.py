"""T5's feed-forward layers and Chronos-Bolt's residual blocks at widths of their own."""

from __future__ import annotations

from typing import Any

from chronos.chronos_bolt import ResidualBlock
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from flowrank.models.config import FEED_FORWARD, GATED_FEED_FORWARD, RESIDUAL_BLOCK, CompressedT5Config, MlpShape
from flowrank.models.layers import draw, dtype_of, linear


class CompressedT5DenseActDense(T5DenseActDense):
    """A feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: CompressedT5Config, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        _replace(self, shape, config.d_model, config.d_model, FEED_FORWARD)

    def initialise(self, config: CompressedT5Config) -> None:
        """Random weights as T5 draws them, at this layer's own width."""
        _initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        hidden = self.dropout(self.act(self.wi(hidden_states)))
        return self.wo(hidden.to(dtype_of(self.wo)))


class CompressedT5DenseGatedActDense(T5DenseGatedActDense):
    """A gated feed-forward layer with its own hidden neurons, whose matrices may be two factors."""

    def __init__(self, config: CompressedT5Config, shape: MlpShape) -> None:
        super().__init__(config)
        self.shape = shape
        _replace(self, shape, config.d_model, config.d_model, GATED_FEED_FORWARD)

    def initialise(self, config: CompressedT5Config) -> None:
        """Random weights as T5 draws them, at this layer's own width."""
        _initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        hidden = self.dropout(self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states))
        return self.wo(hidden.to(dtype_of(self.wo)))


class CompressedResidualBlock(ResidualBlock):
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

    def __init__(self, config: CompressedT5Config, shape: MlpShape, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, 1, out_dim, config.dense_act_fn, config.dropout_rate)
        self.shape = shape
        _replace(self, shape, in_dim, out_dim, RESIDUAL_BLOCK, bias=True)

    def initialise(self, config: CompressedT5Config) -> None:
        """Random weights as chronos-forecasting draws them, at this block's own width."""
        read = 2 * config.chronos_config["input_patch_size"]  # of both blocks, as there
        for name in RESIDUAL_BLOCK:
            width = max(1, self.shape.width) if name == "output_layer" else read
            draw(getattr(self, name), config.initializer_factor * width**-0.5)


CompressedMlp = CompressedT5DenseActDense | CompressedT5DenseGatedActDense | CompressedResidualBlock


def compressed_mlp(layer: nn.Module, config: CompressedT5Config, shape: MlpShape) -> CompressedMlp:
    """Make the layer that stands in for a stock one."""
    if isinstance(layer, ResidualBlock):
        return CompressedResidualBlock(config, shape, layer.hidden_layer.in_features, layer.output_layer.out_features)
    gated = isinstance(layer, T5DenseGatedActDense)
    return (CompressedT5DenseGatedActDense if gated else CompressedT5DenseActDense)(config, shape)


def _replace(
    module: nn.Module, shape: MlpShape, inputs: int, outputs: int, layers: tuple[str, ...], *, bias: bool = False
) -> None:
    for name, size in shape.sizes(inputs, outputs, layers).items():
        setattr(module, name, linear(*size, shape.ranks.get(name), bias=bias))


def _initialise(module: Any, config: CompressedT5Config) -> None:
    for name, layer in module.named_children():
        if name.startswith("w"):
            width = max(1, module.shape.width) if name == "wo" else config.d_model
            draw(layer, config.initializer_factor * width**-0.5)
