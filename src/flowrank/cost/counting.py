"""The cost of a forecast, computed without running it: operations, bytes moved, cache, and the roofline time.

Everything follows from sizes and the workload. A multiplication and its addition are two operations. Bytes moved are a
minimum without reuse in the processor's caches: each weight once a pass, keys and values once a query batch, each
layer's input and output. A model family counts the passes of its forecasts (`flowrank.family.Family.passes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flowrank.cost.machine import Machine
from flowrank.errors import check_count
from flowrank.nn.shapes import AttentionShape

_BALANCE = 15  # operations that take as long as a byte moved, in fp32: about 15 on processors and 20 on GPUs of today


@dataclass(frozen=True)
class Workload:
    """Number and length of the series, and what is forecast.

    Attributes
    ----------
    batch_size, context_length, horizon, num_samples
        B series of T points, H steps ahead, S sample paths each (of models that draw paths).
    """

    batch_size: int
    context_length: int
    horizon: int
    num_samples: int = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(value, name)


@dataclass(frozen=True)
class Part:
    """One stage of a forecast.

    Attributes
    ----------
    name
        "encoder", "cross keys and values", "decoder" or "head".
    flops
        Operations.
    moved
        Bytes.
    """

    name: str
    flops: int
    moved: int


@dataclass(frozen=True)
class Cost:
    """Cost of one workload.

    Attributes
    ----------
    parts
        Stage by stage.
    cache_self, cache_cross
        Bytes of keys and values held at their most.
    """

    parts: tuple[Part, ...]
    cache_self: int
    cache_cross: int

    @property
    def flops(self) -> int:
        """Operations, all parts."""
        return sum(part.flops for part in self.parts)

    @property
    def moved(self) -> int:
        """Bytes moved, all parts."""
        return sum(part.moved for part in self.parts)

    def roofline(self, machine: Machine) -> float:
        """Seconds that the machine needs at least: each part is bound by its operations or by its bytes."""
        return sum(
            max(part.flops / machine.flops_per_second, part.moved / machine.bytes_per_second) for part in self.parts
        )


@dataclass(frozen=True)
class LayerSize:
    """Sizes of one attention layer.

    Attributes
    ----------
    q, k, v, o
        Parameters of its projections.
    keys, values
        Features that a token keeps in a cache.
    heads
        How many are computed.
    attended
        Features that attention computes with: every head as wide as the widest.
    """

    q: int
    k: int
    v: int
    o: int
    keys: int
    values: int
    heads: int
    attended: int

    @property
    def parameters(self) -> int:
        """Of all projections."""
        return self.q + self.k + self.v + self.o

    @property
    def features(self) -> int:
        """Keys and values of a token."""
        return self.keys + self.values

    @classmethod
    def of(cls, shape: AttentionShape, d_model: int, *, even: bool) -> LayerSize:
        """Sizes by a shape; ``even``: each head as wide as the layer's widest, as exact engines have them."""
        active = [(k, v) for k, v in zip(shape.d_qk, shape.d_vo, strict=True) if v > 0]
        widest = [(max(1, *(k for k, _ in active)), max(v for _, v in active))] * len(active) if active else []
        attended = sum(map(sum, widest))
        if even:
            active = widest
        keys, values = sum(k for k, _ in active), sum(v for _, v in active)
        sizes = {
            name: (d_model + width) * shape.ranks[name] if name in shape.ranks else d_model * width
            for name, width in zip("qkvo", (keys, keys, values, values), strict=True)
        }
        return cls(**sizes, keys=keys, values=values, heads=len(active), attended=attended)


def encoder_pass(
    layers: Sequence[LayerSize], mlps: Sequence[int], *, rows: int, tokens: int, d_model: int, itemsize: int
) -> Part:
    """A stack of self-attention and feed-forward layers over ``rows`` series of ``tokens`` tokens.

    Parameters
    ----------
    layers, mlps
        Sizes of the attention layers, and parameters of the feed-forward layers.
    rows, tokens, d_model
        Series, tokens of each, and features of a token.
    itemsize
        Bytes a number.
    """
    parameters = sum(layer.parameters for layer in layers) + sum(mlps)
    attention = 2 * rows * tokens**2 * sum(layer.attended for layer in layers)
    moved = parameters + 2 * rows * tokens * d_model * len(layers)
    return Part("encoder", 2 * rows * tokens * parameters + attention, itemsize * moved)


@dataclass(frozen=True)
class Pass:
    """One run of a model over a batch, as a family counts it: its stages and its caches.

    Attributes
    ----------
    parts
        Stages.
    cache_self, cache_cross
        Bytes of keys and values.
    """

    parts: tuple[Part, ...]
    cache_self: int = 0
    cache_cross: int = 0


def total(passes: Iterable[Pass]) -> Cost:
    """Add up passes: parts of each name, and the largest caches."""
    every = list(passes)
    parts = [part for one in every for part in one.parts]
    largest = max(every, key=lambda one: (one.cache_cross, one.cache_self))
    return Cost(_merged(parts), cache_self=largest.cache_self, cache_cross=largest.cache_cross)


def blocks_of(workload: Workload, capacity: int, reach: int) -> Iterator[tuple[int, int]]:
    """Observations read and steps forecast, block by block of at most ``reach`` steps.

    Examples
    --------
    >>> list(blocks_of(Workload(1, 100, 80), capacity=128, reach=64))
    [(100, 64), (128, 16)]
    """
    for block in range(math.ceil(workload.horizon / reach)):
        yield min(workload.context_length + block * reach, capacity), min(reach, workload.horizon - block * reach)


def prefers_latent(d_model: int, heads: int, features: int, *, tokens: int, paths: int, series: int) -> bool:
    """Whether decoding reads the encoder's output faster than a layer's own keys and values.

    Parameters
    ----------
    d_model, heads, features
        d, h and k + v of the cross-attention layer: what a token of each cache holds is d and k + v.
    tokens, paths, series
        L, S and B.

    Notes
    -----
    A step and series costs 2 S L (k + v) operations on L (k + v) numbers with keys and values, and
    2 S (k + v + 2 h L) d on (L + (k + v) / B) d without. Whichever of operations and bytes takes longer counts.

    Examples
    --------
    >>> dense = {"d_model": 768, "heads": 12, "features": 1536, "tokens": 513, "series": 8}
    >>> prefers_latent(**dense, paths=1), prefers_latent(**dense, paths=20)
    (True, False)
    """
    own = max(2 * paths * tokens * features, _BALANCE * 4 * tokens * features)
    moved = 4 * (tokens + features / series) * d_model
    shared = max(2 * paths * (features + 2 * heads * tokens) * d_model, _BALANCE * moved)
    return shared < own


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Parts of all blocks, one of each name."""
    names = dict.fromkeys(part.name for part in parts)
    return tuple(
        Part(
            name,
            sum(part.flops for part in parts if part.name == name),
            sum(part.moved for part in parts if part.name == name),
        )
        for name in names
    )
