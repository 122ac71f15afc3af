"""How much accuracy may be lost, and what is to become small for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flowrank.compression.rules import Unit
from flowrank.errors import FlowrankError, is_number

Metric = Literal["WQL", "MASE"]


@dataclass(frozen=True)
class Tolerance:
    """The cheapest model whose forecasts are at most so much worse than the parent's.

    Parameters
    ----------
    max_loss
        Share by which the metric may grow, e.g. 0.01; in backtests on series that took no part in compressing or
        healing, as a geometric mean over up to ten groups of them, calm to wild. The upper end of its confidence
        interval counts.
    metric
        "WQL" or "MASE".
    unit
        What is to become small, as of `flowrank.Budget`.
    confidence
        Of the upper end, one-sided, from a bootstrap over series; 0.5 is the plain estimate.

    Examples
    --------
    >>> Tolerance(0.01)
    Tolerance(max_loss=0.01, metric='WQL', unit='parameters', confidence=0.9)
    """

    max_loss: float
    metric: Metric = "WQL"
    unit: Unit = "parameters"
    confidence: float = 0.9

    def __post_init__(self) -> None:
        for name, low, high, example in (("max_loss", 0.0, 10.0, 0.01), ("confidence", 0.5, 1.0, 0.9)):
            value = getattr(self, name)
            if not is_number(value, low) or value >= high:
                raise FlowrankError(
                    name, expected=f"a number in [{low:g}, {high:g})", found=repr(value), todo=f"pass e.g. {example}"
                )
        for name, options in (("metric", get_args(Metric)), ("unit", get_args(Unit))):
            if getattr(self, name) not in options:
                raise FlowrankError(name, expected=f"one of {', '.join(options)}", found=repr(getattr(self, name)))
