"""How Chronos-Bolt models are trained: patches in, quantile losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from chronos.chronos_bolt import ResidualBlock
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.families._t5_stack.training import T5StackTraining
from flowrank.family import Objective, QuantileObjective


class BoltTraining(T5StackTraining):
    """Training of Chronos-Bolt models."""

    key = "bolt"
    agreeing = ("prediction_length", "input_patch_size", "input_patch_stride", "quantiles")
    batch = 64
    rates = (1e-3, 1e-3)
    adamw_rate = 2e-3

    def config(self, recipe: Any) -> PreTrainedConfig:
        """Config of the dense model of a recipe."""
        chronos = {
            "context_length": recipe.context_length,
            "prediction_length": recipe.prediction_length,
            "input_patch_size": recipe.input_patch_size,
            "input_patch_stride": recipe.input_patch_size,
            "quantiles": list(recipe.quantiles),
            "use_reg_token": True,
        }
        return self.t5_config(recipe, 2, chronos, "ChronosBoltPipeline")

    @torch.no_grad()
    def initialise(self, model: PreTrainedModel, recipe: Any) -> None:
        """Draw the weights of patch blocks at the recipe's spread, and shrink what forecasts are read off.

        Transformers 5 leaves the former to a scale of its own choice; at the scale of the rest the latter starts far
        off the targets and learns slowly.
        """
        for module in model.modules():
            if isinstance(module, ResidualBlock):
                for layer in (module.hidden_layer, module.output_layer, module.residual_layer):
                    layer.weight.normal_(0.0, recipe.patch_spread * recipe.initializer_factor)
                    layer.bias.zero_()
        block = model.get_submodule("output_patch_embedding")
        for name in ("output_layer", "residual_layer"):
            block.get_parameter(f"{name}.weight").mul_(recipe.output_scale)

    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Those of T5 stacks, patches and quantiles."""
        chronos = config.chronos_config
        patches = {"input_patch_size": chronos["input_patch_size"], "quantiles": tuple(chronos["quantiles"])}
        return super().fields(config) | patches

    def tensors(self, recipe: Any, context: Tensor, target: Tensor) -> dict[str, Tensor]:
        """As they are."""
        return {"context": context, "target": target}

    def objective(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> Objective:
        """Quantile losses of the parent's quantiles and of the true future."""
        return BoltObjective(parent, distillation=distillation, truth=truth)


class BoltObjective(QuantileObjective):
    """Losses of Chronos-Bolt models."""

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Loss of a batch with ``context`` (B, L) and ``target`` (B, H)."""
        with torch.no_grad():
            taught, (location, scale) = normalised_quantiles(self.parent, batch["context"])
            target = (batch["target"] - location) / scale
        found, _ = normalised_quantiles(child, batch["context"])
        return self.loss(found, taught, target)


def normalised_quantiles(
    model: Any, context: Float[Tensor, "batch time"]
) -> tuple[Float[Tensor, "batch levels horizon"], tuple[Tensor, Tensor]]:
    """Quantiles of a Chronos-Bolt in units of each context, fp32, with the location and scale of the contexts."""
    hidden, units, embeds, mask = model.encode(context)
    ahead = model.output_patch_embedding(model.decode(embeds, mask, hidden))
    return ahead.float().view(len(context), model.num_quantiles, -1), units
