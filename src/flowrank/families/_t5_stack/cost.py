"""Sizes of the layers of T5 stacks by a config, for counting what a forecast costs."""

from __future__ import annotations

from typing import Any

from flowrank.cost import LayerSize, Part, encoder_pass
from flowrank.families._t5_stack.config import LayerNames, feed_forward_sizes, shape_of_attention, shape_of_mlp
from flowrank.nn.shapes import Shapes


class Stacks:
    """The layers of a config.

    Parameters
    ----------
    config
        Of a T5 model, dense or compressed.
    even
        Whether to count as the exact engine computes: each head as wide as its layer's widest, empty layers not at all.
    """

    def __init__(self, config: Any, even: bool) -> None:
        self.config, self.even, self.shapes = config, even, Shapes.of(config)
        self.d = int(config.d_model)
        names = LayerNames.of(config)
        self.encoder, self.decoder, self.cross = (
            [LayerSize.of(shape_of_attention(config, self.shapes, name), self.d, even=even) for name in some]
            for some in (names.encoder, names.decoder, names.cross)
        )
        self.encoder_mlps, self.decoder_mlps = (
            [self.feed_forward(name) for name in some] for some in (names.encoder_mlps, names.decoder_mlps)
        )

    def feed_forward(self, name: str) -> int:
        """Parameters of a feed-forward layer."""
        shape = shape_of_mlp(self.config, self.shapes, name)
        if self.even and shape.width == 0:  # the exact engine leaves it out
            return 0
        return sum(shape.parameters(feed_forward_sizes(self.config, shape.width)).values())

    def encode(self, rows: int, tokens: int, itemsize: int) -> Part:
        """The encoder on ``rows`` series of ``tokens`` tokens."""
        return encoder_pass(
            self.encoder, self.encoder_mlps, rows=rows, tokens=tokens, d_model=self.d, itemsize=itemsize
        )
