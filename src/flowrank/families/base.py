"""A thin view of a model: where its attention is, and a loss whose curvature says what matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from flowrank.families.anatomy import explicit_attention
from flowrank.models import attention_layers


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer of a model.

    Attributes
    ----------
    name
        Dotted name of the module.
    stack, kind
        "encoder" or "decoder"; "self" or "cross".
    layer
        Index in its stack, from 0.
    depth
        Layer number of the rank schedule: ``layer``, and for cross-attention (encoder layers + ``layer``), as in the
        paper's code.
    heads, d_model, d_kv
        h, d and the width of one head.
    single_key
        Whether every query sees exactly one key. Then the softmax is 1, queries and keys do nothing, and the heads add
        up to one linear map: the site counts as one head as wide as all of them.
    module
        The layer itself.
    """

    name: str
    stack: Literal["encoder", "decoder"]
    kind: Literal["self", "cross"]
    layer: int
    depth: int
    heads: int
    d_model: int
    d_kv: int
    single_key: bool
    module: T5Attention

    @property
    def dense_parameters(self) -> int:
        """Parameters of the four projections of the dense layer."""
        return 4 * self.d_model * self.heads * self.d_kv


class Family(ABC):
    """View of a pipeline of one model family."""

    decodes_one_token: bool = False

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def model(self) -> Any:
        """The Hugging Face model inside the pipeline (a `PreTrainedModel`; its parts differ from family to family)."""
        return self.pipeline.inner_model

    @cached_property
    def sites(self) -> list[AttentionSite]:
        """Every attention layer, in the order of computation."""
        return [self._site(name, module) for name, module in attention_layers(self.model).items()]

    def _site(self, name: str, module: T5Attention) -> AttentionSite:
        stack, _, layer, _, _, attribute = name.split(".")
        cross = attribute == "EncDecAttention"
        single_key = self.decodes_one_token and stack == "decoder" and not cross
        heads = 1 if single_key else module.n_heads
        return AttentionSite(
            name=name,
            stack="encoder" if stack == "encoder" else "decoder",
            kind="cross" if cross else "self",
            layer=int(layer),
            depth=int(layer) + (self.model.config.num_layers if cross else 0),
            heads=heads,
            d_model=module.d_model,
            d_kv=module.inner_dim // heads,
            single_key=single_key,
            module=module,
        )

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The module whose output is the embedded context U."""

    @property
    def decoder_embedding(self) -> nn.Module:
        """The module whose output is the embedded decoder sequence."""
        return self.model.decoder.embed_tokens

    @abstractmethod
    def context_tokens(self, points: int) -> int:
        """L, the tokens that a context of so many points becomes."""

    @abstractmethod
    def probe(self, contexts: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, ""]:
        """Run the model on series (1-D, NaN = missing) and return a random scalar.

        Its gradient g satisfies E[g gᵀ] = the Gauss-Newton matrix of the family's own training loss, summed over the
        series, when the parent's forecasts are taken as the truth. So one backward pass measures what a small change
        anywhere costs.
        """

    @contextmanager
    def instrumented(self, *, gradients: bool) -> Iterator[None]:
        """Within the block attention weights are computed explicitly and activations, not weights, carry gradients."""
        hooks = [
            module.register_forward_hook(lambda _m, _i, output: output.requires_grad_(gradients))
            for module in (self.embedding, self.decoder_embedding)
        ]
        try:
            with explicit_attention(self.model, gradients=gradients):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def pad_left(contexts: Sequence[Tensor], device: torch.device) -> Float[Tensor, "batch time"]:
    """Stack series of different lengths, with NaN on the left."""
    length = max(len(context) for context in contexts)
    batch = torch.full((len(contexts), length), torch.nan, device=device)
    for row, context in zip(batch, contexts, strict=True):
        row[length - len(context) :] = context.to(device=device, dtype=torch.float32)
    return batch
