"""How models of a family are trained: from a recipe to a model, and from series to batches and losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.family.objectives import Objective


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
