"""A profile on matplotlib axes, for notebooks and papers: readable small, and safe for colour-blind readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank.analysis.flow import flow_of, tolerance
from flowrank.errors import FlowrankError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flowrank.analysis.profile import RankProfile

COLOURS = {"self": "#0072B2", "cross": "#009E73", "mlp": "#D55E00"}
"""Okabe and Ito's palette, by what moved the stream."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "osD^vP"
NAMES = {"self": "self-attention", "cross": "cross-attention", "mlp": "MLP"}


def flow(profile: RankProfile, ax: Axes | None, epsilon: float | None, measure: str) -> Axes:
    """As `RankProfile.plot_flow`."""
    table = flow_of(profile.ranks, epsilon, measure)
    ax = _axes(ax)
    place, ticks = 0, []
    for stack, part in table.groupby("stack", sort=False):
        ax.plot(place, part["before"].iloc[0], "o", color="black", markersize=6)
        for row in part.itertuples():
            ax.plot([place, place + 1], [row.before, row.after], color=COLOURS[str(row.kind)], linewidth=2.5)
            if row.kind == "mlp":
                ticks.append((place + 1, f"{str(stack)[:3]} {row.layer}"))
            place += 1
        place += 1
    for kind in [one for one in COLOURS if one in set(table["kind"])]:
        ax.plot([], [], color=COLOURS[kind], linewidth=2.5, label=NAMES[kind])
    step = max(1, len(ticks) // 8)
    ax.set_xticks([where for where, _ in ticks[::step]], [name for _, name in ticks[::step]])
    shown = f"rank at ε = {tolerance(profile.ranks, epsilon):g}" if measure == "rank" else measure.replace("_", " ")
    return _finished(ax, "after layer", f"{shown} of the stream")


def spectra(profile: RankProfile, ax: Axes | None, quantity: str, stack: str) -> Axes:
    """As `RankProfile.plot_spectra`."""
    frame = profile.spectra
    part = frame[(frame["quantity"] == quantity) & (frame["stack"] == stack) & (frame["head"] == -1)]
    _require(part, "quantity", quantity, frame.loc[frame["head"] == -1, "quantity"])
    ax = _axes(ax)
    import matplotlib as mpl

    layers = sorted(part["layer"].unique())
    colours = mpl.colormaps["viridis"]
    for (layer, kind), curve in part.groupby(["layer", "kind"]):
        shade = colours(0.85 * layers.index(layer) / max(1, len(layers) - 1))
        style = "--" if kind == "cross" else "-"
        name = f"layer {layer}" if layer in (layers[0], layers[-1]) and kind != "cross" else None
        ax.plot(curve["j"], curve["sigma"].clip(lower=1e-6), style, color=shade, linewidth=2, label=name)
    ax.set_yscale("log")
    return _finished(ax, "index j", "σⱼ / σ₁")


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
    ax = _axes(ax)
    for index, quantity in enumerate(quantities):
        line = part[(part["quantity"] == quantity) & (part["head"] == -1)].sort_values("layer")
        _require(line, "quantities", quantity, part["quantity"])
        style: dict[str, Any] = {"color": LINES[index % 6], "marker": MARKS[index % 6], "linewidth": 2}
        ax.plot(line["layer"], line["rank"], label=quantity.replace("_", " "), **style)
    ax.locator_params(axis="x", integer=True)
    ax.set_ylim(bottom=0)
    return _finished(ax, "layer", f"rank at ε = {chosen:g}")


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
    ax = _axes(ax)
    ax.plot(part["k"], part["sigma"].clip(lower=1e-6), color=LINES[0], linewidth=2, label="measured")
    ax.plot(part["k"], part["bound"].clip(lower=1e-6), color=LINES[1], linewidth=2, linestyle="--", label="theorem 4")
    ax.set_yscale("log")
    return _finished(ax, "index k", "σₖ / σ₁ after the layer")


def weights(profile: RankProfile, ax: Axes | None, stack: str, kind: str) -> Axes:
    """As `RankProfile.plot_weights`."""
    frame = profile.ranks
    part = frame[
        (frame["stack"] == stack) & (frame["kind"] == kind) & (frame["epsilon"] == tolerance(profile.ranks, None))
    ]
    part = part[(part["head"] == -1) & part["quantity"].str.startswith("W_")]
    _require(part, "kind", f"{stack} {kind}", frame["stack"] + " " + frame["kind"])
    ax = _axes(ax)
    for index, (name, line) in enumerate(part.groupby("quantity")):
        line = line.sort_values("layer")
        style: dict[str, Any] = {"color": LINES[index], "marker": MARKS[index], "linewidth": 2}
        ax.plot(line["layer"], line["signal"], label=str(name), **style)
    ax.axhline(part["dim"].max(), color="grey", linewidth=1, linestyle=":")
    ax.locator_params(axis="x", integer=True)
    ax.set_ylim(bottom=0)
    return _finished(ax, "layer", "singular values above noise")


def _axes(ax: Axes | None) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise FlowrankError(
            "matplotlib", expected="to be installed", found="nothing", todo='pip install "flowrank[plot]"'
        ) from None
    return plt.subplots(figsize=(5, 3.6), layout="constrained")[1]


def _require(part: pd.DataFrame, argument: str, wanted: str, known: pd.Series) -> None:
    if part.empty:
        names = ", ".join(sorted(map(str, known.unique())))
        raise FlowrankError(argument, expected=f"one of {names}", found=repr(wanted))


def _finished(ax: Axes, x: str, y: str) -> Axes:
    ax.set_xlabel(x, fontsize=13)
    ax.set_ylabel(y, fontsize=13)
    ax.tick_params(labelsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=11, frameon=False)
    return ax
