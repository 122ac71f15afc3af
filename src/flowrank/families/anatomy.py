"""What any transformer is made of, as far as ranks go: blocks, their sublayers, and the four maps of attention.

A sublayer reads the residual stream through a norm and adds an update to it. T5-, BERT-, GPT-2- and ViT-like models of
transformers differ in where the norm sits, in the names of things, and in whether one matrix holds several maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention, T5Block
from transformers.pytorch_utils import Conv1D

from flowrank.errors import FlowrankError
from flowrank.models.attention import CompressedT5Attention
from flowrank.models.layers import FactoredLinear

Kind = Literal["self", "cross", "mlp"]


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention layer: a module, or one part of the features of a module.

    Attributes
    ----------
    module
        A linear layer, dense or of two factors.
    part, parts
        Which of how many equal parts of its outputs.
    """

    module: nn.Module
    part: int = 0
    parts: int = 1

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """Its matrix, float64, on the CPU."""
        module: Any = self.module
        if isinstance(module, FactoredLinear):
            matrix = module.up.weight.double() @ module.down.weight.double()
        else:
            matrix = module.weight.double().T if isinstance(module, Conv1D) else module.weight.double()
        return matrix.chunk(self.parts)[self.part].detach().cpu()

    @property
    def bias(self) -> Float[Tensor, " outputs"] | None:
        """What it adds, if anything."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else bias.double().chunk(self.parts)[self.part].detach().cpu()


@dataclass(frozen=True)
class Attention:
    """An attention layer.

    Attributes
    ----------
    module
        Its output is a tuple whose last entry is the attention weights (B, h, L_q, L_k), where they are computed.
    query, key, value, output
        W_Q, W_K, W_V, W_O.
    heads
        Numbers of the heads that are computed.
    d_qk, d_vo
        Features of each, in queries and keys and in values.
    """

    module: nn.Module
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    heads: tuple[int, ...]
    d_qk: tuple[int, ...]
    d_vo: tuple[int, ...]


@dataclass(frozen=True)
class Sublayer:
    """Attention or an MLP around the residual stream.

    Attributes
    ----------
    kind
        "self", "cross" or "mlp".
    norm
        Of its input (its block has ``norm_first``), or of the stream after it.
    attention
        None for an MLP.
    """

    kind: Kind
    norm: nn.Module
    attention: Attention | None = None


@dataclass(frozen=True)
class Block:
    """One layer of a stack.

    Attributes
    ----------
    stack, layer
        "encoder" or "decoder", and its index there, from 0.
    module
        Its first argument is the stream before it, its output (or the first of it) the stream after it.
    sublayers
        In the order of computation.
    norm_first
        Whether norms are taken of what a sublayer reads (T5, GPT-2, ViT), or of the stream after it (BERT).
    """

    stack: str
    layer: int
    module: nn.Module
    sublayers: tuple[Sublayer, ...]
    norm_first: bool = True


def blocks_of(model: nn.Module) -> list[Block]:
    """Every layer of a transformer, in the order in which its modules are registered.

    Parameters
    ----------
    model
        A model of transformers whose layers are built like T5's, BERT's, GPT-2's or ViT's.

    Raises
    ------
    FlowrankError
        If no such layer is found.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=8))
    >>> [(b.stack, b.layer, [s.kind for s in b.sublayers]) for b in blocks_of(model)]
    [('decoder', 0, ['self', 'mlp']), ('decoder', 1, ['self', 'mlp'])]
    """
    counts = {"encoder": 0, "decoder": 0}
    blocks = []
    for module in model.modules():
        for reader in _READERS:
            found = reader(module)
            if found is not None:
                stack, sublayers, norm_first = found
                blocks.append(Block(stack, counts[stack], module, tuple(sublayers), norm_first))
                counts[stack] += 1
                break
    if not blocks:
        raise FlowrankError(
            "model",
            expected="a transformer with layers like those of T5, BERT, GPT-2 or ViT in transformers",
            found=type(model).__name__,
        )
    return blocks


_Found = tuple[str, list[Sublayer], bool]


def _t5(block: Any) -> _Found | None:
    if not isinstance(block, T5Block):
        return None
    layers: Any = block.layer
    first, *middle, last = layers
    sublayers = [Sublayer("self", first.layer_norm, _t5_attention(first.SelfAttention))]
    sublayers += [Sublayer("cross", one.layer_norm, _t5_attention(one.EncDecAttention)) for one in middle]
    return "decoder" if block.is_decoder else "encoder", [*sublayers, Sublayer("mlp", last.layer_norm)], True


def _t5_attention(layer: T5Attention) -> Attention | None:
    q, k, v, o = (Projection(getattr(layer, name)) for name in "qkvo")
    if isinstance(layer, CompressedT5Attention):
        alive = range(layer.n_heads) if layer.alive_heads is None else layer.alive_heads
        widths = tuple(layer.query_layout.widths), tuple(layer.value_layout.widths)
        return Attention(layer, q, k, v, o, tuple(alive), *widths) if layer.value_layout.widths else None
    return _even(layer, q, k, v, o, layer.n_heads, layer.inner_dim)


def _even(
    module: nn.Module, q: Projection, k: Projection, v: Projection, o: Projection, heads: int, width: int
) -> Attention:
    widths = (width // heads,) * heads
    return Attention(module, q, k, v, o, tuple(range(heads)), widths, widths)


def _bert(block: Any) -> _Found | None:
    if not _has(block, "attention.self.query", "attention.output.LayerNorm", "intermediate", "output.LayerNorm"):
        return None

    def read(layer: Any) -> Attention:
        inner = layer.self
        q, k, v = (Projection(getattr(inner, name)) for name in ("query", "key", "value"))
        return _even(inner, q, k, v, Projection(layer.output.dense), inner.num_attention_heads, inner.all_head_size)

    sublayers = [Sublayer("self", block.attention.output.LayerNorm, read(block.attention))]
    crosses = hasattr(block, "crossattention")
    if crosses:
        sublayers.append(Sublayer("cross", block.crossattention.output.LayerNorm, read(block.crossattention)))
    sublayers.append(Sublayer("mlp", block.output.LayerNorm))
    return "decoder" if getattr(block, "is_decoder", False) else "encoder", sublayers, False


def _gpt2(block: Any) -> _Found | None:
    if not _has(block, "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp"):
        return None

    def read(layer: Any) -> Attention:
        crosses = hasattr(layer, "q_attn")
        parts = 2 if crosses else 3
        query = Projection(layer.q_attn) if crosses else Projection(layer.c_attn, 0, parts)
        key, value = (Projection(layer.c_attn, parts - 2 + i, parts) for i in range(2))
        return _even(layer, query, key, value, Projection(layer.c_proj), layer.num_heads, layer.embed_dim)

    sublayers = [Sublayer("self", block.ln_1, read(block.attn))]
    if hasattr(block, "crossattention"):
        sublayers.append(Sublayer("cross", block.ln_cross_attn, read(block.crossattention)))
    return "decoder", [*sublayers, Sublayer("mlp", block.ln_2)], True


def _vit(block: Any) -> _Found | None:
    if not _has(block, "layernorm_before", "layernorm_after", "attention"):
        return None
    layer = block.attention
    if _has(layer, "q_proj", "k_proj", "v_proj", "o_proj"):
        inner, names, output = layer, ("q_proj", "k_proj", "v_proj"), layer.o_proj
    elif _has(layer, "attention.query", "attention.key", "attention.value", "output.dense"):
        inner, names, output = layer.attention, ("query", "key", "value"), layer.output.dense
    else:
        return None
    q, k, v = (Projection(getattr(inner, name)) for name in names)
    heads = inner.num_attention_heads
    attention = _even(inner, q, k, v, Projection(output), heads, q.module.out_features)  # type: ignore[arg-type]
    sublayers = [Sublayer("self", block.layernorm_before, attention), Sublayer("mlp", block.layernorm_after)]
    return "encoder", sublayers, True


_READERS: tuple[Callable[[nn.Module], _Found | None], ...] = (_t5, _bert, _gpt2, _vit)


def _has(module: Any, *paths: str) -> bool:
    for path in paths:
        place = module
        for name in path.split("."):
            place = getattr(place, name, None)
            if place is None:
                return False
    return True


@contextmanager
def explicit_attention(model: Any, *, gradients: bool = False) -> Iterator[None]:
    """Within the block a model of transformers computes its attention weights, in eval mode; its weights are frozen."""
    attention, training = model.config._attn_implementation, model.training
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False).eval()
    model.set_attn_implementation("eager")
    try:
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
