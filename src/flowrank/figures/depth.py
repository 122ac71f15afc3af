"""Spectra and ranks over depth, and how the stream's rank moves from sublayer to sublayer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import FixedFormatter, FixedLocator

from flowrank.figures.names import MOVERS, NAMES
from flowrank.figures.panel import COLOURS, DEPTH, SERIES, SHAPES, mark, powers, span, whole_numbers

LOWEST = 1e-5
"""Smaller singular values, relative to the largest, are not drawn."""

HUES = {
    "self": COLOURS["blue"],
    "cross": COLOURS["green"],
    "group": COLOURS["purple"],
    "mlp": COLOURS["vermillion"],
}
"""Colours of the kinds of sublayers."""

CURVE_POINTS = 64
EMBEDDED = (0, (2.8, 1.7))
CROSS = (0, (1.4, 1.4))
GROUP = (0, (4.5, 1.4, 1.2, 1.4))
"""Dashes, in widths of the line."""
DASHES = {"cross": CROSS, "group": GROUP}
"""Those of the kinds of attention that stand beside another in one chart."""


def depth_colour(depth: float, depths: tuple[float, float]) -> str:
    """Colour of a layer at ``depth`` between the first and the last.

    Examples
    --------
    >>> depth_colour(0, (0, 5)), depth_colour(5, (0, 5))
    ('#3f6fd8', '#e69f00')
    """
    return to_hex(DEPTH((depth - depths[0]) / max(1, depths[1] - depths[0])))


def spectra(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    depths: tuple[float, float] | None = None,
    lowest: float = LOWEST,
    dashed: bool = True,
) -> Axes:
    """Draw singular values over their index on a log scale, one curve a layer, coloured by depth.

    Parameters
    ----------
    ax
        Where to draw.
    frame
        stack, kind, layer, depth, quantity, j and sigma. Of heads measured apart, the median is drawn.
    depths
        First and last depth of the scale of colours; None: those of ``frame``.
    lowest
        Smaller values are not drawn.
    dashed
        Whether curves of cross-attention, and of attention over a group, are dashed.

    Examples
    --------
    >>> from flowrank.figures import panel
    >>> row = {"stack": "encoder", "kind": "self", "layer": 0, "depth": 0, "quantity": "input"}
    >>> curve = pd.DataFrame([row | {"j": j, "sigma": 1 / j} for j in (1, 2, 4)])
    >>> spectra(panel(), curve).lines[0].get_ydata().tolist()
    [1.0, 0.5, 0.25]
    """
    first, last = depths or (frame["depth"].min(), frame["depth"].max())
    layers = frame.loc[frame["quantity"] != "embedding", "layer"]
    named = {layers.min(), layers.max()}
    for (quantity, kind, _, depth), curve in frame.groupby(["quantity", "kind", "stack", "depth"], sort=True):
        values = np.exp(np.log(curve["sigma"].clip(lower=1e-300)).groupby(curve["j"]).median())
        values = values[values >= lowest]
        values = values.iloc[_spread(len(values))]
        if quantity == "embedding":
            ax.plot(values, color=COLOURS["ink"], linestyle=EMBEDDED, linewidth=1.8, label=NAMES["embedding"])
            continue
        layer = curve["layer"].iloc[0]
        (line,) = ax.plot(
            values,
            color=depth_colour(float(str(depth)), (first, last)),
            linestyle=DASHES.get(str(kind), "-") if dashed else "-",
            linewidth=1.4,
        )
        if layer in named:
            named.discard(layer)
            line.set_label(f"layer {layer}")
    span(ax.xaxis, [int(frame["j"].max())], zero=True)
    powers(ax.yaxis, lowest)
    ax.set(xlabel="index j", ylabel="σⱼ / σ₁")
    return ax


def _spread(count: int) -> np.ndarray:
    """Positions of the points to draw: dense where a spectrum falls fastest, at the front."""
    if not count:
        return np.empty(0, dtype=int)
    near = np.geomspace(1, count, CURVE_POINTS).round() - 1
    return np.unique(np.concatenate([near, np.linspace(0, count - 1, CURVE_POINTS // 2)]).astype(int))


def lines(
    ax: Axes,
    frame: pd.DataFrame,
    quantities: Sequence[str],
    *,
    x: str = "layer",
    y: str = "rank",
    among: Iterable[float] | None = None,
) -> Axes:
    """Draw one line a quantity over depth, each with a colour and a shape of its own.

    Parameters
    ----------
    ax
        Where to draw.
    frame
        quantity, and the columns ``x`` and ``y``; one row a quantity and layer.
    quantities
        What to draw; the place in this order decides colour and shape.
    x, y
        Columns to draw.
    among
        Values that the vertical axis must hold, for axes that compare with others; None: those of ``frame``.
    """
    for index, quantity in enumerate(quantities):
        line = frame[frame["quantity"] == quantity].sort_values(x)
        looks = mark(SHAPES[index % len(SHAPES)], SERIES[index % len(SERIES)])
        ax.plot(line[x].to_numpy(), line[y].to_numpy(), label=NAMES.get(quantity, quantity), linewidth=1.7, **looks)
    whole_numbers(ax.xaxis, frame[x])
    span(ax.yaxis, frame[y] if among is None else among, zero=True)
    ax.set(xlabel=x, ylabel=y)
    return ax


def stream(ax: Axes, table: pd.DataFrame, *, among: Iterable[float] | None = None) -> Axes:
    """Draw the rank of the stream through every sublayer: one piece each, coloured by its kind.

    Parameters
    ----------
    ax
        Where to draw.
    table
        stack, layer, kind, before and after, one row a sublayer in the order of computation, as
        `flowrank.RankProfile.flow` gives them.
    among
        Values that the vertical axis must hold; None: those of ``table``.

    Examples
    --------
    >>> from flowrank.figures import panel
    >>> rows = [("encoder", 0, "self", 3, 5), ("encoder", 0, "mlp", 5, 4)]
    >>> ax = stream(panel(), pd.DataFrame(rows, columns=["stack", "layer", "kind", "before", "after"]))
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[3], [3, 5], [5, 4]]
    """
    place, ends, seen = 0, [], set()
    several = table["stack"].nunique() > 1
    for stack, part in table.groupby("stack", sort=False):
        ax.plot([place], part["before"].to_numpy()[:1], linestyle="", zorder=3, **mark("circle", COLOURS["ink"]))
        for row in part.to_dict("records"):
            kind = str(row["kind"])
            name = None if kind in seen else MOVERS[kind]
            ax.plot(
                [place, place + 1],
                np.asarray([row["before"], row["after"]]),
                color=HUES[kind],
                linewidth=2.4,
                label=name,
                solid_capstyle="round",
            )
            seen.add(kind)
            place += 1
            if kind == "mlp":
                ends.append((place, f"{str(stack)[:3]} {row['layer']}" if several else str(row["layer"])))
        place += 1
    step = max(1, len(ends) // (8 if several else 6))
    ax.set_xlim(-0.4, place - 0.6)
    ax.xaxis.set_major_locator(FixedLocator([where for where, _ in ends[::step]]))
    ax.xaxis.set_major_formatter(FixedFormatter([name for _, name in ends[::step]]))
    span(ax.yaxis, [*table["before"], *table["after"]] if among is None else among, zero=True)
    ax.set(xlabel="after layer", ylabel="rank of the stream")
    return ax


def bound(ax: Axes, curve: pd.DataFrame) -> Axes:
    """Draw theorem 4's bound over the singular values that it holds for.

    Parameters
    ----------
    ax
        Where to draw.
    curve
        k, sigma and bound, of one attention layer.
    """
    looks = {"sigma": ("measured", SERIES[0], "-"), "bound": ("theorem 4", SERIES[1], EMBEDDED)}
    for column, (name, hue, style) in looks.items():
        shown = curve[curve[column] >= LOWEST]
        (line,) = ax.plot(shown["k"].to_numpy(), shown[column].to_numpy(), color=hue, linestyle=style, label=name)
        line.set(linewidth=2, marker="o" if len(shown) == 1 else "", markersize=4)  # one point makes no line
    span(ax.xaxis, [len(curve)], zero=True)
    powers(ax.yaxis, LOWEST, max(1.0, float(curve[["sigma", "bound"]].max().max())))
    ax.set(xlabel="index k", ylabel="σₖ / σ₁ of the stream after the layer")
    return ax


def kept(ax: Axes, rows: pd.DataFrame, parts: Mapping[str, int], *, among: Iterable[float] | None = None) -> Axes:
    """Draw widths over depth before and after compression; a band spans the heads where they differ.

    Parameters
    ----------
    ax
        Where to draw.
    rows
        depth, part, full, kept, kept_min and kept_max, one row a layer and part.
    parts
        Parts to draw, and the place of each among the colours and shapes.
    among
        Values that the vertical axis must hold; None: those of ``rows``.
    """
    most = rows.groupby("depth")[["full", "kept"]].max()
    grey = COLOURS["quiet"]
    ax.fill_between(most.index, most["kept"], most["full"], color=grey, alpha=0.16, linewidth=0)
    ax.plot(most.index, most["full"].to_numpy(), color=grey, linewidth=2, label="before")
    for part, place in parts.items():
        line = rows[rows["part"] == part]
        hue = SERIES[place % len(SERIES)]
        looks = mark(SHAPES[place % len(SHAPES)], hue)
        if (line["kept_min"] < line["kept_max"]).any():
            ax.fill_between(line["depth"], line["kept_min"], line["kept_max"], color=hue, alpha=0.18, linewidth=0)
        ax.plot(line["depth"].to_numpy(), line["kept"].to_numpy(), linewidth=1.8, label=part, **looks)
    whole_numbers(ax.xaxis, rows["depth"])
    span(ax.yaxis, rows["full"] if among is None else among, zero=True)
    ax.set(xlabel="depth (layer)", ylabel="rank")
    return ax
