"""What a transformer is made of, as plain data: the one description of layers that everything else reads.

A model has blocks, a block has sublayers around the residual stream, a sublayer is attention or an MLP. A model family
writes this description (`flowrank.family`); measuring, compression, cost, engines, analysis and the report read it, and
describe no layer themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from flowrank.nn.factored import FactoredLinear

Stack = Literal["encoder", "decoder"]
Kind = Literal["self", "cross", "mlp"]


@dataclass(frozen=True)
class Positions:
    """How an attention layer knows where its tokens are, which decides what may be done to its queries and keys.

    Attributes
    ----------
    kind
        "none", "relative_bias" (a number added to each score) or "rotary" (queries and keys turn with their places).
    frequencies
        Of rotary positions: the angle in radians a token by which each plane of a head turns.
    normalised
        Whether queries and keys go through a norm of the whole head before they meet.

    Examples
    --------
    >>> Positions("relative_bias").joint, Positions("rotary", frequencies=(1.0, 0.1)).joint
    (True, False)
    """

    kind: Literal["none", "relative_bias", "rotary"] = "none"
    frequencies: tuple[float, ...] = ()
    normalised: bool = False

    @property
    def joint(self) -> bool:
        """Whether scores depend on W_Q W_Kᵀ alone, so that any basis S, T with S Tᵀ = I of a head is legal.

        Otherwise W_Q and W_K are compressed each by itself, as two factors.
        """
        return self.kind != "rotary" and not self.normalised


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention layer: a module, or one part of the features of a module.

    Attributes
    ----------
    module
        A linear layer, dense or of two factors.
    name
        Dotted name of the module in its model; "" where it is only looked at.
    part, parts
        Which of how many equal parts of its outputs.
    transposed
        Whether the module stores its matrix as (inputs, outputs).
    """

    module: nn.Module
    name: str = ""
    part: int = 0
    parts: int = 1
    transposed: bool = False

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """Its matrix, float64, on the CPU."""
        if isinstance(self.module, FactoredLinear):
            matrix = self.module.up.weight.double() @ self.module.down.weight.double()
        else:
            stored: Tensor = self.module.get_parameter("weight").double()
            matrix = stored.T if self.transposed else stored
        return matrix.chunk(self.parts)[self.part].detach().cpu()

    @property
    def bias(self) -> Float[Tensor, " outputs"] | None:
        """What it adds, if anything."""
        last = self.module.up if isinstance(self.module, FactoredLinear) else self.module
        bias: Tensor | None = getattr(last, "bias", None)
        return None if bias is None else bias.double().chunk(self.parts)[self.part].detach().cpu()


