"""How Chronos-2 models are trained: groups of patched series in, quantile losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.layers import MHA, MLP
from chronos.chronos2.model import Chronos2EncoderBlock, Chronos2Model
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.families._growth import grow
from flowrank.families.chronos2.attention import NarrowMHA
from flowrank.families.chronos2.growth import take_from_encoder
from flowrank.family import Objective, QuantileObjective, Training
from flowrank.nn.factored import draw

QUANTILES = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
ROTARY_BASE = 10_000.0
_LEAST = -1e30  # added to attention scores
_SHAPE = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")


class Chronos2Training(Training):
    """Training of Chronos-2 models."""

    key = "chronos2"
    agreeing = ("output_patch_size", "max_output_patches", "quantiles", "use_arcsinh")
    batch = 64
    rates = (1e-3, 1e-3)
    adamw_rate = 2e-3
    levels = QUANTILES
    groups = True
    label = "future_target"

    def config(self, recipe: Any) -> PreTrainedConfig:
        """Config of the dense model of a recipe, with as many output patches as its horizon has.

        Raises
        ------
        FlowrankError
            If heads are of odd width: features turn in pairs.
        """
        if recipe.d_kv % 2:
            raise FlowrankError("d_kv", expected="an even width: features turn in pairs", found=recipe.d_kv)
        patch = recipe.input_patch_size
        chronos = {
            "context_length": recipe.context_length,
            "input_patch_size": patch,
            "input_patch_stride": patch,
            "output_patch_size": patch,
            "max_output_patches": -(-recipe.prediction_length // patch),
            "quantiles": list(recipe.quantiles),
            "time_encoding_scale": recipe.context_length,
            "use_arcsinh": True,
            "use_reg_token": True,
        }
        core: Any = Chronos2CoreConfig
        return core(
            **{name: getattr(recipe, name) for name in _SHAPE},
            dropout_rate=recipe.dropout_rate,
            initializer_factor=recipe.initializer_factor,
            rope_theta=ROTARY_BASE,
            chronos_config=chronos,
            chronos_pipeline_class="Chronos2Pipeline",
        )

    @torch.no_grad()
    def initialise(self, model: PreTrainedModel, recipe: Any) -> None:
        """Draw every matrix anew, as T5 does: transformers 5 draws all of them at one spread, ``initializer_factor``.

        The block that embeds patches gets the recipe's spread, and what forecasts are read off is shrunk.
        """
        factor = recipe.initializer_factor
        for module in model.modules():
            if isinstance(module, MHA):
                _draw_attention(module, factor)
            elif isinstance(module, MLP):
                draw(module.wi, factor * module.wi.in_features**-0.5)
                draw(module.wo, factor * max(1, module.wo.in_features) ** -0.5)
        for place in ("input", "output"):
            block: Any = model.get_submodule(f"{place}_patch_embedding")
            for layer, scale in (
                (block.hidden_layer, 1.0),
                (block.output_layer, recipe.output_scale),
                (block.residual_layer, recipe.output_scale),
            ):
                std = recipe.patch_spread if place == "input" else scale * max(1, layer.in_features) ** -0.5
                draw(layer, factor * std)

    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Widths, layers, dropout, lengths of context and horizon, patches and quantiles."""
        given: Any = config
        chronos = given.chronos_config
        patch = int(chronos["input_patch_size"])
        return {
            **{name: int(getattr(given, name)) for name in _SHAPE},
            "dropout_rate": float(given.dropout_rate),
            "context_length": int(chronos["context_length"]),
            "prediction_length": patch * int(chronos.get("max_output_patches", 1)),
            "input_patch_size": patch,
            "quantiles": tuple(chronos["quantiles"]),
        }

    def target_lengths(self, recipe: Any) -> tuple[int, ...]:
        """The recipe's horizons, or any number of whole patches up to what the model forecasts."""
        patch = recipe.input_patch_size
        most = -(-recipe.prediction_length // patch)
        return recipe.horizons or tuple(patch * number for number in range(1, most + 1))

    def tensors(self, recipe: Any, context: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each series a group of its own."""
        alone = torch.arange(len(context))
        return self.joint_tensors(recipe, context, target, torch.zeros(len(context), dtype=torch.bool), alone)

    def joint_tensors(
        self, recipe: Any, context: Tensor, target: Tensor, known: Tensor, group: Tensor
    ) -> dict[str, Tensor]:
        """Futures that are known are covariates, the others are learnt."""
        return {
            "context": context,
            "group_ids": group,
            "future_covariates": target.masked_fill(~known[:, None], torch.nan),
            "future_target": target.masked_fill(known[:, None], torch.nan),
        }

    def inputs(self, recipe: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors, and the number of patches that hold the targets."""
        return {**batch, "num_output_patches": -(-batch["future_target"].shape[1] // recipe.input_patch_size)}

    @contextmanager
    def prepared(self, model: PreTrainedModel) -> Iterator[None]:
        """Keep attention masks finite: a token without any to attend to would else become NaN in bfloat16."""
        blocks = [module for module in model.modules() if isinstance(module, Chronos2EncoderBlock)]
        handles = [block.register_forward_pre_hook(_with_finite_masks, with_kwargs=True) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def objective(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> Objective:
        """Quantile losses of the parent's quantiles and of the true future."""
        return GroupObjective(parent, distillation=distillation, truth=truth)

    def grow(self, model: PreTrainedModel, donor: PreTrainedModel) -> None:
        """Compute what a smaller Chronos-2 does, or take what fits of the encoder of a Chronos-Bolt."""
        if isinstance(donor, Chronos2Model):
            grow(model, donor)
        else:
            take_from_encoder(model, donor)


def _draw_attention(layer: MHA, factor: float) -> None:
    """Scores of unit inputs have unit spread, and so have outputs; each at the widths of this layer."""
    if isinstance(layer, NarrowMHA):
        layer.initialise(factor)
        return
    d_model = layer.d_model
    spreads = {"q": (d_model * layer.kv_proj_dim) ** -0.5, "k": d_model**-0.5, "v": d_model**-0.5}
    for name, std in {**spreads, "o": layer.inner_dim**-0.5}.items():
        draw(getattr(layer, name), factor * std)


def _with_finite_masks(block: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments of a block with masks that bfloat16 holds; so large a number leaves nothing of a weight either."""
    masks = {name: named[name].clamp_min(_LEAST) for name in ("attention_mask", "group_time_mask")}
    return arguments, {**named, **masks}


class GroupObjective(QuantileObjective):
    """Losses of Chronos-2 models; series whose future is known count for nothing."""

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Loss of ``context`` (B, L), ``group_ids`` (B,), ``future_target`` and ``future_covariates`` (B, H)."""
        learnt = batch["future_covariates"].isnan().all(dim=1)
        with torch.no_grad():
            taught, units = normalised_quantiles(self.parent, batch)
            target, _ = child.instance_norm(batch["future_target"], units)
        found, _ = normalised_quantiles(child, batch)
        return self.loss(found[learnt], taught[learnt], target[learnt])


def normalised_quantiles(
    model: Any, batch: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "batch levels horizon"], tuple[Tensor, Tensor]]:
    """Quantiles of a Chronos-2 as its head gives them (of arcsinh, if the model uses it), fp32, and series' units.

    The units are location and scale of each context; targets are compared in them by ``model.instance_norm``.
    """
    size = model.chronos_config.output_patch_size
    patches = -(-batch["future_target"].shape[1] // size)
    encoded, units, _, _ = model.encode(
        batch["context"],
        group_ids=batch["group_ids"],
        future_covariates=batch["future_covariates"],
        num_output_patches=patches,
    )
    ahead = model.output_patch_embedding(encoded[0][:, -patches:]).float()
    by_level = ahead.unflatten(2, (model.num_quantiles, size)).transpose(1, 2)
    return by_level.flatten(2), units
