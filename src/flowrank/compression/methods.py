"""Compression methods are values: `compress(pipeline, method)` applies one."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from flowrank.compression.rules import Allocation, Budget, Epsilon, FlowOfRanks, Uniform
from flowrank.errors import FlowrankError, check_count


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


PARTS = ("heads", "neurons", "ends", "factors")
"""What `WholeModel` can make smaller."""


@dataclass(frozen=True)
class WholeModel(_Method):
    """Everything with parameters competes: head widths and heads as in `JointHeads`, neurons, ranks of other matrices.

    Neurons of feed-forward layers and of Chronos-Bolt's patch blocks are removed in the order in which the remaining
    ones can reconstruct them by least squares (as in optimal brain surgeon); matrices other than attention's become
    products of two factors where that is cheaper. A layer without heads or neurons is removed. A model made by
    `WholeModel` can be compressed by it again.

    Parameters
    ----------
    allocation
        `Budget` or `Uniform`; their ratio is that of the whole model.
    rounds
        Number of steps, of equal ratio, in which the model shrinks. It is measured anew before each, since measured
        losses hold for small changes only; feed-forward matrices become products in the last step.
    parts
        What competes: "heads", "neurons", "ends" (ranks of the matrices where series enter and forecasts leave: patch
        blocks and vocabulary) and, by default not, "factors" (ranks of feed-forward matrices: a little smaller, but
        with one more matrix product).
    refit
        Whether, at the end, every layer's output matrix is fitted so that the stream after the layer is the parent's
        (layer-wise reconstruction).
    """

    allocation: Budget | Uniform
    rounds: int = 2
    parts: tuple[str, ...] = ("heads", "neurons", "ends")
    refit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.allocation, Uniform | Budget):
            raise FlowrankError("allocation", expected="Uniform or Budget", found=repr(self.allocation))
        check_count(self.rounds, "rounds")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise FlowrankError("parts", expected=f"some of {', '.join(PARTS)}", found=repr(self.parts))


Method = WeightSVD | InputSVD | JointHeads | WholeModel


def describe(value: Any) -> dict[str, Any]:
    """Name and options of a method or an allocation, ready for JSON."""
    options = {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if not is_dataclass(getattr(value, field.name))
    }
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v is not None}
    return {"name": type(value).__name__, **plain}


def passes(method: Any) -> int:
    """How often a method runs the model over the calibration series.

    Not at all for `WeightSVD`, unless the allocation is measured; twice for `JointHeads` with a `Budget`: once for the
    bases, once for the loss at each rank; once a round for `WholeModel`, which fits on some series and measures on the
    others; otherwise once.

    Examples
    --------
    >>> [passes(m) for m in (WeightSVD(Uniform(0.5)), InputSVD(Budget(0.5)), JointHeads(Budget(0.5)))]
    [0, 1, 2]
    """
    if isinstance(method, WholeModel):
        return method.rounds
    measured = isinstance(getattr(method, "allocation", None), Budget)
    if isinstance(method, JointHeads):
        return 1 + measured
    return int(measured or not isinstance(method, WeightSVD))
