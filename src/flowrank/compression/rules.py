"""How much to keep: rules as frozen values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from flowrank.errors import FlowrankError, is_number

Unit = Literal["parameters", "flops", "cache", "latency"]
"""What a budget counts."""


@dataclass(frozen=True)
class _Share:
    ratio: float

    def __post_init__(self) -> None:
        check_ratio(self.ratio)


@dataclass(frozen=True)
class Uniform(_Share):
    """Every head (or matrix) keeps the same fraction, so that ``ratio`` of the attention parameters remains.

    Components that have no effect (queries and keys of a layer that attends to one key) are removed first.

    Parameters
    ----------
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    """


@dataclass(frozen=True)
class Epsilon:
    """Every head (or matrix) keeps its ε-rank: the components with σ_j / σ_1 > ε (the paper's rule).

    Parameters
    ----------
    epsilon
        Relative tolerance in [0, 1); leave it out and give ``ratio`` for the smallest ε that keeps at most that share
        of the parameters.
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    """

    epsilon: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        _one_of(self, "epsilon", "ratio")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.epsilon is not None and not (is_number(self.epsilon, 0, kinds=Real) and self.epsilon < 1):
            raise FlowrankError("epsilon", expected="a number in [0, 1)", found=self.epsilon, todo="pass e.g. 0.05")


@dataclass(frozen=True)
class FlowOfRanks:
    """The paper's schedule: head width d̃(i) = ⌈ d̃_0 (1 + i)^α ⌉ at layer i (equation of section 4, Table 1).

    Cross-attention of decoder layer i counts as layer (encoder layers + i).

    Parameters
    ----------
    d0
        d̃_0; leave it out and give ``ratio`` for the largest d̃_0 that keeps at most that share of the parameters.
    alpha
        α, how fast widths grow.
    ratio
        Kept attention parameters over dense ones, in (0, 1].
    rounding
        "ceil" as in the paper, or "power_of_two" (the nearest) as in the authors' code.

    Examples
    --------
    >>> [FlowOfRanks(d0=3, alpha=0.27).width(layer) for layer in (0, 1, 5, 11, 23)]
    [3, 4, 5, 6, 8]
    """

    d0: float | None = None
    alpha: float = 0.35
    ratio: float | None = None
    rounding: Literal["ceil", "power_of_two"] = "ceil"

    def __post_init__(self) -> None:
        _one_of(self, "d0", "ratio")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.d0 is not None and not (is_number(self.d0, kinds=Real) and self.d0 > 0):
            raise FlowrankError("d0", expected="a positive width", found=self.d0)
        if not (is_number(self.alpha, kinds=Real) and math.isfinite(self.alpha)):
            raise FlowrankError("alpha", expected="a finite exponent", found=self.alpha)
        if self.rounding not in ("ceil", "power_of_two"):
            raise FlowrankError("rounding", expected="'ceil' or 'power_of_two'", found=repr(self.rounding))

    def width(self, layer: int, d0: float | None = None) -> int:
        """Head width at a layer."""
        exact = (self.d0 if d0 is None else d0) * (1 + layer) ** self.alpha
        if self.rounding == "power_of_two":
            return 2 ** max(0, round(math.log2(exact)))
        return max(1, math.ceil(exact - 1e-9))


@dataclass(frozen=True)
class Budget(_Share):
    """One budget for the whole model: components of any layer are kept in order of measured loss per unit of cost.

    Parameters
    ----------
    ratio
        Kept share of what is counted, in (0, 1]: of the attention layers with a method that compresses those, of the
        whole model with `WholeModel`.
    unit
        What is counted, with `WholeModel`: ``"parameters"``, ``"flops"`` of a forecast, bytes of the key and value
        ``"cache"``, or ``"latency"`` as predicted for this machine, after a short measurement on it.
    """

    unit: Unit = "parameters"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in get_args(Unit):
            raise FlowrankError("unit", expected=f"one of {', '.join(get_args(Unit))}", found=repr(self.unit))


Allocation = Uniform | Epsilon | FlowOfRanks | Budget


def check_ratio(ratio: Any, argument: str = "ratio") -> None:
    """Refuse a ratio outside (0, 1]."""
    if not is_number(ratio, 0, 1, kinds=Real) or ratio == 0:
        raise FlowrankError(
            argument,
            expected="the kept share of the attention parameters, a number in (0, 1]",
            found=repr(ratio),
            todo="pass e.g. 0.25 to keep a quarter",
        )


def _one_of(allocation: Any, first: str, second: str) -> None:
    if (getattr(allocation, first) is None) == (getattr(allocation, second) is None):
        raise FlowrankError(
            type(allocation).__name__,
            expected=f"{first} or {second}, one of them",
            found=repr(allocation),
            todo=f"give {first} for the rule itself or {second} for a size",
        )
