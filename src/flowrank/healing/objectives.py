"""What healing minimises: the distance to the parent's forecasts, and the loss of what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

LEAST_SPREAD = 0.3
"""Smallest expected loss of a parent taken at its word, in standard deviations of the context."""


class Objective(Protocol):
    """Loss of a child on a batch, beside its parent."""

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Weighted sum of both terms, a mean over series."""


class QuantileObjective:
    """Chronos-Bolt: quantile losses of the parent's quantiles and of the true future, relative to the parent's spread.

    Parameters
    ----------
    parent
        The model whose forecasts are the aim.
    distillation, truth
        Weights of the two terms.
    """

    def __init__(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> None:
        self.parent, self.distillation, self.truth = parent, distillation, truth
        self.levels = torch.tensor(parent.config.chronos_config["quantiles"], device=parent.device)

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Loss of a batch with ``context`` (B, L) and ``target`` (B, H)."""
        with torch.no_grad():
            taught, (location, scale) = normalised_quantiles(self.parent, batch["context"])
            target = (batch["target"] - location) / scale
        found, _ = normalised_quantiles(child, batch["context"])
        return quantile_objective(found, taught, target, self.levels, distillation=self.distillation, truth=self.truth)


class TokenObjective:
    """Chronos-T5: Kullback-Leibler divergence from the parent's tokens, and cross-entropy of the true ones.

    Parameters
    ----------
    parent
        The model whose forecasts are the aim.
    distillation, truth
        Weights of the two terms.
    """

    def __init__(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> None:
        self.parent, self.distillation, self.truth = parent, distillation, truth

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Loss of a batch with ``input_ids`` and ``attention_mask`` (B, L) and ``labels`` (B, H)."""
        labels = batch["labels"]
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        given["decoder_input_ids"] = child.prepare_decoder_input_ids_from_labels(labels=labels)
        with torch.no_grad():
            taught = self.parent(**given).logits
        found = child(**given).logits
        return token_objective(found, taught, labels, distillation=self.distillation, truth=self.truth)


def normalised_quantiles(
    model: Any, context: Float[Tensor, "batch time"]
) -> tuple[Float[Tensor, "batch levels horizon"], tuple[Tensor, Tensor]]:
    """Quantiles of a Chronos-Bolt in units of each context, fp32, with the location and scale of the contexts."""
    hidden, units, embeds, mask = model.encode(context)
    ahead = model.output_patch_embedding(model.decode(embeds, mask, hidden))
    return ahead.float().view(len(context), model.num_quantiles, -1), units


def quantile_objective(
    found: Float[Tensor, "batch levels horizon"],
    taught: Float[Tensor, "batch levels horizon"],
    target: Float[Tensor, "batch ahead"],
    levels: Float[Tensor, " levels"],
    *,
    distillation: float,
    truth: float,
) -> Float[Tensor, ""]:
    """Excess loss over the parent's, were its quantiles equally likely outcomes, plus the loss of what came.

    Both are relative to what the parent itself expects to lose on the series. Its quantiles are the unique minimum of
    the first term, for levels k / (n + 1).

    Parameters
    ----------
    found, taught
        Quantiles of child and parent.
    target
        What came, NaN = missing.
    levels
        Of the quantiles.
    distillation, truth
        Weights.

    Examples
    --------
    >>> levels = torch.arange(1, 10) / 10
    >>> taught = torch.randn(2, 9, 4).sort(dim=1).values
    >>> float(quantile_objective(taught, taught, torch.full((2, 4), torch.nan), levels, distillation=1.0, truth=1.0))
    0.0
    """
    taught = taught.sort(dim=1).values
    own = expected_loss(taught, taught, levels).mean(dim=1)
    spread = own.clamp_min(LEAST_SPREAD)
    excess = (expected_loss(found, taught, levels).mean(dim=1) - own) / spread
    seen = target.isnan().logical_not()
    came = pinball(torch.where(seen, target, 0.0)[:, None] - found[..., : target.shape[1]], levels[:, None]).mean(dim=1)
    came = (came * seen).sum(dim=1) / seen.sum(dim=1).clamp_min(1) / spread
    return distillation * excess.mean() + truth * came.mean()


def expected_loss(
    quantiles: Float[Tensor, "batch levels horizon"],
    outcomes: Float[Tensor, "batch outcomes horizon"],
    levels: Float[Tensor, " levels"],
) -> Float[Tensor, "batch horizon"]:
    """Mean quantile loss over levels and equally likely outcomes."""
    errors = outcomes[:, None] - quantiles[:, :, None]
    return pinball(errors, levels[:, None, None]).mean(dim=(1, 2))


def pinball(errors: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss of outcome minus quantile, times 2 so that a median's is its absolute error."""
    return 2 * torch.maximum(levels * errors, (levels - 1) * errors)


def token_objective(
    found: Float[Tensor, "batch horizon tokens"],
    taught: Float[Tensor, "batch horizon tokens"],
    labels: Int[Tensor, "batch horizon"],
    *,
    distillation: float,
    truth: float,
) -> Float[Tensor, ""]:
    """Divergence from the parent's tokens and cross-entropy of the true ones, each a mean over tokens.

    Parameters
    ----------
    found, taught
        Logits of child and parent.
    labels
        What came, -100 = missing.
    distillation, truth
        Weights.

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 8)
    >>> round(float(token_objective(logits, logits, torch.tensor([[2, 3, -100]]), distillation=1.0, truth=1.0)), 4)
    2.0794
    """
    seen: Bool[Tensor, "batch horizon"] = labels != -100
    logs = functional.log_softmax(found[seen].float(), dim=-1)
    aim = functional.log_softmax(taught[seen].float(), dim=-1)
    divergence = functional.kl_div(logs, aim, reduction="batchmean", log_target=True)
    return distillation * divergence + truth * functional.nll_loss(logs, labels[seen])
