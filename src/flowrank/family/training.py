"""How models of a family are trained: from a recipe to a model, and from series to batches and losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.family.objectives import Objective

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels that most models forecast."""


class Training(ABC):
    """What a family knows about training; it has no state.

    A recipe (`flowrank.pretraining.Recipe`) is read by its fields.

    Attributes
    ----------
    key
        What a recipe calls the family.
    agreeing
        Keys of ``chronos_config`` in which a child and its parent must agree for their forecasts to be comparable.
    batch, horizons, rates
        Of healing, where its options leave them open: series a step; target lengths other than the model's own; peak
        rates of Muon and of the AdamW that goes with it.
    adamw_rate
        Of pretraining: peak rate of AdamW for what Muon leaves to it.
    levels
        Quantile levels that its models forecast where a recipe says none.
    groups
        Whether its models read series in groups: they are trained on tasks (`flowrank.synthetic.Task`).
    has_tokens
        Whether its models have a vocabulary of values.
    label
        Which of the tensors of a batch holds what comes.
    """

    key: ClassVar[str]
    agreeing: ClassVar[tuple[str, ...]]
    batch: ClassVar[int]
    horizons: ClassVar[tuple[int, ...]] = ()
    rates: ClassVar[tuple[float, float]]
    adamw_rate: ClassVar[float]
    levels: ClassVar[tuple[float, ...]] = QUANTILES
    groups: ClassVar[bool] = False
    has_tokens: ClassVar[bool] = False
    label: ClassVar[str] = "target"

    @abstractmethod
    def config(self, recipe: Any) -> PreTrainedConfig:
        """Config of the dense model of a recipe."""

    @abstractmethod
    def initialise(self, model: PreTrainedModel, recipe: Any) -> None:
        """Change random weights to what a recipe says of them."""

    @abstractmethod
    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """What a recipe says of a model that there is already, by the names of its fields."""

    @abstractmethod
    def tensors(self, recipe: Any, context: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Contexts (B, L) and targets (B, H), NaN = missing, as the model takes them in training."""

    def joint_tensors(
        self, recipe: Any, context: Tensor, target: Tensor, known: Tensor, group: Tensor
    ) -> dict[str, Tensor]:
        """Contexts (B, L) and targets (B, H) of groups, as the model takes them in training.

        ``known`` (B,) tells whose target is known when forecasting, ``group`` (B,) which series belong together.
        """
        return self.tensors(recipe, context, target)

    def inputs(self, recipe: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the model's forward pass on a batch: its tensors, and what is no tensor."""
        return dict(batch)

    def prepared(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Change what of a model would not survive training in bfloat16, until the context ends; here nothing."""
        return nullcontext()

    def target_lengths(self, recipe: Any) -> tuple[int, ...]:
        """Lengths of targets that a recipe trains on: its horizons, or all that the model forecasts."""
        return recipe.horizons or (recipe.prediction_length,)

    @abstractmethod
    def objective(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> Objective:
        """Loss of a child on a batch, against its parent."""

    @abstractmethod
    def grow(self, model: PreTrainedModel, donor: PreTrainedModel) -> None:
        """Overwrite the weights of a model so that it computes what a narrower one does."""

    def translate(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Settings of other people's training configs in terms of a recipe's, and notes on those without effect.

        ``defaults`` are a recipe's own settings. What is a recipe's already stays as it is.
        """
        return dict(raw), []

    def reuse_embedding(self, model: PreTrainedModel, donor: PreTrainedModel, source: str) -> None:
        """Take the token embedding of another model."""
        raise FlowrankError(
            "token_embedding",
            expected="a family of models with tokens",
            found=f"{self.key!r}, which has none",
            todo="leave it out",
        )
