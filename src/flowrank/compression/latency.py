"""Seconds of a forecast on this machine, as a sum over layers: measured on a few models, predicted for any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.children import assembled, pipeline_of
from flowrank.compression.timing import seconds_of
from flowrank.cost import Workload
from flowrank.family import cost, family_of_config, layout_of
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes

_SECONDS = 1.0  # for each model that is timed in turns with the whole one


@dataclass(frozen=True)
class Amount:
    """How much of one kind of layers there is; or, as a rate, the seconds of one of each.

    Attributes
    ----------
    layers, heads
        Number of those that keep at least one component.
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
    overhead
        Seconds that are spent outside of layers.
    rates
        Seconds of each layer, each head and each operation, by kind of layer.
    workload
        Number and length of the series, and steps ahead.
    """

    overhead: float
    rates: dict[str, Amount]
    workload: Workload

    def __call__(self, config: PreTrainedConfig) -> float:
        """Seconds of a forecast of a model by its config."""
        amounts = _amounts(config, self.workload)
        return self.overhead + sum(_seconds(self.rates[kind], amount) for kind, amount in amounts.items())

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Latency:
        """Read what `dataclasses.asdict` gave."""
        rates = {kind: Amount(**one) for kind, one in raw["rates"].items()}
        return cls(raw["overhead"], rates, Workload(**raw["workload"]))

    @classmethod
    def measure(cls, pipeline: Any) -> Latency:
        """Time a pipeline on this machine in turns with models that lack some kinds of layers, or most of their width.

        Each of up to 23 is timed in turns with the whole one, for a second, or as long as a few forecasts take: of 32
        series, or of 8 where sample paths are drawn, or of as many as one second is enough for. The rates are those
        that are not negative and leave the smallest relative errors.
        """
        model = pipeline.inner_model
        family = family_of_config(model.config)
        chronos, whole = model.config.chronos_config, pipeline_of(model)
        paths = int(chronos["num_samples"]) if "num_samples" in chronos else None
        sizes = {"batch_size": 32 if paths is None else 8, "context_length": min(512, int(chronos["context_length"]))}
        took = seconds_of({"whole": whole}, **sizes, seconds=0.0)["whole"]
        sizes["batch_size"] = max(1, int(sizes["batch_size"] / max(1.0, took)))
        workload = Workload(**sizes, horizon=family.usual_horizon(model.config), num_samples=paths or 1)
        kinds = _amounts(model.config, workload)
        least = float("inf")
        rows = [_row(kinds)]
        for shapes in _designs(model.config, list(kinds)):
            smaller = family.narrowed_config(model.config, shapes)
            timed = {"whole": whole, "smaller": pipeline_of(_like(model, smaller))}
            slow, fast = seconds_of(timed, **sizes, seconds=_SECONDS).values()
            least = min(least, slow)
            rows.append(_row(_amounts(smaller, workload)) * (slow / fast))
        system = np.array(rows)
        scale = np.abs(system).max(axis=0)
        scale[scale == 0] = 1.0
        overhead, *rates = nnls(system / scale, np.ones(len(rows)))[0] / scale * least
        found = {kind: Amount(*map(float, rates[3 * i : 3 * i + 3])) for i, kind in enumerate(kinds)}
        return cls(float(overhead), found, workload)


def _row(amounts: Mapping[str, Amount]) -> np.ndarray:
    return np.array([1.0, *(number for one in amounts.values() for number in (one.layers, one.heads, one.flops))])


def _designs(config: PreTrainedConfig, kinds: list[str]) -> Iterator[Shapes]:
    """Models to be timed."""
    nothing = [_without(config, kind) for kind in kinds]
    narrow = [_narrowed(config, kind) for kind in kinds]
    few = [_narrowed(config, kind, heads=True) for kind in kinds if "attention" in kind]
    yield from (*nothing, *narrow, *few)
    for parts in (nothing, narrow, *([one for one in nothing if one is not kept] for kept in nothing)):
        attention = {name: shape for one in parts for name, shape in one.attention.items()}
        mlp = {name: shape for one in parts for name, shape in one.mlp.items()}
        yield Shapes(attention, mlp, {name: rank for one in parts for name, rank in one.vocabulary.items()})


def _seconds(rate: Amount, amount: Amount) -> float:
    return rate.layers * amount.layers + rate.heads * amount.heads + rate.flops * amount.flops


def _amounts(config: PreTrainedConfig, workload: Workload) -> dict[str, Amount]:
    """How much there is of every kind; the operations are those that a model without it does not need."""
    layout, family = layout_of(config), family_of_config(config)
    shapes, kinds = layout.shapes, layout.kinds
    whole = cost(config, workload).flops
    heads = {name: sum(width > 0 for width in shape.d_vo) for name, shape in shapes.attention.items()}
    # With a single key there is nothing to choose from: all heads are one linear map.
    heads |= {name: min(1, heads[name]) for name in layout.single_key}
    widths = {name: shape.width for name, shape in shapes.mlp.items()}
    amounts = {}
    for kind in _kinds(config):
        flops = whole - cost(family.narrowed_config(config, _without(config, kind)), workload).flops
        mine = [heads[name] for name in heads if kinds[name] == kind]
        inner = [name for name in widths if kinds[name] == kind]
        layers = sum(size > 0 for size in (*mine, *(widths[name] for name in inner)))
        at_ends = bool(inner) and not any(name in layout.inner for name in inner)
        amounts[kind] = Amount(0 if at_ends else layers, sum(mine), flops)
    return amounts


def _kinds(config: PreTrainedConfig) -> list[str]:
    layout = layout_of(config)
    names = (*layout.shapes.attention, *layout.shapes.mlp)
    kinds = dict.fromkeys(layout.kinds[name] for name in names)
    return [*kinds, *([layout.vocabulary] if layout.vocabulary is not None else [])]


def _without(config: PreTrainedConfig, kind: str) -> Shapes:
    layout = layout_of(config)
    return Shapes(
        {name: _gone(one) for name, one in layout.shapes.attention.items() if layout.kinds[name] == kind},
        {name: MlpShape(0, layout.residual(name)) for name in layout.shapes.mlp if layout.kinds[name] == kind},
        {"embedding": 1, "head": 1} if kind == layout.vocabulary else {},
    )


def _gone(shape: AttentionShape) -> AttentionShape:
    heads = (0,) * len(shape.d_vo)
    return AttentionShape(heads, heads, {})


def _narrowed(config: PreTrainedConfig, kind: str, *, heads: bool = False) -> Shapes:
    """An eighth of the width of all layers of a kind, or half the heads."""
    layout = layout_of(config)
    rank = _eighth(int(config.hidden_size))
    return Shapes(
        {
            name: _fewer(shape) if heads else AttentionShape(_narrow(shape.d_qk), _narrow(shape.d_vo), {})
            for name, shape in layout.shapes.attention.items()
            if layout.kinds[name] == kind
        },
        {
            name: MlpShape(_eighth(one.width), layout.residual(name))
            for name, one in layout.shapes.mlp.items()
            if layout.kinds[name] == kind
        },
        {"embedding": rank, "head": rank} if kind == layout.vocabulary else {},
    )


def _eighth(width: int) -> int:
    return -(-width // 8)


def _narrow(widths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(_eighth, widths))


def _fewer(shape: AttentionShape) -> AttentionShape:
    """Every second head of those that are left."""
    kept = [head for head, width in enumerate(shape.d_vo) if width][::2]

    def some(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(width if head in kept else 0 for head, width in enumerate(widths))

    return AttentionShape(some(shape.d_qk), some(shape.d_vo), {})


def _like(parent: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a config to be timed: the parent's tensors where they fit, random ones where not."""
    with torch.device("meta"):
        blank = family_of_config(config).model_class(config)(config)
    known, generator = parent.state_dict(), torch.Generator().manual_seed(0)
    state = {}
    for name, one in blank.state_dict().items():
        fits = name in known and known[name].shape == one.shape
        fresh = None if fits else 0.05 * torch.randn(one.shape, generator=generator)
        state[name] = known[name] if fresh is None else fresh.to(parent.device, parent.dtype)
    return assembled(config, state, parent)
