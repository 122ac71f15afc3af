"""The cost of a model, and of each of its components, in the unit of a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.compression.groups import Group
from flowrank.compression.rules import Unit
from flowrank.cost import Workload
from flowrank.errors import FlowrankError
from flowrank.family import cost, family_of_config
from flowrank.nn.shapes import Shapes

WORKLOAD = Workload(batch_size=32, context_length=512, horizon=64)
"""What is forecast where a budget counts operations or bytes."""

Price = Callable[[PreTrainedConfig], float]
"""Cost of a model by its config."""


def price_in(unit: Unit, model: PreTrainedModel) -> Price:
    """A function from a config, of the model or of a smaller one, to its cost; for latency there is `Latency`.

    Parameters
    ----------
    unit
        As of `Budget`, but not ``"latency"``.
    model
        The model.
    """
    assert unit != "latency"
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
    """Parameters of a config; shared ones count once.

    Attributes
    ----------
    untied
        Parameters that the model has in addition: the config declares weights as shared, but they differ.
    """

    untied: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Parameters:
        return cls(model.num_parameters() - _count(model.config))

    def __call__(self, config: PreTrainedConfig) -> float:
        shared = not Shapes.of(config).vocabulary
        return float(_count(config) + self.untied * shared)


def _count(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        return family_of_config(config).model_class(config)(config).num_parameters()


def priced(groups: list[Group], price: Price, config_of: Callable[[dict[int, int]], PreTrainedConfig]) -> list[Group]:
    """Groups whose costs are in the unit of a price.

    Parameters
    ----------
    groups
        Counted in parameters.
    price
        Of a config.
    config_of
        From ranks by index of a group to the config in which these groups are cut and all others are whole.
    """
    whole = price(config_of({}))
    result = []
    for index, group in enumerate(groups):

        def at(rank: int, index: int = index) -> float:
            return price(config_of({index: rank}))

        if group.size < 2:
            step = whole - at(0)
        elif group.dense_cost is None:
            step = (whole - at(1)) / (group.size - 1)
        else:  # beyond its capacity it is dense, and costs no more
            step = at(2) - at(1)
        step = max(0.0, step)
        dense = None if group.dense_cost is None else max(0.0, whole - at(min(1, group.size)) + step)
        result.append(replace(group, cost=step, dense_cost=dense))
    return result


def stands(group: Group) -> bool:
    """Whether the layer is removed with its groups: with those of heads or neurons, not with ranks of matrices."""
    return group.part in ("QK", "VO", "neurons")


def fixed_costs(
    groups: list[Group], price: Price, config_of: Callable[[dict[int, int]], PreTrainedConfig]
) -> dict[str, float]:
    """Fixed cost of each layer, by name: its cost at any width, in addition to that of its components.

    Parameters
    ----------
    groups
        As `priced` returned them; the other parameters are those of `priced`.
    """
    whole = price(config_of({}))
    mine: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if stands(group):
            mine.setdefault(group.site.name, []).append(index)
    costs = {}
    for name, indices in mine.items():
        saved = whole - price(config_of(dict.fromkeys(indices, 0)))
        costs[name] = max(0.0, saved - sum(groups[index].price(groups[index].capacity) for index in indices))
    return costs


def refuse_below(least: float, goal: float, dense: float, unit: str) -> None:
    """Refuse a budget that is less than the cost of the parts that cannot be removed."""
    if least > goal:
        raise FlowrankError(
            "ratio",
            expected=f"at least {least / dense:.3g} of the model's {unit}, which nothing here removes",
            found=f"{goal / dense:.3g}",
            todo="keep more",
        )
