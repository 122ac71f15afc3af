"""The figures of ranks and spectra with their captions and legends."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import pandas as pd

from flowrank import figures
from flowrank.figures.depth import DASHES, EMBEDDED, LOWEST
from flowrank.figures.names import MOVERS, NAMES
from flowrank.figures.outcomes import NEURON_ROW, row_height
from flowrank.figures.panel import COLOURS, SERIES, SHAPES, level
from flowrank.report.ranks import SIGNAL, WEIGHTS, kept_rows, profile, sites, whole
from flowrank.report.tables import Figure, Legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LEVELS = (0.1, 0.01)


def spectra(frame: pd.DataFrame) -> list[Figure]:
    """Singular values σ_j/σ_1 on a log scale, one curve a layer, coloured by depth.

    Parameters
    ----------
    frame
        The columns of ``spectra.parquet``.

    Returns
    -------
    list of Figure
        The signal (layer inputs, one panel a site), and the weights and projections (one panel a quantity).
    """
    frame = whole(frame[frame["kind"] != "mlp"])
    depths = frame.loc[frame["kind"] != "embedding", "depth"]
    span = (int(depths.min()), int(depths.max())) if len(depths) else (0, 1)
    lowest = max(float(frame.loc[frame["sigma"] > 0, "sigma"].min()), LOWEST)
    embedded = frame[frame["quantity"] == "embedding"]
    signal: list[Drawing] = []
    weights: list[Drawing] = []
    for site in sites(frame):
        part = frame[(frame["site"] == site) & frame["quantity"].isin(["input", "embedding"])]
        if len(part):
            signal.append(_spectrum_panel(f"{site}: layer inputs", part, span, lowest))
    for quantity in NAMES:
        part = frame[frame["quantity"] == quantity]
        if quantity not in ("input", "embedding") and len(part):
            weights.append(_spectrum_panel(NAMES[quantity], part, span, lowest))
    colours = Legend(figures.depth_scale(), f"first layer (depth {span[0]}) to last (depth {span[1]})")
    dashed = [Legend(figures.key(COLOURS["ink"], dash=EMBEDDED), "embedded tokens")] if len(embedded) else []
    kinds = set(frame["kind"])
    others = [Legend(figures.key(COLOURS["soft"], dash=DASHES[kind]), MOVERS[kind]) for kind in DASHES if kind in kinds]
    lead = "Each curve is one layer, each point a singular value over the largest of its matrix, on a log scale."
    shown = [
        Figure(
            "spectra-signal",
            "What flows into each layer",
            f"{lead} Look at where a curve crosses ε: that is its numerical rank. Curves that flatten from "
            "blue to yellow are flow-of-ranks: each layer spreads the signal over more directions.",
            signal,
            [colours, *dashed],
        ),
        Figure(
            "spectra-weights",
            "Inside the layers: residual stream, projections and weights",
            f"{lead} A steep curve can be cut early at little cost; a flat one cannot. Compare the first "
            "layers (blue) with the last (yellow).",
            weights,
            [colours, *others],
        ),
    ]
    return [figure for figure in shown if figure.panels]


def _spectrum_panel(title: str, part: pd.DataFrame, depths: tuple[int, int], lowest: float) -> Drawing:
    ax = figures.panel()
    figures.spectra(ax, part, depths=depths, lowest=lowest, dashed=part["kind"].nunique() > 1)
    for epsilon in LEVELS:
        if epsilon > ax.get_ylim()[0]:
            level(ax, epsilon, f"ε = {epsilon:g}")
    about = f"Normalised singular values of {part['depth'].nunique()} layers over their index, log scale."
    return figures.framed(ax, title, about)


def rank_flow(frame: pd.DataFrame) -> list[Figure]:
    """Numerical rank over depth: of the signal for every ε, and of the weights for the largest ε.

    Parameters
    ----------
    frame
        The columns of ``rank_profile.parquet``.
    """
    frame = frame[frame["kind"] != "mlp"]
    table = profile(frame)
    epsilons = sorted(table["epsilon"].unique(), reverse=True)
    signal = [panel for epsilon in epsilons[:2] for panel in _rank_panels(table, frame, SIGNAL, epsilon)]
    weights = _rank_panels(table, frame, WEIGHTS, epsilons[0])
    present = set(table["quantity"])
    embedded = [Legend(figures.key(COLOURS["ink"], dash=EMBEDDED), "embedded tokens")] if "embedding" in present else []
    shown = [
        Figure(
            "flow-of-ranks",
            "Flow-of-ranks: the signal",
            "Numerical rank (how many singular values exceed ε times the largest) against depth, in the "
            "paper's count: cross-attention goes on from the last encoder layer. Look for a climb from left "
            "to right: where the signal is of low rank, a layer can be narrow.",
            signal,
            [*_legend(SIGNAL, present), *embedded],
        ),
        Figure(
            "rank-weights",
            "The same for the weights",
            f"Numerical rank of the weight matrices at ε = {epsilons[0]:g}. Weights of low rank can be "
            "factorised; where weights are of full rank but their input is not, look at input-aware "
            "methods.",
            weights,
            _legend(WEIGHTS, present),
        ),
    ]
    return [figure for figure in shown if figure.panels]


def _legend(quantities: tuple[str, ...], present: set[str]) -> list[Legend]:
    shown = [(i, q) for i, q in enumerate(quantities) if q in present]
    return [Legend(figures.key(SERIES[i], SHAPES[i]), NAMES[q]) for i, q in shown]


def _rank_panels(
    table: pd.DataFrame, frame: pd.DataFrame, quantities: tuple[str, ...], epsilon: float
) -> list[Drawing]:
    part = table[(table["epsilon"] == epsilon) & table["quantity"].isin([*quantities, "embedding"])]
    panels = []
    for site in sites(frame):
        lines = part[(part["site"] == site) & part["quantity"].isin(quantities)]
        if lines.empty:
            continue
        ax = figures.lines(figures.panel(), lines, quantities, x="depth", among=part["rank"])
        embedded = part[(part["quantity"] == "embedding") & (part["site"] == site)]
        if len(embedded) and "input" in quantities:
            level(ax, float(embedded["rank"].iloc[0]), hue=COLOURS["ink"], dash=EMBEDDED)
        ax.set(xlabel="depth (layer)", ylabel=f"rank at ε = {epsilon:g}, full width {lines['dim'].max():g}")
        about = f"Numerical rank at ε = {epsilon:g} over depth, of {', '.join(NAMES[q] for q in quantities)}."
        panels.append(figures.framed(ax, site, about))
    return panels


def kept_ranks(frame: pd.DataFrame) -> Figure:
    """Widths over depth before and after compression; a band spans the heads where they differ.

    Parameters
    ----------
    frame
        The columns of ``ranks.parquet``, of attention layers.
    """
    rows = pd.DataFrame(kept_rows(frame))
    parts = [p for p in ("QK", "VO", "Q", "K", "V", "O") if p in set(rows["part"])]
    parts += sorted(set(rows["part"]) - set(parts))
    by_head = bool((frame["head"] >= 0).any())
    panels = []
    for site in sites(frame):
        part = rows[rows["site"] == site]
        places = {name: place for place, name in enumerate(parts) if name in set(part["part"])}
        ax = figures.kept(figures.panel(), part, places, among=rows["full"])
        ax.set_ylabel("width of a head (mean over heads)" if by_head else "rank")
        panels.append(figures.framed(ax, site, "Width before compression (grey) and after, over depth."))
    legend = [Legend(figures.key(COLOURS["quiet"]), "before")]
    for i, name in enumerate(parts):
        label = {"QK": "queries and keys", "VO": "values and outputs"}.get(name, name)
        legend.append(Legend(figures.key(SERIES[i % len(SERIES)], SHAPES[i % len(SHAPES)]), f"{label}, after"))
    return Figure(
        "ranks-kept",
        "Ranks before and after compression",
        "What was there (grey) and what was kept, layer by layer; the shaded gap is what compression removed"
        + (", coloured bands span the heads. " if by_head else ". ")
        + "If flow-of-ranks holds, less is kept in early layers than in late ones.",
        panels,
        legend,
    )


def kept_neurons(frame: pd.DataFrame) -> Figure:
    """Hidden neurons of every feed-forward layer and block, before and after.

    Parameters
    ----------
    frame
        The columns of ``ranks.parquet``, of layers other than attention, in the order of the flow.
    """
    widest = float(frame["full"].max())
    panels = [_neurons_panel(stack, part, widest) for stack, part in frame.groupby("stack", sort=False)]
    return Figure(
        "neurons-kept",
        "Hidden neurons before and after compression",
        "What was there (grey) and what was kept (blue), from where series enter to where forecasts leave. A layer "
        "without a blue bar is gone; of a block that way, the path around its neurons remains.",
        panels,
        [Legend(figures.key(COLOURS["quiet"]), "before"), Legend(figures.key(SERIES[0]), "after")],
    )


def _neurons_panel(stack: Hashable, part: pd.DataFrame, widest: float) -> Drawing:
    layers = zip(part["kind"], part["layer"], strict=True)
    labels = ["patch block" if kind == "block" else f"layer {layer}" for kind, layer in layers]
    ax = figures.panel(height=row_height(len(part), NEURON_ROW), left=84)
    figures.neurons(ax, part["full"].tolist(), part["kept"].tolist(), labels, widest=widest)
    about = f"Hidden neurons of {len(part)} layers of the {stack}, before and after."
    return figures.framed(ax, str(stack).title(), about, grid="x")
