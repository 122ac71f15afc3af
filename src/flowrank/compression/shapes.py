"""A smaller model before it is made: the sizes of its layers, and their new tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from flowrank.compression.factorize import Layer
from flowrank.models import AttentionShape, CompressedT5Config, MlpShape
from flowrank.models.config import LayerNames

_SIZES = ("attention_shapes", "mlp_shapes", "vocabulary_ranks")


@dataclass(frozen=True)
class Shapes:
    """Sizes of the layers that differ from the parent's, by name."""

    attention: dict[str, AttentionShape]
    mlps: dict[str, MlpShape]
    vocabulary: dict[str, int]

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shapes:
        """Sizes of all layers of a model by its config, in the order of computation."""
        every = config if isinstance(config, CompressedT5Config) else cls({}, {}, {}).config(config)
        patches = hasattr(config, "chronos_config") and "input_patch_size" in config.chronos_config
        names = LayerNames.of(config.num_layers, config.num_decoder_layers)
        attention = (*names.encoder, *(name for both in zip(names.own, names.cross, strict=True) for name in both))
        blocks = ("input_patch_embedding", "output_patch_embedding") if patches else ()
        mlps = (*blocks[:1], *names.encoder_mlps, *names.decoder_mlps, *blocks[1:])
        return cls(
            {name: every.shape_of(name) for name in attention},
            {name: every.mlp_shape_of(name, config.d_ff) for name in mlps},
            dict(every.entries("vocabulary_ranks")),
        )

    def config(self, parent: PreTrainedConfig) -> CompressedT5Config:
        """The parent's config with these sizes."""
        raw = parent.to_dict()
        before = {key: raw.pop(key, None) or {} for key in _SIZES}
        for key in ("model_type", "architectures"):
            raw.pop(key, None)
        config = CompressedT5Config(**raw)
        after: dict[str, dict[str, Any]] = {
            "attention_shapes": {name: shape.to_dict() for name, shape in self.attention.items()},
            "mlp_shapes": {name: shape.to_dict() for name, shape in self.mlps.items()},
            "vocabulary_ranks": self.vocabulary,
        }
        for key, sizes in after.items():
            setattr(config, key, {**before[key], **sizes} or None)
        return config


@dataclass(frozen=True)
class Weights:
    """A smaller model: sizes, and new tensors by layer, named as in its module."""

    shapes: Shapes
    tensors: dict[str, dict[str, Tensor]]

    @classmethod
    def of_attention(cls, layers: dict[str, Layer]) -> Weights:
        """Only attention layers differ."""
        shapes = {name: shape for name, (shape, _) in layers.items()}
        return cls(Shapes(shapes, {}, {}), {name: tensors for name, (_, tensors) in layers.items()})
