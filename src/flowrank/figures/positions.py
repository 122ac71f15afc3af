"""Queries and keys that turn: which planes tell tokens apart, by how far they turn."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from flowrank.figures.depth import depth_colour
from flowrank.figures.panel import COLOURS, TEXT, powers

SLOW = (0.1, 0.5)
"""Angles, in radians, at which a line is drawn."""


def planes(ax: Axes, frame: pd.DataFrame, *, marked: tuple[float, ...] = SLOW) -> Axes:
    """Draw the share of the scores' variance in planes that turn by less than an angle, one curve a layer.

    Parameters
    ----------
    ax
        Where to draw.
    frame
        stack, layer, depth, head, angle (radians over the tokens in use) and variance (share of the head), one row a
        plane, as `flowrank.RankProfile.positions` has them. Heads count alike.
    marked
        Angles to draw a line at.

    Examples
    --------
    >>> from flowrank.figures import panel
    >>> row = {"stack": "encoder", "layer": 0, "depth": 0, "head": 0}
    >>> shares = ((1.0, 0.75), (0.01, 0.25))
    >>> frame = pd.DataFrame([row | {"angle": angle, "variance": share} for angle, share in shares])
    >>> planes(panel(), frame, marked=()).lines[0].get_xydata().tolist()
    [[0.01, 0.25], [1.0, 1.0]]
    """
    lowest = float(frame.loc[frame["angle"] > 0, "angle"].min())
    depths = float(frame["depth"].min()), float(frame["depth"].max())
    for (_, layer, depth), part in frame.groupby(["stack", "layer", "depth"]):
        heads = part["head"].nunique()
        share = part.groupby(part["angle"].clip(lower=lowest))["variance"].sum().cumsum() / heads
        (line,) = ax.plot(share, color=depth_colour(float(str(depth)), depths), linewidth=1.6, drawstyle="steps-post")
        if depth in depths:
            line.set_label(f"layer {layer}")
    powers(ax.xaxis, lowest, max(1.0, float(frame["angle"].max())))
    ax.set_ylim(0, 1.06)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for angle in marked:
        _mark(ax, angle)
    ax.set(xlabel="turn over the tokens in use, radians", ylabel="variance of scores in planes that turn less")
    return ax


def _mark(ax: Axes, angle: float) -> None:
    """A vertical line at an angle, named at its top."""
    place: Any = ("data", "axes fraction")
    ax.axvline(angle, color=COLOURS["soft"], linewidth=1, linestyle=(0, (3, 3)))
    ax.annotate(
        f"{angle:g}",
        (angle, 1),
        xycoords=place,
        xytext=(-3, -9),
        textcoords="offset points",
        ha="right",
        size=TEXT,
        color=COLOURS["soft"],
    )
