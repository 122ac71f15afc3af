"""A search for the smallest model: what each step cost and lost, and which steps no other one beats."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from flowrank.report.svg import Axis, Panel, swatch
from flowrank.report.tables import Column, Figure, Legend, Table

UNITS = {"parameters": "parameters", "flops": "operations", "cache": "key/value cache", "latency": "latency"}
"""What can be made small, as a reader knows it."""

LEAST = {
    "parameters": "fewest parameters",
    "flops": "fewest operations",
    "cache": "smallest key/value cache",
    "latency": "lowest latency",
}
"""The same at its smallest."""

KINDS = {
    (True, False): ("blue", "circle", "stayed within the tolerance"),
    (True, True): ("vermillion", "circle", "the same, thanks to healing"),
    (False, False): ("blue", "ring", "lost too much"),
    (False, True): ("vermillion", "ring", "lost too much in spite of healing"),
}
"""Hue, shape and name of a stage, by whether it held and whether it was healed."""

MOST_TICKS = 7


def best_of(stages: pd.DataFrame) -> pd.Series | None:
    """The cheapest stage that held; None if none did."""
    held = stages[stages["held"]]
    return None if held.empty else held.loc[held["cost"].idxmin()]


def front_of(stages: pd.DataFrame) -> list[tuple[float, float]]:
    """Cost and loss of those, the parent at (1, 0) among them, that none beats in both; cheapest first.

    Examples
    --------
    >>> front_of(pd.DataFrame({"cost": [0.6, 0.5, 0.5], "loss": [0.02, 0.01, 0.3]}))
    [(0.5, 0.01), (1.0, 0.0)]
    """
    judged = stages.dropna(subset="loss")
    front: list[tuple[float, float]] = []
    for cost, loss in sorted([*zip(judged["cost"].tolist(), judged["loss"].tolist(), strict=True), (1.0, 0.0)]):
        if not front or loss < front[-1][1]:
            front.append((cost, loss))
    return front


def tradeoff(stages: pd.DataFrame, tolerance: dict[str, Any]) -> Figure:
    """Cost against loss, and how the search went.

    Parameters
    ----------
    stages
        The columns of ``search.jsonl``.
    tolerance
        "max_loss", "metric" and "unit" of the search, as far as they are known.
    """
    kinds = {(bool(row.held), bool(row.healed)) for row in stages.itertuples()}
    legend = [Legend(swatch("ink", "diamond", line=False), "the parent")]
    legend += [
        Legend(swatch(hue, shape, line=False), text) for kind, (hue, shape, text) in KINDS.items() if kind in kinds
    ]
    legend.append(Legend(swatch("quiet"), "front: nothing else is both cheaper and better"))
    return Figure(
        "cost-against-loss",
        "Cost against loss",
        "Each point is one model: further left is cheaper, further down is better. Its whisker ends at the upper end "
        "of its loss's confidence interval, which is held against the tolerance; an arrow stands for a model above the "
        "chart. Look at where whiskers reach the tolerance: what is left of there was tried and lost too much.",
        [_tradeoff_panel(stages, tolerance), _course_panel(stages, tolerance)],
        legend,
    )


def _tradeoff_panel(stages: pd.DataFrame, tolerance: dict[str, Any]) -> str:
    judged = stages.dropna(subset=["loss", "upper"])
    most = tolerance.get("max_loss")
    ceiling = _ceiling(judged, most)
    metric = tolerance.get("metric", "metric")
    panel = Panel(
        "Loss over cost",
        f"Loss of {metric} of {len(judged)} models over their cost relative to the parent, log scale.",
        x=_cost_axis([*judged["cost"], 1.0]),
        y=Axis.over([0.0, *(100 * judged["loss"].clip(upper=ceiling)), 100 * ceiling]),
        x_label=f"{UNITS.get(tolerance.get('unit', ''), 'cost')} over the parent's",
        y_label=f"{metric} beyond the parent's, %",
        height=280,
    )
    places = [(cost, loss) for cost, loss in front_of(judged) if loss <= ceiling]
    panel.line([cost for cost, _ in places], [100 * loss for _, loss in places], "quiet")
    if most is not None:
        panel.level(100 * most, f"tolerance: {100 * most:g}%", hue="ink")
    panel.marks([1.0], [0.0], "ink", "diamond", size=4)
    for row in judged.itertuples():
        hue, shape, _ = KINDS[bool(row.held), bool(row.healed)]
        place = min(row.loss, ceiling)
        panel.line([row.cost] * 2, [100 * place, 100 * min(row.upper, ceiling)], hue, width=1)
        panel.marks([row.cost], [100 * place], hue, shape, size=4)
        if row.loss > ceiling:
            panel.note(row.cost, 100 * place, f"↑ {100 * row.loss:.3g}%", hue=hue)
    return panel.svg()


def _ceiling(judged: pd.DataFrame, most: float | None) -> float:
    """The largest loss that is drawn in its place: what lost far too much must not squeeze the others."""
    within = judged[judged["held"]]
    reach = max([0.0, *within["upper"].tolist()])
    if most:
        return max(3 * most, 1.2 * reach)
    return 3 * reach if reach > 0 else max([0.01, *judged["upper"].tolist()])


def _cost_axis(costs: list[float]) -> Axis:
    low, high = 0.85 * min(max(min(costs), 1e-6), 0.9), 1.15 * max(costs)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (range(1, 10), (1, 2, 5), (1,)):
        ticks = [round(step * 10.0**power, 9) for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= MOST_TICKS:
            break
    return Axis(low, high, ticks, log=True)


def _course_panel(stages: pd.DataFrame, tolerance: dict[str, Any]) -> str:
    numbers = stages["number"].tolist()
    panel = Panel(
        "How the search went",
        f"Cost of the model of each of {len(stages)} steps, and of the cheapest that held so far.",
        x=Axis.integers([0, *numbers]),
        y=Axis.over([*stages["cost"], *stages["ratio"], 1.0], zero=True),
        x_label="step",
        y_label=f"{UNITS.get(tolerance.get('unit', ''), 'cost')} over the parent's",
        height=280,
    )
    xs, ys = [0.0], [1.0]
    for row in stages.itertuples():
        least = min(ys[-1], float(row.cost)) if row.held else ys[-1]
        xs += [float(row.number)] * 2
        ys += [ys[-1], least]
    panel.line(xs, ys, "quiet")
    panel.marks([0.0], [1.0], "ink", "diamond", size=4)
    for row in stages.itertuples():
        hue, shape, _ = KINDS[bool(row.held), bool(row.healed)]
        cost = row.cost if math.isfinite(row.loss) else row.ratio
        panel.marks([row.number], [cost], hue, shape if math.isfinite(row.loss) else "cross", size=4)
    return panel.svg()


def stage_table(stages: pd.DataFrame) -> Table:
    """One row a stage.

    Parameters
    ----------
    stages
        The columns of ``search.jsonl``.
    """
    columns = [
        Column("number", "step", "count"),
        Column("start", "from step", "count"),
        Column("ratio", "asked for", "percent"),
        Column("cost", "cost", "percent"),
        Column("parameters", "parameters", "count"),
        Column("loss", "loss", "change"),
        Column("upper", "at most", "change"),
        Column("healed", "healed", "flag"),
        Column("held", "held", "flag"),
        Column("seconds", "time", "seconds"),
    ]
    keys = [column.key for column in columns]
    return Table(
        "stages",
        "Every step of the search",
        columns,
        stages[keys].astype(object).to_dict("records"),
        note="Step 0 is the parent. A step shrinks the model of an earlier one; costs are relative to the parent. "
        "Without a loss: nothing that can be removed was left, and no model was made.",
    )
