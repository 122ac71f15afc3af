"""T5's config with sizes of their own for every layer, and the names of those layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from flowrank.nn.config import NarrowConfig
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes

FEED_FORWARD = ("wi", "wo")
GATED_FEED_FORWARD = ("wi_0", "wi_1", "wo")


@strict
class NarrowT5Config(NarrowConfig, T5Config):
    r"""T5 config in which every layer may have its own widths.

    flowrank (`dict`, *optional*):
        Sizes of the layers that differ, by name, see `flowrank.nn.shapes.Shapes`.
    """

    family = ""
    tripwire = "feed_forward_proj"

    flowrank: Any = None


def shape_of_attention(config: Any, shapes: Shapes, layer: str) -> AttentionShape:
    """Shape of an attention layer, dense if nothing is said of it."""
    found = shapes.attention.get(layer)
    if found is None:
        return AttentionShape.dense(config.num_heads, config.d_kv)
    return found.check(config.num_heads, where=layer)


def shape_of_mlp(config: Any, shapes: Shapes, layer: str) -> MlpShape:
    """Shape of a feed-forward layer, dense if nothing is said of it."""
    return shapes.mlp.get(layer) or MlpShape.dense(config.d_ff)


def feed_forward_sizes(config: Any, width: int) -> dict[str, tuple[int, int]]:
    """Features in and out of the linear layers of a feed-forward layer, by name."""
    names = GATED_FEED_FORWARD if config.is_gated_act else FEED_FORWARD
    return {name: (width, config.d_model) if name == "wo" else (config.d_model, width) for name in names}


@dataclass(frozen=True)
class LayerNames:
    """Dotted names of the layers of a T5 model, block by block.

    Examples
    --------
    >>> LayerNames.of(T5Config(num_layers=1)).cross
    ('decoder.block.0.layer.1.EncDecAttention',)
    """

    encoder: tuple[str, ...]
    encoder_mlps: tuple[str, ...]
    decoder: tuple[str, ...]
    cross: tuple[str, ...]
    decoder_mlps: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> LayerNames:
        """By the numbers of blocks in a config."""
        blocks, decoder_blocks = config.num_layers, config.num_decoder_layers

        def named(stack: str, blocks: int, layer: str) -> tuple[str, ...]:
            return tuple(f"{stack}.block.{i}.layer.{layer}" for i in range(blocks))

        return cls(
            named("encoder", blocks, "0.SelfAttention"),
            named("encoder", blocks, "1.DenseReluDense"),
            named("decoder", decoder_blocks, "0.SelfAttention"),
            named("decoder", decoder_blocks, "1.EncDecAttention"),
            named("decoder", decoder_blocks, "2.DenseReluDense"),
        )

    @property
    def attention(self) -> tuple[str, ...]:
        """Of all attention layers, in the order of computation."""
        pairs = zip(self.decoder, self.cross, strict=True)
        return (*self.encoder, *(name for both in pairs for name in both))
