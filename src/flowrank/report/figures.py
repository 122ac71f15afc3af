"""The figures of ranks and spectra: frames in, panels out."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd

from flowrank.report.ranks import NAMES, SIGNAL, SITES, WEIGHTS, kept_rows, profile, site_of, sites, whole
from flowrank.report.svg import BOTTOM, SERIES, SHAPES, TOP, Axis, Panel, depth_colour, depth_scale, swatch
from flowrank.report.tables import Figure, Legend

CURVE_POINTS = 64
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
    lowest = max(float(frame.loc[frame["sigma"] > 0, "sigma"].min()), 1e-5)
    y = Axis.over([lowest, 1.0], log=True)
    embedded = frame[frame["quantity"] == "embedding"]
    signal: list[str] = []
    weights: list[str] = []
    for site in sites(frame):
        part = frame[(frame["site"] == site) & frame["quantity"].isin(["input", "embedding"])]
        if len(part):
            signal.append(_spectrum_panel(f"{site}: layer inputs", part, y, span))
    for quantity in NAMES:
        part = frame[frame["quantity"] == quantity]
        if quantity not in ("input", "embedding") and len(part):
            weights.append(_spectrum_panel(NAMES[quantity], part, y, span))
    colours = Legend(depth_scale(), f"first layer (depth {span[0]}) to last (depth {span[1]})")
    dashed = [Legend(swatch("ink", dash="5 3"), "embedded tokens")] if len(embedded) else []
    cross = [Legend(swatch("soft", dash="2 2"), "cross-attention")]
    lead = "Each curve is one layer, each point a singular value over the largest of its matrix, on a log scale."
    figures = [
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
            [colours, *(cross if (frame["kind"] == "cross").any() else [])],
        ),
    ]
    return [figure for figure in figures if figure.panels]


def _spectrum_panel(title: str, part: pd.DataFrame, y: Axis, span: tuple[int, int]) -> str:
    longest = int(part["j"].max())
    panel = Panel(
        title,
        f"Normalised singular values of {part['depth'].nunique()} layers over their index, log scale.",
        x=Axis.over([0, longest], zero=True),
        y=y,
        x_label="index j",
        y_label="σⱼ / σ₁",
    )
    for level in LEVELS:
        if level > y.low:
            panel.level(level, f"ε = {level:g}")
    keys = ["quantity", "kind", "site", "depth"]
    for (quantity, kind, _, depth), curve in part.groupby(keys, sort=True):
        sigma = np.log(curve["sigma"].clip(lower=1e-300)).groupby(curve["j"]).median()
        sigma = sigma[sigma >= np.log(y.low)]
        keep = _spread(len(sigma))
        places, values = sigma.index.to_numpy()[keep].tolist(), np.exp(sigma.to_numpy()[keep]).tolist()
        if quantity == "embedding":
            panel.line(places, values, "ink", dash="5 3")
        else:
            hue = depth_colour((float(str(depth)) - span[0]) / max(1, span[1] - span[0]))
            dash = "2 2" if kind == "cross" and "cross" not in title else ""
            panel.line(places, values, hue, width=1.3, dash=dash)
    return panel.svg()


def _spread(count: int) -> np.ndarray:
    """Positions of the points to draw: dense where a spectrum falls fastest, at the front."""
    if not count:
        return np.empty(0, dtype=int)
    near = np.geomspace(1, count, CURVE_POINTS).round() - 1
    return np.unique(np.concatenate([near, np.linspace(0, count - 1, CURVE_POINTS // 2)]).astype(int))


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
    embedded = [Legend(swatch("ink", dash="5 3"), "embedded tokens")] if "embedding" in present else []
    figures = [
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
    return [figure for figure in figures if figure.panels]


def _legend(quantities: tuple[str, ...], present: set[str]) -> list[Legend]:
    shown = [(i, q) for i, q in enumerate(quantities) if q in present]
    return [Legend(swatch(SERIES[i], SHAPES[i]), NAMES[q]) for i, q in shown]


def _rank_panels(table: pd.DataFrame, frame: pd.DataFrame, quantities: tuple[str, ...], epsilon: float) -> list[str]:
    part = table[(table["epsilon"] == epsilon) & table["quantity"].isin([*quantities, "embedding"])]
    y = Axis.over(part["rank"], zero=True)
    panels = []
    for site in sites(frame):
        lines = part[(part["site"] == site) & part["quantity"].isin(quantities)]
        if lines.empty:
            continue
        panel = Panel(
            site,
            f"Numerical rank at ε = {epsilon:g} over depth, of {', '.join(NAMES[q] for q in quantities)}.",
            x=Axis.integers(lines["depth"]),
            y=y,
            x_label="depth (layer)",
            y_label=f"rank at ε = {epsilon:g}, full width {lines['dim'].max():g}",
        )
        embedded = part[(part["quantity"] == "embedding") & (part["site"] == site)]
        if len(embedded) and "input" in quantities:
            panel.level(float(embedded["rank"].iloc[0]), hue="ink", dash="5 3")
        for index, quantity in enumerate(quantities):
            line = lines[lines["quantity"] == quantity]
            panel.line(line["depth"].to_list(), line["rank"].to_list(), SERIES[index], width=1.6)
            panel.marks(line["depth"].to_list(), line["rank"].to_list(), SERIES[index], SHAPES[index])
        panels.append(panel.svg())
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
    y = Axis.over(rows["full"], zero=True)
    panels = []
    for site in sites(frame):
        part = rows[rows["site"] == site]
        panel = Panel(
            site,
            "Width before compression (grey) and after, over depth.",
            x=Axis.integers(part["depth"]),
            y=y,
            x_label="depth (layer)",
            y_label="width of a head (mean over heads)" if by_head else "rank",
        )
        full = part.groupby("depth")["full"].max()
        kept = part.groupby("depth")["kept"].max()
        panel.band(full.index.to_list(), kept.to_list(), full.to_list(), "quiet", opacity=0.16)
        panel.line(full.index.to_list(), full.to_list(), "quiet", width=2)
        for index, name in enumerate(parts):
            line = part[part["part"] == name]
            hue, shape = SERIES[index % len(SERIES)], SHAPES[index % len(SHAPES)]
            depth = line["depth"].to_list()
            panel.band(depth, line["kept_min"].to_list(), line["kept_max"].to_list(), hue)
            panel.line(depth, line["kept"].to_list(), hue, width=1.8)
            panel.marks(depth, line["kept"].to_list(), hue, shape)
        panels.append(panel.svg())
    legend = [Legend(swatch("quiet"), "before")]
    for i, name in enumerate(parts):
        label = {"QK": "queries and keys", "VO": "values and outputs"}.get(name, name)
        legend.append(Legend(swatch(SERIES[i % len(SERIES)], SHAPES[i % len(SHAPES)]), f"{label}, after"))
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
        The columns of ``ranks.parquet``, of layers beside attention, in the order of the flow.
    """
    widest = float(frame["full"].max())
    panels = [_neurons_panel(stack, part, widest) for stack, part in frame.groupby("stack", sort=False)]
    return Figure(
        "neurons-kept",
        "Hidden neurons before and after compression",
        "What was there (grey) and what was kept (blue), from where series enter to where forecasts leave. A layer "
        "without a blue bar is gone; of a block that way, the path around its neurons remains.",
        panels,
        [Legend(swatch("quiet"), "before"), Legend(swatch("blue"), "after")],
    )


def _neurons_panel(stack: Hashable, part: pd.DataFrame, widest: float) -> str:
    places = [float(place) for place in range(len(part))]
    labels = ["patch block" if row.kind == "block" else f"layer {row.layer}" for row in part.itertuples()]
    panel = Panel(
        str(stack).title(),
        f"Hidden neurons of {len(part)} layers of the {stack}, before and after.",
        x=Axis.over([1.12 * widest], zero=True, count=4),
        y=Axis(len(part) - 0.5, -0.5, places, labels=labels),
        height=TOP + BOTTOM + 24 * len(part),
        left=84,
        grid="x",
    )
    for place, row in zip(places, part.itertuples(), strict=True):
        panel.bar(place, 0.0, float(row.full), "quiet", thickness=3)
        if row.kept:
            panel.bar(place, 0.0, float(row.kept), "blue")
        panel.note(float(row.full), place, f"{row.kept:,}", hue="ink")
    return panel.svg()


__all__ = ["SITES", "kept_neurons", "kept_ranks", "rank_flow", "site_of", "spectra"]
