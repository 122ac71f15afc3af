"""Losses of a child against its parent: the distance to the parent's forecasts, and the loss of what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

LEAST_SPREAD = 0.3
"""Smallest expected loss of a parent taken at its word, in standard deviations of the context."""


class Objective(Protocol):
    """Loss of a child on a batch, against its parent."""

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Weighted sum of both terms, a mean over series."""


class QuantileObjective:
    """Quantile losses of the parent's quantiles and of the true future, relative to the parent's spread.

    A family says how a model is run on a batch.

    Parameters
    ----------
    parent
        The model whose forecasts are the aim.
    distillation, truth
        Weights of the two terms.
    """

    def __init__(self, parent: Any, *, distillation: float, truth: float) -> None:
        self.parent, self.distillation, self.truth = parent, distillation, truth
        self.levels = torch.tensor(parent.config.chronos_config["quantiles"], device=parent.device)

    def loss(self, found: Tensor, taught: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """Of quantiles of child and parent (batch, levels, horizon), and what came (batch, ahead)."""
        weights = {"distillation": self.distillation, "truth": self.truth}
        return quantile_objective(found, taught, target, self.levels, **weights)


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
    entropy = expected_loss(taught, taught, levels).mean(dim=1)
    spread = entropy.clamp_min(LEAST_SPREAD)
    excess = (expected_loss(found, taught, levels).mean(dim=1) - entropy) / spread
    observed = target.isnan().logical_not()
    error = torch.where(observed, target, 0.0)[:, None] - found[..., : target.shape[1]]
    came = pinball(error, levels[:, None]).mean(dim=1)
    came = (came * observed).sum(dim=1) / observed.sum(dim=1).clamp_min(1) / spread
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
    observed: Bool[Tensor, "batch horizon"] = labels != -100
    logs = functional.log_softmax(found[observed].float(), dim=-1)
    aim = functional.log_softmax(taught[observed].float(), dim=-1)
    divergence = functional.kl_div(logs, aim, reduction="batchmean", log_target=True)
    return distillation * divergence + truth * functional.nll_loss(logs, labels[observed])


NARROWEST = 0.05
"""Smallest spread between neighbouring quantiles taken at its word, in standard deviations of the context."""


def quantile_probe(
    quantiles: Float[Tensor, "batch levels horizon"],
    levels: Float[Tensor, " levels"],
    generator: torch.Generator,
    *,
    weights: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Random projection of quantiles, weighted by the curvature of the expected quantile loss (see `Family.probe`).

    If the truth is distributed as the quantiles say, shifting the τ_k-quantile by δ costs ½ f(q_k) δ² of expected
    quantile loss, f the density there, here (τ_{k+1} − τ_{k−1}) / (q_{k+1} − q_{k−1}). A series counts relative to its
    own expected loss, which goes with the width of its forecast.

    Parameters
    ----------
    quantiles
        In units of each context.
    levels
        Of the quantiles, rising.
    generator
        Of the random signs.
    weights
        Which series count; None: all.
    """
    curvature = quantile_curvature(quantiles.detach().double(), levels.double())
    if weights is not None:
        curvature = curvature * weights.to(curvature)[:, None, None]
    signs = torch.randint(0, 2, quantiles.shape, generator=generator).to(quantiles) * 2 - 1
    return (signs * curvature.sqrt().to(quantiles) * quantiles).sum()


def quantile_curvature(
    quantiles: Float[Tensor, "batch levels horizon"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, "batch levels horizon"]:
    """Curvature of the expected loss in each quantile, relative to what the series is expected to lose."""
    ordered = quantiles.sort(dim=1).values
    steps = (ordered[:, 1:] - ordered[:, :-1]).clamp_min(NARROWEST)
    gaps = torch.cat([steps[:, :1], steps[:, 1:] + steps[:, :-1], steps[:, -1:]], dim=1)
    probability = levels[1:] - levels[:-1]
    probability = torch.cat([probability[:1], probability[1:] + probability[:-1], probability[-1:]])
    density = probability[None, :, None] / gaps
    loss = steps.sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
    return density / loss / quantiles.shape[2]
