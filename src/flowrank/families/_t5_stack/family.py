"""What families made of T5 stacks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention, T5LayerFF, T5LayerSelfAttention, T5Stack

from flowrank.anatomy import Attention
from flowrank.families._t5_stack.attention import RETURNS_WEIGHTS, NarrowT5Attention
from flowrank.family import Family, explicit_attention
from flowrank.nn.config import SENTENCE


@contextmanager
def asking_for_weights(model: nn.Module) -> Iterator[None]:
    """Within the block T5 stacks return attention weights, as since transformers 5.15 they always do."""
    stacks = [] if RETURNS_WEIGHTS else [module for module in model.modules() if isinstance(module, T5Stack)]
    hooks = [stack.register_forward_pre_hook(_ask, with_kwargs=True) for stack in stacks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _ask(_stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "output_attentions": True}


class T5StackFamily(Family):
    """View of a pipeline whose model is made of T5 stacks."""

    model_types: ClassVar[tuple[str, ...]] = ("t5", "flowrank_t5", SENTENCE)

    @classmethod
    @contextmanager
    def explicit(cls, model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
        """Within the block a model computes its attention weights, in eval mode, and its own weights are frozen."""
        with asking_for_weights(model), explicit_attention(model, gradients=gradients):
            yield

    def skipped(self, layer: nn.Module, stream: Float[Tensor, "batch tokens d"], kwargs: Mapping[str, Any]) -> Any:
        """The stream, and for attention the position bias that it was given; the first one of a stack makes it."""
        if isinstance(layer, T5LayerFF):
            return stream
        if isinstance(layer, T5LayerSelfAttention):
            makes_bias: Any = layer.SelfAttention.has_relative_attention_bias
            if makes_bias:
                return None
        elif not isinstance(layer, T5LayerCrossAttention):
            return None
        bias = kwargs.get("position_bias")
        return (stream, bias, None) if RETURNS_WEIGHTS else (stream, bias)

    def observed(
        self, site: Attention, kwargs: Mapping[str, Any], result: Any
    ) -> tuple[Float[Tensor, "batch heads queries keys"], Tensor | None]:
        """Weights, and the position bias of the layer's heads plus the mask."""
        _, bias, weights = result
        holds_mask = not (RETURNS_WEIGHTS or isinstance(site.module, NarrowT5Attention))
        bias = bias.detach()
        if site.chooses and site.heads != bias.shape[1]:
            bias = bias[:, list(site.active)]
        mask = kwargs.get("mask")
        return weights.detach(), bias if mask is None or holds_mask else bias + mask
