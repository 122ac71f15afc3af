"""Seconds of a forecast on this machine, as a sum over layers: measured on a few models, predicted for any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.children import around, assembled
from flowrank.compression.shapes import Shapes
from flowrank.compression.timing import seconds_of
from flowrank.cost import Workload, cost
from flowrank.models import AttentionShape, MlpShape, model_class_of

_SECONDS = 1.0  # for each model that is timed beside the whole one
_FIELDS = ("attention", "mlps", "vocabulary")
_ENDS, _VOCABULARY = "patch blocks", "vocabulary"


@dataclass(frozen=True)
class Amount:
    """How much of one kind of layers there is; or, as a rate, the seconds of one of each.

    Attributes
    ----------
    layers, heads
        Of which something is left.
    flops
        Operations of a forecast.
    """

    layers: float
    heads: float
    flops: float


@dataclass(frozen=True)
class Latency:
    """Seconds of a forecast, predicted from what each layer, head and operation of each kind takes.

    Attributes
    ----------
    beside
        Seconds of what no layer does.
    rates
        Seconds of a layer, of a head and of an operation, by kind of layer.
    workload
        What is forecast.
    """

    beside: float
    rates: dict[str, Amount]
    workload: Workload

    def __call__(self, config: PreTrainedConfig) -> float:
        """Seconds of a forecast of a model by its config."""
        amounts = _amounts(config, self.workload)
        return self.beside + sum(_seconds(self.rates[kind], amount) for kind, amount in amounts.items())

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Latency:
        """Read what `dataclasses.asdict` gave."""
        rates = {kind: Amount(**one) for kind, one in raw["rates"].items()}
        return cls(raw["beside"], rates, Workload(**raw["workload"]))

    @classmethod
    def measure(cls, pipeline: Any) -> Latency:
        """Time a pipeline on this machine beside models that lack some kinds of layers, or most of their width.

        Each of up to 23 is timed in turns with the whole one, for a second, or as long as a few forecasts take: of 32
        series by a Bolt and of 8 by a T5, or of as many as one second is enough for. The rates are those that are not
        negative and leave the smallest relative errors.
        """
        model = pipeline.inner_model
        chronos, whole = model.config.chronos_config, around(model)
        paths = None if "input_patch_size" in chronos else int(chronos["num_samples"])
        sizes = {"batch_size": 32 if paths is None else 8, "context_length": min(512, int(chronos["context_length"]))}
        took = seconds_of({"whole": whole}, **sizes, seconds=0.0)["whole"]
        sizes["batch_size"] = max(1, int(sizes["batch_size"] / max(1.0, took)))
        workload = Workload(**sizes, horizon=int(chronos["prediction_length"]), num_samples=paths or 1)
        kinds = _amounts(model.config, workload)
        least = float("inf")
        rows = [_row(kinds)]
        for shapes in _designs(model.config, list(kinds)):
            smaller = shapes.config(model.config)
            timed = {"whole": whole, "smaller": around(_like(model, smaller))}
            slow, fast = seconds_of(timed, **sizes, seconds=_SECONDS).values()
            least = min(least, slow)
            rows.append(_row(_amounts(smaller, workload)) * (slow / fast))
        system = np.array(rows)
        scale = np.abs(system).max(axis=0)
        scale[scale == 0] = 1.0
        beside, *rates = nnls(system / scale, np.ones(len(rows)))[0] / scale * least
        found = {kind: Amount(*map(float, rates[3 * i : 3 * i + 3])) for i, kind in enumerate(kinds)}
        return cls(float(beside), found, workload)


def _row(amounts: Mapping[str, Amount]) -> np.ndarray:
    return np.array([1.0, *(number for one in amounts.values() for number in (one.layers, one.heads, one.flops))])


def _designs(config: PreTrainedConfig, kinds: list[str]) -> Iterator[Shapes]:
    """Models to be timed."""
    nothing = [_without(config, kind) for kind in kinds]
    narrow = [_narrowed(config, kind) for kind in kinds]
    few = [_narrowed(config, kind, heads=True) for kind in kinds if "attention" in kind]
    yield from (*nothing, *narrow, *few)
    for parts in (nothing, narrow, *([one for one in nothing if one is not kept] for kept in nothing)):
        yield Shapes(*({k: v for one in parts for k, v in getattr(one, name).items()} for name in _FIELDS))


def _seconds(rate: Amount, amount: Amount) -> float:
    return rate.layers * amount.layers + rate.heads * amount.heads + rate.flops * amount.flops


def _kind(layer: str) -> str:
    """What runs alike: layers of one sort in one stack."""
    stack, sort = layer.partition(".")[0], layer.rpartition(".")[2]
    if sort == "EncDecAttention":
        return "cross-attention"
    if sort == "SelfAttention":
        return f"{stack} attention"
    return f"{stack} feed-forward" if sort == "DenseReluDense" else _ENDS


def _amounts(config: PreTrainedConfig, workload: Workload) -> dict[str, Amount]:
    """How much there is of every kind; the operations are those that a model without it does not need."""
    shapes = Shapes.of(config)
    whole = cost(config, workload).flops
    heads = {name: sum(width > 0 for width in shape.d_vo) for name, shape in shapes.attention.items()}
    if _ENDS in map(_kind, shapes.mlps):  # one token has nothing to choose from: all heads are one linear map
        heads |= {name: min(1, heads[name]) for name in heads if _kind(name) == "decoder attention"}
    widths = {name: shape.width for name, shape in shapes.mlps.items()}
    kinds = dict.fromkeys(_kind(name) for name in (*heads, *widths))
    amounts = {}
    for kind in [*kinds, *([] if _ENDS in kinds else [_VOCABULARY])]:
        flops = whole - cost(_without(config, kind).config(config), workload).flops
        mine = [heads[name] for name in heads if _kind(name) == kind]
        layers = sum(size > 0 for size in (*mine, *(widths[name] for name in widths if _kind(name) == kind)))
        amounts[kind] = Amount(layers if kind != _ENDS else 0, sum(mine), flops)
    return amounts


def _without(config: PreTrainedConfig, kind: str) -> Shapes:
    shapes = Shapes.of(config)
    heads = (0,) * config.num_heads
    return Shapes(
        {name: AttentionShape(heads, heads, {}) for name in shapes.attention if _kind(name) == kind},
        {name: MlpShape(0, _beside(one)) for name, one in shapes.mlps.items() if _kind(name) == kind},
        {"embedding": 1, "head": 1} if kind == _VOCABULARY else {},
    )


def _narrowed(config: PreTrainedConfig, kind: str, *, heads: bool = False) -> Shapes:
    """An eighth of the width of all layers of a kind, or half the heads."""
    shapes = Shapes.of(config)
    rank = _eighth(config.d_model)
    return Shapes(
        {
            name: _fewer(shape) if heads else AttentionShape(_narrow(shape.d_qk), _narrow(shape.d_vo), {})
            for name, shape in shapes.attention.items()
            if _kind(name) == kind
        },
        {name: MlpShape(_eighth(one.width), _beside(one)) for name, one in shapes.mlps.items() if _kind(name) == kind},
        {"embedding": rank, "head": rank} if kind == _VOCABULARY else {},
    )


def _beside(shape: MlpShape) -> dict[str, int]:
    """Rank of the residual path of a patch block, which is not what becomes narrow."""
    return {name: rank for name, rank in shape.ranks.items() if name == "residual_layer"}


def _eighth(width: int) -> int:
    return -(-width // 8)


def _narrow(widths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(_eighth, widths))


def _fewer(shape: AttentionShape) -> AttentionShape:
    """Every other head that is left."""
    kept = [head for head, width in enumerate(shape.d_vo) if width][::2]

    def some(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(width if head in kept else 0 for head, width in enumerate(widths))

    return AttentionShape(some(shape.d_qk), some(shape.d_vo), {})


def _like(parent: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a config to be timed: the parent's tensors where they fit, random ones where not."""
    with torch.device("meta"):
        blank = model_class_of(config)(config)
    known, generator = parent.state_dict(), torch.Generator().manual_seed(0)
    state = {}
    for name, one in blank.state_dict().items():
        fits = name in known and known[name].shape == one.shape
        fresh = None if fits else 0.05 * torch.randn(one.shape, generator=generator)
        state[name] = known[name] if fresh is None else fresh.to(parent.device, parent.dtype)
    return assembled(config, state, parent)
