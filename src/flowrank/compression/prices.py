"""What a model costs in the unit of a budget, and what each component of it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.allocation import Group, Unit
from flowrank.compression.timing import seconds_of
from flowrank.cost import Machine, Workload, cost
from flowrank.errors import FlowrankError
from flowrank.models.t5 import model_class_of

WORKLOAD = Workload(batch_size=32, context_length=512, horizon=64)
"""What is forecast where a budget counts operations, bytes or time."""

Price = Callable[[PreTrainedConfig], float]
"""Cost of a model by its config."""


def price_in(unit: Unit, model: PreTrainedModel, latency: Latency | None = None) -> Price:
    """How a model, and what it can become, are counted.

    Parameters
    ----------
    unit
        As of `Budget`.
    model
        The model.
    latency
        For ``"latency"``.
    """
    if unit == "latency":
        assert latency is not None
        return latency
    if unit == "parameters":
        return _Parameters.of(model)
    return _flops if unit == "flops" else _cache


def _flops(config: PreTrainedConfig) -> float:
    return float(cost(config, WORKLOAD).flops)


def _cache(config: PreTrainedConfig) -> float:
    """Bytes of keys and values under the code path that keeps them for every layer."""
    one = cost(config, WORKLOAD, engine="stock")
    return float(one.cache_self + one.cache_cross)


@dataclass(frozen=True)
class _Parameters:
    """Parameters by a config, shared ones once.

    Attributes
    ----------
    untied
        Those that a model has beside what its config says: weights that differ are not shared, whatever it says.
    """

    untied: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Parameters:
        return cls(model.num_parameters() - _count(model.config))

    def __call__(self, config: PreTrainedConfig) -> float:
        shared = not getattr(config, "vocabulary_ranks", None)
        return float(_count(config) + self.untied * shared)


def _count(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        return model_class_of(config)(config).num_parameters()


@dataclass(frozen=True)
class Latency:
    """Seconds of a forecast, predicted from the least time of a config.

    What a forecast takes beside that (calls, sampling, products that run below the peak) is taken to be the same
    multiple of it, and the same sum, for all models of one family.

    Attributes
    ----------
    slope, beside
        Seconds for each second of least time, and for each forecast.
    machine
        What it does at best.
    itemsize
        Bytes of a number.
    """

    slope: float
    beside: float
    machine: Machine
    itemsize: int = 4

    def __call__(self, config: PreTrainedConfig) -> float:
        """Seconds of a forecast of `WORKLOAD`."""
        return self.beside + self.slope * self._floor(config)

    def _floor(self, config: PreTrainedConfig) -> float:
        return cost(config, WORKLOAD, itemsize=self.itemsize).floor(self.machine)

    @classmethod
    def measure(cls, large: Any, small: Any) -> Latency:
        """Time two pipelines of one family on this machine, in turns, for some seconds."""
        model = large.inner_model
        machine = Machine.measure(next(model.parameters()).device, model.dtype)
        unit = cls(1.0, 0.0, machine, model.dtype.itemsize)
        sizes = {"batch_size": WORKLOAD.batch_size, "context_length": WORKLOAD.context_length}
        slow, fast = seconds_of({"large": large, "small": small}, **sizes).values()
        most, least = (unit(one.inner_model.config) for one in (large, small))
        slope = max(1e-9, (slow - fast) / max(1e-12, most - least))
        return replace(unit, slope=slope, beside=max(0.0, slow - slope * most))


def priced(groups: list[Group], price: Price, config_of: Callable[[dict[int, int]], PreTrainedConfig]) -> list[Group]:
    """Groups whose costs are in the unit of a price.

    Parameters
    ----------
    groups
        Counted in parameters.
    price
        Of a config.
    config_of
        The config in which some groups, by index, keep only so many components and the others all.
    """
    whole = price(config_of({}))
    result = []
    for index, group in enumerate(groups):
        few, more = (price(config_of({index: rank})) for rank in (min(1, group.size), min(2, group.size)))
        step = max(0.0, more - few)
        if group.size < 2:
            step = max(0.0, whole - price(config_of({index: 0})))
        dense = None if group.dense_cost is None else max(0.0, whole - few + step)
        if dense is None and group.size >= 2:
            step = max(0.0, (whole - few) / (group.size - 1))
        result.append(replace(group, cost=step, dense_cost=dense))
    return result


def refuse_below(least: float, goal: float, dense: float, unit: str) -> None:
    """Refuse a budget that what cannot be removed exceeds already."""
    if least > goal:
        raise FlowrankError(
            "ratio",
            expected=f"at least {least / dense:.3g} of the model's {unit}, which nothing here removes",
            found=f"{goal / dense:.3g}",
            todo="keep more",
        )
