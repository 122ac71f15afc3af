"""Chronos-Bolt: continuous patches in, one decoder token, all quantiles of the horizon out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowrank.families.base import Family, pad_left

NARROWEST = 0.05
"""Smallest spread between neighbouring quantiles taken at its word, in standard deviations of the context."""


class ChronosBolt(Family):
    """View of a Chronos-Bolt pipeline."""

    decodes_one_token = True

    @property
    def embedding(self) -> nn.Module:
        """The residual block that embeds patches."""
        return self.model.input_patch_embedding

    def context_tokens(self, points: int) -> int:
        """Patches, and the [REG] token if the model uses one."""
        config = self.model.chronos_config
        points = min(points, config.context_length)
        return -(-points // config.input_patch_size) + int(config.use_reg_token)

    def probe(self, contexts: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, ""]:
        """Random projection of the quantiles, weighted by the curvature of the expected quantile loss.

        If the truth is distributed as the parent says, shifting the τ_k-quantile by δ costs ½ f(q_k) δ² of expected
        quantile loss, f the density there, here (τ_{k+1} − τ_{k−1}) / (q_{k+1} − q_{k−1}). A series counts relative
        to its own expected loss, which goes with the width of its forecast.
        """
        model = self.model
        quantiles = self.run(contexts).view(len(contexts), model.num_quantiles, model.chronos_config.prediction_length)
        curvature = _curvature(quantiles.detach().double(), model.quantiles.double())
        signs = torch.randint(0, 2, quantiles.shape, generator=generator).to(quantiles) * 2 - 1
        return (signs * curvature.sqrt().to(quantiles) * quantiles).sum()

    def run(self, contexts: Sequence[Tensor]) -> Float[Tensor, "batch 1 outputs"]:
        """Forecast one block."""
        model = self.model
        hidden, _, embeds, mask = model.encode(pad_left(contexts, model.device))
        return model.output_patch_embedding(model.decode(embeds, mask, hidden))

    def seen(self, contexts: Sequence[Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Patches with an observation, and the [REG] token."""
        model = self.model
        patches = model.patch(pad_left(contexts, model.device)[:, -model.chronos_config.context_length :])
        seen = patches.isnan().logical_not().any(dim=-1)
        if model.chronos_config.use_reg_token:
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        return seen


def _curvature(
    quantiles: Float[Tensor, "batch levels horizon"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "batch levels horizon"]:
    ordered = quantiles.sort(dim=1).values
    steps = (ordered[:, 1:] - ordered[:, :-1]).clamp_min(NARROWEST)
    gaps = torch.cat([steps[:, :1], steps[:, 1:] + steps[:, :-1], steps[:, -1:]], dim=1)
    probability = levels[1:] - levels[:-1]
    probability = torch.cat([probability[:1], probability[1:] + probability[:-1], probability[-1:]])
    density = probability[None, :, None] / gaps
    loss = steps.sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
    return density / loss / quantiles.shape[2]
