"""Chronos-2: series of a group read together, patches of past and future in, quantiles of the future out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from chronos.chronos2 import Chronos2Model
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.layers import AttentionOutput, FeedForward, GroupSelfAttention, TimeSelfAttention
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.anatomy import Anatomy, Attention
from flowrank.cost import Pass, Workload
from flowrank.families.chronos2.anatomy import anatomy_of
from flowrank.families.chronos2.config import check_config
from flowrank.families.chronos2.cost import passes
from flowrank.families.chronos2.engine import Chronos2Engine
from flowrank.families.chronos2.model import NarrowChronos2, NarrowChronos2Config
from flowrank.families.chronos2.pipeline import FlowrankChronos2Pipeline
from flowrank.families.chronos2.training import Chronos2Training
from flowrank.families.chronos2.univariate import univariate_layers
from flowrank.family import Family, SeriesGroup, explicit_attention, pad_left, quantile_probe
from flowrank.nn.shapes import KEY, Shapes

_PATCHES = 4
"""Output patches of a calibration pass."""


class Chronos2(Family):
    """View of a Chronos-2 pipeline."""

    name = "chronos-2"
    config_class = NarrowChronos2Config
    stock_config_class = Chronos2CoreConfig
    pipeline_class = FlowrankChronos2Pipeline
    engine_class = Chronos2Engine
    training = Chronos2Training()

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether it is a Chronos-2 model."""
        return isinstance(model, Chronos2Model)

    @classmethod
    def owns(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a config is of a Chronos-2 model; only the name of its pipeline says so."""
        known = raw.get("chronos_pipeline_class") in ("Chronos2Pipeline", "FlowrankChronos2Pipeline")
        named = isinstance(raw.get(KEY), Mapping) and "family" in raw[KEY]
        return super().owns(raw) or (known and not named)

    @classmethod
    def read_config(cls, raw: Mapping[str, Any], **kwargs: Any) -> Any:
        """Config of a model of this family from what stands in ``config.json``; keywords as of ``from_dict``."""
        check_config(raw)
        return super().read_config(raw, **kwargs)

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of a Chronos-2 model."""
        return anatomy_of(model)

    @classmethod
    def model_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The stock class where no layer has a width of its own."""
        return NarrowChronos2 if isinstance(config, NarrowChronos2Config) else Chronos2Model

    @classmethod
    def passes(
        cls, config: PreTrainedConfig, workload: Workload, *, exact: bool, itemsize: int, cross_cache: str = "auto"
    ) -> Iterator[Pass]:
        """What a forecast of single series passes through; nothing is cached, whatever ``cross_cache`` says."""
        return passes(config, workload, exact=exact, itemsize=itemsize)

    @classmethod
    def usual_horizon(cls, config: PreTrainedConfig) -> int:
        """H, four patches unless the model is trained for less."""
        given: Any = config
        chronos = given.chronos_config
        return int(chronos["output_patch_size"]) * min(_PATCHES, int(chronos.get("max_output_patches", 1)))

    @classmethod
    @contextmanager
    def explicit(cls, model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
        """Within the block a model computes its attention weights, in eval mode, and its own weights are frozen."""
        encoder = model.get_submodule("encoder")
        hook = encoder.register_forward_pre_hook(_ask, with_kwargs=True)
        try:
            with explicit_attention(model, gradients=gradients):
                yield
        finally:
            hook.remove()

    def observed(
        self, site: Attention, kwargs: Mapping[str, Any], result: Any
    ) -> tuple[Float[Tensor, "batch heads queries keys"], Tensor | None]:
        """Weights of attention over time or over a group, and the mask that was added to the scores."""
        return result.attn_weights.detach(), kwargs["mask"]

    def sources(self) -> list[nn.Module]:
        """The block that embeds patches."""
        return [self.model.input_patch_embedding]

    def context_tokens(self, points: int) -> int:
        """Patches of the past, the [REG] token and patches of the future."""
        config = self.model.chronos_config
        points = min(points, config.context_length)
        return -(-points // config.input_patch_size) + 1 + self._patches

    def univariate_layers(self) -> tuple[Shapes, dict[str, dict[str, Tensor]]]:
        """Sizes and tensors of layers that let the model read single series alone, with the same forecasts of them."""
        return univariate_layers(self.attention, self.model.config)

    @property
    def _patches(self) -> int:
        return self.usual_horizon(self.model.config) // int(self.model.chronos_config.output_patch_size)

    def probe(self, contexts: Sequence[Any], generator: torch.Generator) -> Float[Tensor, ""]:
        """Random projection of the targets' quantiles, weighted by the curvature of the expected quantile loss."""
        model = self.model
        inputs = self._inputs(contexts)
        outputs = self._outputs(inputs)
        quantiles = outputs.unflatten(2, (model.num_quantiles, -1)).transpose(1, 2).flatten(2)
        return quantile_probe(quantiles, model.quantiles, generator, weights=inputs["targets"])

    def run(
        self, contexts: Sequence[Any], encoded: Float[Tensor, "batch tokens d"] | None = None
    ) -> Float[Tensor, "batch patches outputs"]:
        """Forecast some output patches."""
        return self._outputs(self._inputs(contexts))

    def skipped(self, layer: nn.Module, stream: Float[Tensor, "batch tokens d"], kwargs: Mapping[str, Any]) -> Any:
        """The stream, as each kind of layer wraps it."""
        if isinstance(layer, TimeSelfAttention | GroupSelfAttention):
            return AttentionOutput(hidden_states=stream)
        return stream if isinstance(layer, FeedForward) else None

    def attention_mask(self, contexts: Sequence[Any]) -> Bool[Tensor, "batch tokens"]:
        """Patches with an observation, the [REG] token and the future."""
        model = self.model
        context = self._inputs(contexts)["context"][:, -model.chronos_config.context_length :]
        mask = model.patch(context).isnan().logical_not().any(dim=-1)
        return torch.cat([mask, mask.new_ones(len(mask), 1 + self._patches)], dim=1)

    def _outputs(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch patches outputs"]:
        """In units of each series' context, after arcsinh."""
        encoded, *_ = self.model.encode(
            context=inputs["context"],
            group_ids=inputs["group_ids"],
            future_covariates=inputs["future_covariates"],
            num_output_patches=self._patches,
        )
        return self.model.output_patch_embedding(encoded[0][:, -self._patches :])

    def _inputs(self, contexts: Sequence[Any]) -> dict[str, Tensor]:
        """Series and groups as the model takes them; a group's known future is its last steps."""
        config = self.model.chronos_config
        most = self._patches * config.output_patch_size
        rows: list[Tensor] = []
        futures: list[Tensor] = []
        groups: list[int] = []
        targets: list[bool] = []
        for number, one in enumerate(contexts):
            if isinstance(one, Tensor):
                one = SeriesGroup(one[None], torch.zeros(1, dtype=torch.bool))
            past, future = one.split(min(most, len(one) // 4))
            unknown = past.new_full((len(past), most), torch.nan)
            unknown[:, : future.shape[1]] = future
            rows += past.unbind()
            futures += unknown.unbind()
            groups += [number] * len(past)
            targets += (~one.known).tolist()
        device = self.model.device
        return {
            "context": pad_left(rows, device),
            "group_ids": torch.tensor(groups, device=device),
            "future_covariates": torch.stack(futures).to(device=device, dtype=torch.float32),
            "targets": torch.tensor(targets, device=device),
        }


def _ask(_encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "output_attentions": True}
