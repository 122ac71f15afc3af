"""A search for the smallest model: cost against loss, and how the search went."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from flowrank.figures.panel import COLOURS, level, mark, note, number, span, whole_numbers

KINDS = {
    (True, False): (COLOURS["blue"], "circle", "stayed within the tolerance"),
    (True, True): (COLOURS["vermillion"], "circle", "the same, thanks to healing"),
    (False, False): (COLOURS["blue"], "ring", "lost too much"),
    (False, True): (COLOURS["vermillion"], "ring", "lost too much in spite of healing"),
}
"""Hue, shape and name of a stage, by whether it held and whether it was healed."""

MOST_TICKS = 7


def tradeoff(ax: Axes, stages: pd.DataFrame, front: list[tuple[float, float]], *, most: float | None) -> Axes:
    """Draw loss over cost: each model with a whisker up to the end of its interval, the front, and the tolerance.

    Parameters
    ----------
    ax
        Where to draw.
    stages
        cost, loss, upper, held and healed, one row a model.
    front
        Costs and losses of the models that none beats in both.
    most
        Tolerance; None: unknown.
    """
    ceiling = _ceiling(stages, most)
    _costs(ax, [*stages["cost"], 1.0])
    span(ax.yaxis, [0.0, *(100 * stages["loss"].clip(upper=ceiling)), 100 * ceiling])
    places = [(cost, 100 * loss) for cost, loss in front if loss <= ceiling]
    ax.plot([x for x, _ in places], [y for _, y in places], color=COLOURS["quiet"], linewidth=1.8, label="front")
    if most is not None:
        level(ax, 100 * most, f"tolerance: {100 * most:g}%", hue=COLOURS["ink"])
    parent(ax, 1.0, 0.0)
    for row in stages.to_dict("records"):
        hue, shape, _ = KINDS[bool(row["held"]), bool(row["healed"])]
        place = 100 * min(row["loss"], ceiling)
        ax.vlines(row["cost"], place, 100 * min(row["upper"], ceiling), color=hue, linewidth=1)
        ax.plot([row["cost"]], [place], linestyle="", zorder=3, **mark(shape, hue, size=8))
        if row["loss"] > ceiling:
            note(ax, row["cost"], place, f"↑ {100 * row['loss']:.3g}%", hue, above=True)
    return ax


def parent(ax: Axes, x: float, y: float) -> None:
    """Mark the parent."""
    ax.plot([x], [y], linestyle="", zorder=3, label="the parent", **mark("diamond", COLOURS["ink"], size=8))


def _ceiling(judged: pd.DataFrame, most: float | None) -> float:
    """The largest loss that is drawn in its place: what lost far too much must not squeeze the others."""
    reach = max([0.0, *judged.loc[judged["held"], "upper"].tolist()])
    if most:
        return max(3 * most, 1.2 * reach)
    return 3 * reach if reach > 0 else max([0.01, *judged["upper"].tolist()])


def _costs(ax: Axes, costs: list[float]) -> None:
    low, high = 0.85 * min(max(min(costs), 1e-6), 0.9), 1.15 * max(costs)
    ticks: list[float] = []
    for subs in (range(1, 10), (1, 2, 5), (1,)):
        found: Any = LogLocator(subs=[float(sub) for sub in subs], numticks=99).tick_values(low, high)
        ticks = [round(tick, 9) for tick in found if low <= tick <= high]
        if len(ticks) <= MOST_TICKS:
            break
    ax.set(xscale="log", xlim=(low, high))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(number))


def course(ax: Axes, stages: pd.DataFrame) -> Axes:
    """Draw the cost of the model of each step, and of the cheapest that held so far.

    Parameters
    ----------
    ax
        Where to draw.
    stages
        number, ratio, cost, loss, held and healed, one row a step; without a loss, no model was made.
    """
    xs, ys = [0.0], [1.0]
    for row in stages.to_dict("records"):
        xs += [float(row["number"])] * 2
        ys += [ys[-1], min(ys[-1], float(row["cost"])) if row["held"] else ys[-1]]
    ax.plot(xs, ys, color=COLOURS["quiet"], linewidth=1.8, label="cheapest that held")
    parent(ax, 0.0, 1.0)
    for row in stages.to_dict("records"):
        hue, shape, _ = KINDS[bool(row["held"]), bool(row["healed"])]
        made = math.isfinite(row["loss"])
        looks = mark(shape if made else "cross", hue, size=8)
        ax.plot([row["number"]], [row["cost"] if made else row["ratio"]], linestyle="", zorder=3, **looks)
    whole_numbers(ax.xaxis, [0, *stages["number"]])
    span(ax.yaxis, [*stages["cost"], *stages["ratio"], 1.0], zero=True)
    ax.set_xlabel("step")
    return ax
