"""Compression methods are values: `compress(pipeline, method)` applies one."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from flowrank.compression.allocation import Allocation, Budget, Epsilon, FlowOfRanks, Uniform
from flowrank.errors import FlowrankError


@dataclass(frozen=True)
class _Method:
    allocation: Allocation

    def __post_init__(self) -> None:
        if not isinstance(self.allocation, Uniform | Epsilon | FlowOfRanks | Budget):
            raise FlowrankError(
                "allocation",
                expected="Uniform, Epsilon, FlowOfRanks or Budget",
                found=repr(self.allocation),
                todo=f"write e.g. {type(self).__name__}(Budget(0.25))",
            )


@dataclass(frozen=True)
class WeightSVD(_Method):
    """Truncated SVD of each of W_Q, W_K, W_V, W_O alone: the paper's method, blind to the input.

    Two factors where that is smaller, dense where it is not.

    Parameters
    ----------
    allocation
        `Uniform`, `Epsilon`, `FlowOfRanks` or `Budget`.
    """


@dataclass(frozen=True)
class InputSVD(_Method):
    """Each of W_Q, W_K, W_V, W_O replaced by the rank-r matrix that minimises E‖x (W − W̃)‖² on calibration series.

    Two factors where that is smaller, dense where it is not (the construction of Theorem 3, weighted).

    Parameters
    ----------
    allocation
        `Uniform`, `Epsilon`, `FlowOfRanks` or `Budget`.
    """


@dataclass(frozen=True)
class JointHeads(_Method):
    """Per-head joint factorisation of W_Q W_Kᵀ and W_V W_O: narrower heads, in which the cache is narrower too.

    A head's scores depend on W_Q W_Kᵀ only and its contribution on W_V W_O only. Both are truncated in the metric of
    the calibration series' activations and of the forecast's curvature. Queries and values may end up with different
    widths. Heads of one layer have the same, so that nothing is padded when they run.

    Parameters
    ----------
    allocation
        `Uniform`, `Epsilon`, `FlowOfRanks` or `Budget`.
    per_head
        Let heads of one layer differ. Keeps a little more accuracy at the same size, but runs slower: narrow heads are
        padded to the widest on the way.
    """

    per_head: bool = False


Method = WeightSVD | InputSVD | JointHeads


def describe(value: Any) -> dict[str, Any]:
    """Name and options of a method or an allocation, ready for JSON."""
    options = {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if not is_dataclass(getattr(value, field.name))
    }
    return {"name": type(value).__name__, **{k: v for k, v in options.items() if v is not None}}


def passes(method: Any) -> int:
    """How often a method runs the model over the calibration series.

    Never for the SVD of the weights under an allocation that looks at nothing else; twice for `JointHeads` with a
    `Budget`: for the bases, and to measure what each rank is worth; else once.

    Examples
    --------
    >>> [passes(m) for m in (WeightSVD(Uniform(0.5)), InputSVD(Budget(0.5)), JointHeads(Budget(0.5)))]
    [0, 1, 2]
    """
    measured = isinstance(getattr(method, "allocation", None), Budget)
    if isinstance(method, JointHeads):
        return 1 + measured
    return int(measured or not isinstance(method, WeightSVD))
