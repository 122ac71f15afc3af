"""Attention, MLPs and the vocabulary: where their weights are and what they read and write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowrank.anatomy.kinds import Stack
from flowrank.anatomy.positions import Positions
from flowrank.nn.factored import FactoredLinear, Unchanged


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention layer: a module, or one part of the features of a module.

    Attributes
    ----------
    module
        A linear layer, dense or of two factors.
    name
        Dotted name of the module in its model; "" where it is only analysed.
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
        if isinstance(self.module, Unchanged):
            matrix = torch.eye(self.module.in_features, dtype=torch.float64)
        elif isinstance(self.module, FactoredLinear):
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
        "encoder" or "decoder"; "self", "cross", or "group": to the tokens of other series at the same place.
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
        Whether every query attends to exactly one key. Then the softmax is 1, queries and keys do nothing, and the
        heads add up to one linear map: the layer counts as one head as wide as all of them.
    planes
        Of rotary positions: the planes in which each active head turns; (): all of them, and no other feature.
    """

    name: str
    stack: Stack
    kind: Literal["self", "cross", "group"]
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
    positions: Positions = field(default_factory=Positions)
    scale: float = 1.0
    single_key: bool = False
    planes: tuple[tuple[int, ...], ...] = ()

    @property
    def merged(self) -> bool:
        """Whether values and output are one matrix."""
        return isinstance(self.output.module, Unchanged)

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
    def turns(self) -> bool:
        """Whether queries and keys turn with their places, and a smaller layer may turn fewer planes."""
        return self.chooses and self.positions.separable

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
    def matrices(self) -> dict[str, Projection]:
        """Those of the maps that have a matrix of their own, by their letters."""
        return {
            letter: one
            for letter, one in self.projections.items()
            if any(parameter.numel() for parameter in one.module.parameters())
        }

    @property
    def dense_parameters(self) -> int:
        """Parameters of the four projections, as matrices."""
        if self.merged:
            return self.d_model**2
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
