"""How much accuracy may be lost, and which cost is to become small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flowrank.compression.rules import Unit
from flowrank.errors import FlowrankError, is_number

Metric = Literal["WQL", "MASE"]


@dataclass(frozen=True)
class Tolerance:
    """Asks for the cheapest model whose forecasts are worse than the parent's by at most a given share.

    Parameters
    ----------
    max_loss
        Largest relative increase of the metric, e.g. 0.01, in backtests on values that were not used to compress or
        heal. It holds on every third of the series, from those that the parent forecasts closely to those that it
        does not, and on synthetic series if they are used: of the part that loses most, the upper end of the
        confidence interval must not exceed ``max_loss``.
    metric
        "WQL" or "MASE".
    unit
        Cost that is to become small, as in `flowrank.Budget`.
    confidence
        One-sided confidence of the upper end, from a bootstrap over series; 0.5: the estimate itself.

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
