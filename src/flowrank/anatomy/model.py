"""Blocks around the residual stream, and the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from flowrank.anatomy.kinds import Kind, Stack
from flowrank.anatomy.layers import Attention, Mlp, Vocabulary


@dataclass(frozen=True)
class Sublayer:
    """Attention or an MLP around the residual stream.

    Attributes
    ----------
    kind
        "self", "cross", "group" or "mlp".
    norm
        Of its input (its block has ``norm_first``), or of the stream after it.
    attention, mlp
        What it is; neither where a family describes it for analysis only.
    name
        Of a module whose output (or the first of it) is the stream after the sublayer; None if there is none.
    """

    kind: Kind
    norm: nn.Module
    attention: Attention | None = None
    mlp: Mlp | None = None
    name: str | None = None


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

    stack: Stack
    layer: int
    module: nn.Module
    sublayers: tuple[Sublayer, ...]
    norm_first: bool = True


@dataclass(frozen=True)
class Place:
    """Where the residual stream can be made to agree with another model's: a module and the matrices that it ends in.

    Attributes
    ----------
    name
        Dotted name of the module whose output is compared.
    stack
        "encoder" or "decoder".
    writers
        Dotted names of the linear layers whose sum it ends in.
    by_place
        Whether these read (tokens, series, features), as attention to other series does, where the output of the
        module is (series, tokens, features).
    """

    name: str
    stack: Stack
    writers: tuple[str, ...]
    by_place: bool = False


@dataclass(frozen=True)
class Ends:
    """Where series enter the model and forecasts leave it.

    Attributes
    ----------
    embedding, readout
        Blocks that embed patches and that read forecasts off; None where there are none.
    vocabulary
        Tokens; None where there are none.
    """

    embedding: Mlp | None = None
    readout: Mlp | None = None
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class Anatomy:
    """All layers of a model.

    Attributes
    ----------
    blocks
        In the order of computation.
    ends
        What comes before and after them.
    """

    blocks: tuple[Block, ...]
    ends: Ends = Ends()

    @cached_property
    def attention(self) -> list[Attention]:
        """Every attention layer, in the order of computation."""
        return [one.attention for block in self.blocks for one in block.sublayers if one.attention is not None]

    @cached_property
    def mlps(self) -> list[Mlp]:
        """Every feed-forward layer and residual block, in the order of computation."""
        inner = [one.mlp for block in self.blocks for one in block.sublayers if one.mlp is not None]
        first = [self.ends.embedding] if self.ends.embedding is not None else []
        last = [self.ends.readout] if self.ends.readout is not None else []
        return [*first, *inner, *last]

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The model's tokens, if it has any worth a factorisation."""
        return self.ends.vocabulary

    def layers(self, stack: Stack) -> int:
        """Number of blocks in a stack."""
        return sum(block.stack == stack for block in self.blocks)

    def places(self) -> Iterator[Place]:
        """Every layer that ends in a linear one and after which the stream can be read, in the order of computation."""
        if self.ends.embedding is not None:
            yield _at_end(self.ends.embedding)
        for block in self.blocks:
            for one in block.sublayers:
                if one.name is not None and one.attention is not None:
                    writer = one.attention.value if one.attention.merged else one.attention.output
                    yield Place(one.name, block.stack, (writer.name,), by_place=one.kind == "group")
                elif one.name is not None and one.mlp is not None:
                    yield Place(one.name, block.stack, (f"{one.mlp.name}.{one.mlp.writes}",))
        if self.ends.readout is not None:
            yield _at_end(self.ends.readout)

    def parameters_of_attention(self) -> int:
        """Parameters of the query, key, value and output projections of all attention layers."""
        found = {
            id(parameter): parameter.numel()
            for layer in self.attention
            for projection in layer.projections.values()
            for parameter in projection.module.parameters()
        }
        return sum(found.values())


def _at_end(block: Mlp) -> Place:
    writers = [block.writes] if block.residual is None else [block.writes, block.residual]
    return Place(block.name, block.stack, tuple(f"{block.name}.{writer}" for writer in writers))