@dataclass(frozen=True)
class Attention:
    """An attention layer.

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
    module
        The layer itself.
    query, key, value, output
        W_Q, W_K, W_V, W_O.
    active
        Numbers of the heads that are computed.
    query_widths, value_widths
        Features of each of them, in queries and keys and in values.
    d_model
        Width of the residual stream.
    all_heads, d_kv
        Heads of the layer before any was removed, and the width of each.
    positions
        How places enter.
    scale
        What scores are multiplied by.
    single_key
        Whether every query sees exactly one key. Then the softmax is 1, queries and keys do nothing, and the heads add
        up to one linear map: the layer counts as one head as wide as all of them.
    """

    name: str
    stack: Stack
    kind: Literal["self", "cross"]
    layer: int
    depth: int
    module: nn.Module
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    active: tuple[int, ...]
    query_widths: tuple[int, ...]
    value_widths: tuple[int, ...]
    d_model: int
    all_heads: int
    d_kv: int
    positions: Positions = Positions()
    scale: float = 1.0
    single_key: bool = False

    @property
    def heads(self) -> int:
        """How many heads there are to compress."""
        return min(1, len(self.active)) if self.single_key else len(self.active)

    @property
    def d_qk(self) -> int:
        """Width of a head's queries and keys (of the widest, where they differ)."""
        return self._width(self.query_widths)

    @property
    def d_vo(self) -> int:
        """Width of a head's values (of the widest, where they differ)."""
        return self._width(self.value_widths)

    def _width(self, widths: tuple[int, ...]) -> int:
        widest = max(widths, default=0)
        return widest * len(widths) if self.single_key else widest

    @property
    def chooses(self) -> bool:
        """Whether scores make a difference: there is more than one key, and queries have a width."""
        return not self.single_key and self.d_qk > 0

    @property
    def joint(self) -> bool:
        """Whether W_Q and W_K of a head are compressed together: scores matter, and depend on their product alone."""
        return self.chooses and self.positions.joint

    @property
    def even(self) -> bool:
        """Whether all heads are of one width and every projection is one matrix."""
        one = len(set(zip(self.query_widths, self.value_widths, strict=True))) <= 1
        return one and not any(isinstance(each.module, FactoredLinear) for each in self.projections.values())

    @property
    def projections(self) -> dict[str, Projection]:
        """The four maps by the letters of a shape: "q", "k", "v", "o"."""
        return {"q": self.query, "k": self.key, "v": self.value, "o": self.output}

    @property
    def dense_parameters(self) -> int:
        """Parameters of the four projections, as matrices."""
        return 2 * self.d_model * self.heads * (self.d_qk + self.d_vo)


@dataclass(frozen=True)
class Mlp:
    """A feed-forward layer, or a residual block at an end of the model.

    Attributes
    ----------
    name
        Dotted name of the module.
    stack, layer
        "encoder" or "decoder", and the index there; a block that embeds series is before the encoder's layers (-1),
        one that reads forecasts off is after the decoder's.
    depth
        Layer number of the rank schedule.
    d_model
        Width of the residual stream.
    reads, writes
        Names of the linear layers into the hidden neurons and out of them.
    residual
        Name of the linear layer that goes around them, if there is one.
    module
        The layer itself.
    """

    name: str
    stack: Stack
    layer: int
    depth: int
    d_model: int
    reads: tuple[str, ...]
    writes: str
    residual: str | None
    module: nn.Module

    @property
    def kind(self) -> str:
        """What it is, where attention layers are "self" and "cross"."""
        return "mlp" if self.residual is None else "block"

    @property
    def linears(self) -> dict[str, nn.Module]:
        """Its linear layers by name."""
        names = (*self.reads, self.writes, *(() if self.residual is None else (self.residual,)))
        return {name: self.module.get_submodule(name) for name in names}

    @property
    def width(self) -> int:
        """Hidden neurons."""
        return int(self.linears[self.writes].in_features)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Vocabulary:
    """The embedding of a model's tokens and the head that scores them, which are factorised together.

    Attributes
    ----------
    name
        Of the head.
    embeddings
        Names under which the model knows the embedding; they are one module.
    embedding, head
        The modules.
    tied
        Whether they share one matrix.
    stack, kind, layer, depth
        As of other layers: it is after the decoder's.
    """

    name: str
    embeddings: tuple[str, ...]
    depth: int
    layer: int
    embedding: nn.Module
    head: nn.Module
    tied: bool
    stack: Stack = "decoder"
    kind: str = "vocabulary"


Layer = Attention | Mlp | Vocabulary


@dataclass(frozen=True)
class Sublayer:
    """Attention or an MLP around the residual stream.

    Attributes
    ----------
    kind
        "self", "cross" or "mlp".
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
    """

    name: str
    stack: Stack
    writers: tuple[str, ...]


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
        """Every layer that ends in a linear one and after which the stream can be seen, in the order of computation."""
        if self.ends.embedding is not None:
            yield _at_end(self.ends.embedding)
        for block in self.blocks:
            for one in block.sublayers:
                if one.name is not None and one.attention is not None:
                    yield Place(one.name, block.stack, (one.attention.output.name,))
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
