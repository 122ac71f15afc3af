"""A thin view of a model: where its attention is, and a loss whose curvature says what matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from chronos.chronos_bolt import ResidualBlock
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Attention

from flowrank.families.anatomy import explicit_attention
from flowrank.models import attention_layers, mlp_layers
from flowrank.models.attention import CompressedT5Attention


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
    alive
        Which of the layer's heads are computed.
    d_model, d_qk, d_vo
        d and the widths of one head, of its queries and keys and of its values (of the widest, where they differ).
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
    alive: tuple[int, ...]
    d_model: int
    d_qk: int
    d_vo: int
    single_key: bool
    module: T5Attention

    @property
    def heads(self) -> int:
        """How many heads are computed."""
        return len(self.alive)

    @property
    def chooses(self) -> bool:
        """Whether scores make a difference: there is more than one key, and queries have a width."""
        return not self.single_key and self.d_qk > 0

    @property
    def dense_parameters(self) -> int:
        """Parameters of the four projections."""
        return 2 * self.d_model * self.heads * (self.d_qk + self.d_vo)


@dataclass(frozen=True)
class MlpSite:
    """A feed-forward layer, or a residual block of Chronos-Bolt.

    Attributes
    ----------
    name
        Dotted name of the module.
    stack, layer
        "encoder" or "decoder", and the index there; a block that embeds patches is before the encoder's layers (-1),
        one that reads forecasts off is after the decoder's.
    depth
        Layer number of the rank schedule.
    d_model
        d.
    reads, writes
        Names of the linear layers into the hidden neurons and out of them.
    beside
        Name of the linear layer that goes around them, if there is one.
    module
        The layer itself.
    """

    name: str
    stack: Literal["encoder", "decoder"]
    layer: int
    depth: int
    d_model: int
    reads: tuple[str, ...]
    writes: str
    beside: str | None
    module: nn.Module

    @property
    def kind(self) -> str:
        """What it is, beside "self" and "cross" of attention layers."""
        return "mlp" if self.beside is None else "block"

    @property
    def linears(self) -> dict[str, nn.Module]:
        """Its linear layers by name."""
        names = (*self.reads, self.writes, *(() if self.beside is None else (self.beside,)))
        return {name: getattr(self.module, name) for name in names}

    @property
    def width(self) -> int:
        """Hidden neurons."""
        return int(self.linears[self.writes].in_features)  # type: ignore[arg-type]


@dataclass(frozen=True)
class VocabularySite:
    """The embedding of a model's tokens and the head that scores them, which are factorised together.

    Attributes
    ----------
    name
        Of the head.
    stack, kind, layer, depth
        As of other sites: it is after the decoder's layers.
    embedding, head
        The modules.
    tied
        Whether they share one matrix.
    """

    name: str
    depth: int
    layer: int
    embedding: nn.Module
    head: nn.Module
    tied: bool
    stack: Literal["encoder", "decoder"] = "decoder"
    kind: str = "vocabulary"


Site = AttentionSite | MlpSite | VocabularySite


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
    def attention(self) -> list[AttentionSite]:
        """Every attention layer, in the order of computation."""
        return [self._site(name, module) for name, module in attention_layers(self.model).items()]

    @property
    def sites(self) -> list[AttentionSite]:
        """Those that have a head left."""
        return [site for site in self.attention if site.heads]

    def _site(self, name: str, module: T5Attention) -> AttentionSite:
        stack, _, layer, _, _, attribute = name.split(".")
        cross = attribute == "EncDecAttention"
        single_key = self.decodes_one_token and stack == "decoder" and not cross
        alive, d_qk, d_vo = _heads(module)
        if single_key:
            alive, d_qk, d_vo = alive[:1], d_qk * len(alive), d_vo * len(alive)
        return AttentionSite(
            name=name,
            stack="encoder" if stack == "encoder" else "decoder",
            kind="cross" if cross else "self",
            layer=int(layer),
            depth=int(layer) + (self.model.config.num_layers if cross else 0),
            alive=alive,
            d_model=module.d_model,
            d_qk=d_qk,
            d_vo=d_vo,
            single_key=single_key,
            module=module,
        )

    @cached_property
    def mlps(self) -> list[MlpSite]:
        """Every feed-forward layer and residual block, in the order of computation."""
        return [self._mlp(name, module) for name, module in mlp_layers(self.model).items()]

    def _mlp(self, name: str, module: nn.Module) -> MlpSite:
        config = self.model.config
        if isinstance(module, ResidualBlock):
            reads: tuple[str, ...] = ("hidden_layer",)
            writes, beside = "output_layer", "residual_layer"
            embeds = name.startswith("input")
            stack, layer = ("encoder", -1) if embeds else ("decoder", config.num_decoder_layers)
            depth = 0 if embeds else config.num_layers + config.num_decoder_layers
        else:
            reads = tuple(one for one, _ in module.named_children() if one.startswith("wi"))
            writes, beside = "wo", None
            stack, _, index, *_ = name.split(".")
            layer = int(index)
            depth = layer + (config.num_layers if stack == "decoder" else 0)
        return MlpSite(
            name=name,
            stack="encoder" if stack == "encoder" else "decoder",
            layer=layer,
            depth=depth,
            d_model=config.d_model,
            reads=reads,
            writes=writes,
            beside=beside,
            module=module,
        )

    @property
    def vocabulary(self) -> VocabularySite | None:
        """The model's tokens, where it has any worth a factorisation."""
        return None

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

    @abstractmethod
    def run(self, contexts: Sequence[Tensor]) -> Tensor:
        """Run the model on series: its quantiles (B, 1, quantiles · H), or logits (B, H, vocabulary) of their ends."""

    @abstractmethod
    def seen(self, contexts: Sequence[Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Which of the encoder's tokens are no padding when series are run together."""

    @contextmanager
    def knowing(self, encoded: Float[Tensor, "batch tokens d"]) -> Iterator[None]:
        """Within the block the encoder is not run: ``encoded`` is what it gives."""
        encoder = self.model.encoder
        encoder.forward = lambda *_args, **_kwargs: BaseModelOutput(last_hidden_state=encoded)
        try:
            yield
        finally:
            del encoder.forward

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


def _heads(module: T5Attention) -> tuple[tuple[int, ...], int, int]:
    """The heads that a layer computes, and the width of the widest."""
    if not isinstance(module, CompressedT5Attention):
        return tuple(range(module.n_heads)), module.key_value_proj_dim, module.key_value_proj_dim
    alive = tuple(range(module.n_heads) if module.alive_heads is None else module.alive_heads)
    shape = module.shape
    return alive, max((shape.d_qk[h] for h in alive), default=0), max((shape.d_vo[h] for h in alive), default=0)


def pad_left(contexts: Sequence[Tensor], device: torch.device) -> Float[Tensor, "batch time"]:
    """Stack series of different lengths, with NaN on the left."""
    length = max(len(context) for context in contexts)
    batch = torch.full((len(contexts), length), torch.nan, device=device)
    for row, context in zip(batch, contexts, strict=True):
        row[length - len(context) :] = context.to(device=device, dtype=torch.float32)
    return batch
