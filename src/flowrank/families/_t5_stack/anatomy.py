"""The layers of T5 stacks, as plain data."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention, T5Block

from flowrank.anatomy import Attention, Block, Mlp, Positions, Projection, Stack, Sublayer
from flowrank.families._t5_stack.attention import NarrowT5Attention


def t5_blocks(model: nn.Module, *, decodes_one_token: bool = False) -> tuple[Block, ...]:
    """Every block of a model's T5 stacks, the encoder's first.

    Parameters
    ----------
    model
        A model with T5 blocks.
    decodes_one_token
        Whether its decoder has a single token, which then is the only key of its self-attention.
    """
    named: list[tuple[str, Any]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, T5Block)
    ]
    encoder_layers = sum(not block.is_decoder for _, block in named)
    counts = {"encoder": 0, "decoder": 0}
    blocks = []
    for name, block in named:
        stack: Stack = "decoder" if block.is_decoder else "encoder"
        reader = _Reader(name, stack, counts[stack], encoder_layers, decodes_one_token)
        blocks.append(Block(stack, counts[stack], block, reader.sublayers(block)))
        counts[stack] += 1
    return tuple(sorted(blocks, key=lambda block: block.stack != "encoder"))


class _Reader:
    """Reads the sublayers of one block."""

    def __init__(self, name: str, stack: Stack, layer: int, encoder_layers: int, decodes_one_token: bool) -> None:
        self.name, self.stack, self.layer, self.encoder_layers = name, stack, layer, encoder_layers
        self.decodes_one_token = decodes_one_token

    def sublayers(self, block: Any) -> tuple[Sublayer, ...]:
        first, *middle, last = block.layer
        result = [self.attention(0, first, "self", "SelfAttention")]
        result += [self.attention(number, one, "cross", "EncDecAttention") for number, one in enumerate(middle, 1)]
        place = f"{self.name}.layer.{len(result)}"
        return (*result, Sublayer("mlp", last.layer_norm, mlp=self.mlp(last, place), name=place))

    def attention(self, number: int, wrapper: Any, kind: Any, attribute: str) -> Sublayer:
        layer: Any = getattr(wrapper, attribute)
        place = f"{self.name}.layer.{number}"
        name = f"{place}.{attribute}"
        active, query_widths, value_widths = heads_of(layer)
        projections = {one: Projection(getattr(layer, one), f"{name}.{one}") for one in "qkvo"}
        return Sublayer(
            kind,
            wrapper.layer_norm,
            attention=Attention(
                name,
                self.stack,
                kind,
                self.layer,
                self.layer + (self.encoder_layers if kind == "cross" else 0),
                layer,
                query=projections["q"],
                key=projections["k"],
                value=projections["v"],
                output=projections["o"],
                active=active,
                query_widths=query_widths,
                value_widths=value_widths,
                d_model=layer.d_model,
                all_heads=layer.n_heads,
                d_kv=layer.key_value_proj_dim,
                positions=Positions("none" if kind == "cross" else "relative_bias"),
                single_key=self.decodes_one_token and self.stack == "decoder" and kind == "self",
            ),
            name=place,
        )

    def mlp(self, wrapper: Any, place: str) -> Mlp:
        dense = wrapper.DenseReluDense
        return Mlp(
            name=f"{place}.DenseReluDense",
            stack=self.stack,
            layer=self.layer,
            depth=self.layer + (self.encoder_layers if self.stack == "decoder" else 0),
            d_model=wrapper.layer_norm.weight.shape[0],
            reads=tuple(one for one, _ in dense.named_children() if one.startswith("wi")),
            writes="wo",
            residual=None,
            module=dense,
        )


def heads_of(layer: T5Attention) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The heads that a layer computes, and the width of each in queries and in values."""
    every = tuple(range(layer.n_heads))
    if not isinstance(layer, NarrowT5Attention):
        widths = (layer.key_value_proj_dim,) * layer.n_heads
        return every, widths, widths
    active = every if layer.active_heads is None else tuple(layer.active_heads)
    return active, layer.query_layout.widths, layer.value_layout.widths
