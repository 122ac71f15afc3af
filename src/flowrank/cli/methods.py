"""Compression methods and allocations, as the options of ``flowrank compress`` name them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

import typer

import flowrank
from flowrank.cli.options import refuse_given
from flowrank.errors import FlowrankError


class MethodName(str, Enum):
    """Compression methods by the name the command line gives them."""

    joint = "joint"
    input = "input"
    weight = "weight"
    whole = "whole"


class AllocationName(str, Enum):
    """Allocations by the name the command line gives them."""

    budget = "budget"
    uniform = "uniform"
    flow = "flow"
    epsilon = "epsilon"


class UnitName(str, Enum):
    """Units by their names."""

    parameters = "parameters"
    flops = "flops"
    cache = "cache"
    latency = "latency"


@dataclass(frozen=True)
class Size:
    """How small the model gets, or how accurate it stays, and by which method."""

    panel: ClassVar[str | None] = None

    ratio: Annotated[
        float,
        typer.Option(
            help="Share to keep, in (0, 1]: "
            "of the attention parameters; with --method whole, of all that --unit counts."
        ),
    ] = 0.25
    max_loss: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of --ratio: search for the smallest model whose error grows by at most this share, e.g. 1%; "
            "for a model of each, 1%,3%.",
        ),
    ] = None
    method: Annotated[
        MethodName,
        typer.Option(
            help="joint: narrower attention heads; input: attention matrices of low rank, fitted to their inputs; "
            "weight: the same from the weights alone (plain SVD); whole: heads, feed-forward neurons and the rest."
        ),
    ] = MethodName.joint
    unit: Annotated[UnitName, typer.Option(help="Cost that is to become small, with --method whole or --max-loss.")] = (
        UnitName.parameters
    )


@dataclass(frozen=True)
class Reads:
    """What the smaller model reads."""

    panel: ClassVar[str | None] = "Models that read several series together"

    univariate: Annotated[
        bool,
        typer.Option(
            "--univariate",
            help="Of models that read several series together: the smaller model reads single series only, and has no "
            "attention to others. It refuses several targets and covariates.",
        ),
    ] = False


@dataclass(frozen=True)
class Ranks:
    """How a given size is shared out among layers."""

    panel: ClassVar[str | None] = "Ranks (with --ratio)"

    allocation: Annotated[
        AllocationName,
        typer.Option(
            help="How ranks are shared among layers: budget (where they reduce the error most), uniform (equally), "
            "flow (growing with depth) or epsilon (one tolerance ε for all). With --method whole: budget or uniform."
        ),
    ] = AllocationName.budget
    alpha: Annotated[
        float, typer.Option(help="Exponent α of --allocation flow: the rank of layer i grows like (1 + i)^α.")
    ] = 0.35
    per_head: Annotated[
        bool,
        typer.Option(
            "--per-head",
            help="With --method joint: heads of one layer may have different ranks; slightly more accurate, slower.",
        ),
    ] = False
    rounds: Annotated[
        int,
        typer.Option(help="With --method whole: rounds of removal, each by the same ratio and after new measurements."),
    ] = 2


def method_of(size: Size, ranks: Ranks) -> Any:
    """Return the library's method for the options.

    Raises
    ------
    FlowrankError
        If an option has no effect with the method.

    Examples
    --------
    >>> method_of(Size(ratio=0.5), Ranks(allocation=AllocationName.uniform))
    JointHeads(allocation=Uniform(ratio=0.5), per_head=False)
    """
    allocation = _allocation(size, ranks)
    if size.method is not MethodName.whole:
        refuse_given("--method whole", "--rounds", ranks.rounds, Ranks.rounds)
    if size.method is MethodName.joint:
        return flowrank.JointHeads(allocation, per_head=ranks.per_head)
    if ranks.per_head:
        raise FlowrankError("--per-head", expected="--method joint", found=f"--method {size.method.value}")
    if size.method is MethodName.whole:
        return flowrank.WholeModel(allocation, rounds=ranks.rounds)
    return (flowrank.InputSVD if size.method is MethodName.input else flowrank.WeightSVD)(allocation)


def _allocation(size: Size, ranks: Ranks) -> Any:
    whole, name = size.method is MethodName.whole, ranks.allocation
    if whole and name not in (AllocationName.budget, AllocationName.uniform):
        raise FlowrankError("--allocation", expected="budget or uniform with --method whole", found=name.value)
    if not (whole and name is AllocationName.budget) and size.unit is not UnitName.parameters:
        raise FlowrankError(
            "--unit",
            expected="parameters, unless it is --method whole with --allocation budget, or --max-loss",
            found=size.unit.value,
        )
    if name is AllocationName.flow:
        return flowrank.FlowOfRanks(ratio=size.ratio, alpha=ranks.alpha)
    if name is AllocationName.epsilon:
        return flowrank.Epsilon(ratio=size.ratio)
    if name is AllocationName.uniform:
        return flowrank.Uniform(size.ratio)
    return flowrank.Budget(size.ratio, unit=size.unit.value)
