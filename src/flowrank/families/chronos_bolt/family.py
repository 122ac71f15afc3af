"""Chronos-Bolt: continuous patches in, one decoder token, all quantiles of the horizon out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, T5Config

from flowrank.anatomy import Anatomy, Attention, Ends, Mlp
from flowrank.cost import Pass, Workload
from flowrank.families._patch_block import READS, RESIDUAL, WRITES
from flowrank.families._t5_stack.anatomy import t5_blocks
from flowrank.families._t5_stack.family import T5StackFamily
from flowrank.families.chronos_bolt.cost import passes
from flowrank.families.chronos_bolt.engine import BoltEngine
from flowrank.families.chronos_bolt.model import NarrowChronosBolt, NarrowChronosBoltConfig
from flowrank.families.chronos_bolt.pipeline import FlowrankBoltPipeline
from flowrank.families.chronos_bolt.training import BoltTraining
from flowrank.family import pad_left, quantile_probe
from flowrank.nn.shapes import KEY


class ChronosBolt(T5StackFamily):
    """View of a Chronos-Bolt pipeline."""

    name = "chronos-bolt"
    config_class = NarrowChronosBoltConfig
    stock_config_class = T5Config
    pipeline_class = FlowrankBoltPipeline
    engine_class = BoltEngine
    training = BoltTraining()
    calibration_series = 1024  # its decoder has one token a series

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether it is a Chronos-Bolt model."""
        return isinstance(model, ChronosBoltModelForForecasting)

    @classmethod
    def owns(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a config is of a Chronos-Bolt model: T5's, with patches."""
        chronos = raw.get("chronos_config")
        plain = isinstance(chronos, Mapping) and "input_patch_size" in chronos and "quantiles" in chronos
        known = raw.get("chronos_pipeline_class") in ("ChronosBoltPipeline", "FlowrankBoltPipeline")
        named = isinstance(raw.get(KEY), Mapping) and "family" in raw[KEY]
        return super().owns(raw) or (plain and known and not named and raw.get("model_type") in cls.model_types)

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of a Chronos-Bolt model."""
        blocks = t5_blocks(model, decodes_one_token=True)
        layers = Anatomy(blocks)
        encoder, decoder = layers.layers("encoder"), layers.layers("decoder")
        d_model = int(model.config.d_model)  # type: ignore[union-attr,arg-type]

        def end(name: str, stack: Any, layer: int, depth: int) -> Mlp:
            block = model.get_submodule(name)
            return Mlp(name, stack, layer, depth, d_model, (READS,), WRITES, RESIDUAL, block)

        first = end("input_patch_embedding", "encoder", -1, 0)
        last = end("output_patch_embedding", "decoder", decoder, encoder + decoder)
        return Anatomy(blocks, Ends(first, last))

    @classmethod
    def model_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The stock class where no layer has a width of its own."""
        return NarrowChronosBolt if isinstance(config, NarrowChronosBoltConfig) else ChronosBoltModelForForecasting

    @classmethod
    def passes(
        cls, config: PreTrainedConfig, workload: Workload, *, exact: bool, itemsize: int, cross_cache: str = "auto"
    ) -> Iterator[Pass]:
        """What a forecast passes through; its decoder keeps nothing, whatever ``cross_cache`` says."""
        return passes(config, workload, exact=exact, itemsize=itemsize)

    @classmethod
    def kept_from_int8(cls, model: nn.Module) -> set[str]:
        """Keys and values of cross-attention, by which the exact engine multiplies from the other side."""
        crossing: list[Attention] = [one for one in cls.anatomy_of(model).attention if one.kind == "cross"]
        return {projection.name for one in crossing for projection in (one.key, one.value)}

    def sources(self) -> list[nn.Module]:
        """The block that embeds patches, and the embedding of the decoder's token."""
        return [self.model.input_patch_embedding, self.model.decoder.embed_tokens]

    def context_tokens(self, points: int) -> int:
        """Patches, and the [REG] token if the model uses one."""
        config = self.model.chronos_config
        points = min(points, config.context_length)
        return -(-points // config.input_patch_size) + int(config.use_reg_token)

    def decoder_tokens(self, points: int) -> int:
        """One."""
        return 1

    def probe(self, contexts: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, ""]:
        """Random projection of the quantiles, weighted by the curvature of the expected quantile loss."""
        model = self.model
        quantiles = self.run(contexts).view(len(contexts), model.num_quantiles, model.chronos_config.prediction_length)
        return quantile_probe(quantiles, model.quantiles, generator)

    def run(
        self, contexts: Sequence[Tensor], encoded: Float[Tensor, "batch tokens d"] | None = None
    ) -> Float[Tensor, "batch 1 outputs"]:
        """Forecast one block."""
        model = self.model
        if encoded is None:
            encoded, _, embedded, mask = model.encode(pad_left(contexts, model.device))
        else:
            embedded, mask = encoded, self.attention_mask(contexts).to(encoded)
        return model.output_patch_embedding(model.decode(embedded, mask, encoded))

    def attention_mask(self, contexts: Sequence[Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Patches with an observation, and the [REG] token."""
        model = self.model
        patches = model.patch(pad_left(contexts, model.device)[:, -model.chronos_config.context_length :])
        mask = patches.isnan().logical_not().any(dim=-1)
        if model.chronos_config.use_reg_token:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return mask
