"""Which rows of a profile each of its plots shows; `flowrank.figures` draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank import figures
from flowrank.analysis.flow import flow_of, tolerance
from flowrank.errors import FlowrankError
from flowrank.figures.panel import level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flowrank.analysis.profile import RankProfile


def flow(profile: RankProfile, ax: Axes | None, epsilon: float | None, measure: str) -> Axes:
    """As `RankProfile.plot_flow`."""
    table = flow_of(profile.ranks, epsilon, measure)
    ax = figures.stream(_axes(ax), table)
    shown = f"rank at ε = {tolerance(profile.ranks, epsilon):g}" if measure == "rank" else measure.replace("_", " ")
    ax.set_ylabel(f"{shown} of the stream")
    return figures.legible(ax)


def spectra(profile: RankProfile, ax: Axes | None, quantity: str, stack: str) -> Axes:
    """As `RankProfile.plot_spectra`."""
    frame = profile.spectra
    part = frame[(frame["quantity"] == quantity) & (frame["stack"] == stack) & (frame["head"] == -1)]
    _require(part, "quantity", quantity, frame.loc[frame["head"] == -1, "quantity"])
    return figures.legible(figures.spectra(_axes(ax), part))


def ranks(
    profile: RankProfile,
    ax: Axes | None,
    quantities: tuple[str, ...],
    stack: str,
    kind: str,
    epsilon: float | None,
) -> Axes:
    """As `RankProfile.plot_ranks`."""
    frame = profile.ranks
    chosen = tolerance(profile.ranks, epsilon)
    part = frame[(frame["stack"] == stack) & (frame["kind"] == kind) & (frame["epsilon"] == chosen)]
    _require(part, "kind", f"{stack} {kind}", frame["stack"] + " " + frame["kind"])
    for quantity in quantities:
        line = part[(part["quantity"] == quantity) & (part["head"] == -1)]
        _require(line, "quantities", quantity, part["quantity"])
    part = part[(part["head"] == -1) & part["quantity"].isin(quantities)]
    ax = figures.lines(_axes(ax), part, quantities)
    ax.set_ylabel(f"rank at ε = {chosen:g}")
    return figures.legible(ax)


def bound(profile: RankProfile, ax: Axes | None, stack: str, kind: str, layer: int) -> Axes:
    """As `RankProfile.plot_bound`."""
    frame = profile.bounds
    part = frame[(frame["stack"] == stack) & (frame["kind"] == kind) & (frame["layer"] == layer)]
    _require(
        part,
        "layer",
        f"{stack} {kind} {layer}",
        frame["stack"] + " " + frame["kind"] + " " + frame["layer"].astype(str),
    )
    return figures.legible(figures.bound(_axes(ax), part))


def positions(profile: RankProfile, ax: Axes | None) -> Axes:
    """As `RankProfile.plot_positions`."""
    if profile.positions.empty:
        todo = "analyze a model with rotary positions"
        raise FlowrankError("profile", expected="queries and keys that turn", found="none", todo=todo)
    return figures.legible(figures.planes(_axes(ax), profile.positions))


def weights(profile: RankProfile, ax: Axes | None, stack: str, kind: str) -> Axes:
    """As `RankProfile.plot_weights`."""
    frame = profile.ranks
    part = frame[
        (frame["stack"] == stack) & (frame["kind"] == kind) & (frame["epsilon"] == tolerance(profile.ranks, None))
    ]
    part = part[(part["head"] == -1) & part["quantity"].str.startswith("W_")]
    _require(part, "kind", f"{stack} {kind}", frame["stack"] + " " + frame["kind"])
    widest = float(part["dim"].max())
    names = sorted(part["quantity"].unique())
    ax = figures.lines(_axes(ax), part, names, y="signal", among=[*part["signal"], widest])
    level(ax, widest, "full")
    ax.set_ylabel("singular values above noise")
    return figures.legible(ax)


def _axes(ax: Axes | None) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 3.6), layout="constrained")[1]


def _require(part: pd.DataFrame, argument: str, wanted: str, known: pd.Series) -> None:
    if part.empty:
        names = ", ".join(sorted(map(str, known.unique())))
        raise FlowrankError(argument, expected=f"one of {names}", found=repr(wanted))
