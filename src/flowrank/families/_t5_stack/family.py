"""What families made of T5 stacks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.family import Family
from flowrank.nn.config import SENTENCE


class T5StackFamily(Family):
    """View of a pipeline whose model is made of T5 stacks."""

    model_types: ClassVar[tuple[str, ...]] = ("t5", "flowrank_t5", SENTENCE)

    def observed(
        self, site: Attention, kwargs: Mapping[str, Any], result: Any
    ) -> tuple[Float[Tensor, "batch heads queries keys"], Tensor | None]:
        """Weights, and the position bias of the layer's heads plus the mask."""
        _, bias, weights = result
        bias = bias.detach()
        if site.chooses and site.heads != bias.shape[1]:
            bias = bias[:, list(site.active)]
        mask = kwargs.get("mask")
        return weights.detach(), bias if mask is None else bias + mask
