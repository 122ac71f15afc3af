"""Chronos-Bolt with layers of their own widths."""

from __future__ import annotations

from chronos.chronos_bolt import ChronosBoltModelForForecasting, ResidualBlock
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoModel

from flowrank.families._patch_block import READS, RESIDUAL, WRITES
from flowrank.families._t5_stack.config import NarrowT5Config
from flowrank.families._t5_stack.model import NarrowT5Model
from flowrank.families.chronos_bolt.block import NarrowResidualBlock
from flowrank.nn.narrowed import is_real
from flowrank.nn.shapes import MlpShape


@strict
class NarrowChronosBoltConfig(NarrowT5Config):
    """Config of a `NarrowChronosBolt`."""

    model_type = "flowrank_chronos_bolt"
    family = "chronos-bolt"


class NarrowChronosBolt(NarrowT5Model, ChronosBoltModelForForecasting):
    """Chronos-Bolt with layers of their own widths."""

    config_class = NarrowChronosBoltConfig

    def narrow_mlp(self, layer: nn.Module, shape: MlpShape, name: str) -> nn.Module:
        """Make the feed-forward layer or patch block that stands in for a stock one."""
        if not isinstance(layer, ResidualBlock):
            return super().narrow_mlp(layer, shape, name)
        shape.check((READS, WRITES, RESIDUAL), where=name)
        sizes = layer.hidden_layer.in_features, layer.output_layer.out_features
        made = NarrowResidualBlock(self.config, shape, *sizes)
        if is_real(made):
            made.initialise(self.config)
        return made


AutoModel.register(NarrowChronosBoltConfig, NarrowChronosBolt)
