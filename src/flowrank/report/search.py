"""A search for the smallest model: what each step cost and lost, and which steps no other one beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank import figures
from flowrank.figures.search import KINDS
from flowrank.report.tables import Column, Figure, Legend, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

UNITS = {"parameters": "parameters", "flops": "operations", "cache": "key/value cache", "latency": "latency"}
"""What can be made small, as a reader knows it."""

LEAST = {
    "parameters": "fewest parameters",
    "flops": "fewest operations",
    "cache": "smallest key/value cache",
    "latency": "lowest latency",
}
"""The same at its smallest."""


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
    legend = [Legend(figures.key(figures.COLOURS["ink"], "diamond", line=False), "the parent")]
    legend += [
        Legend(figures.key(hue, shape, line=False), text) for kind, (hue, shape, text) in KINDS.items() if kind in kinds
    ]
    legend.append(Legend(figures.key(figures.COLOURS["quiet"]), "front: nothing else is both cheaper and better"))
    return Figure(
        "cost-against-loss",
        "Cost against loss",
        "Each point is one model: further left is cheaper, further down is better. Its whisker ends at the upper end "
        "of its loss's confidence interval, which is held against the tolerance; an arrow stands for a model above the "
        "chart. Look at where whiskers reach the tolerance: what is left of there was tried and lost too much.",
        [_tradeoff_panel(stages, tolerance), _course_panel(stages, tolerance)],
        legend,
    )


def _tradeoff_panel(stages: pd.DataFrame, tolerance: dict[str, Any]) -> Drawing:
    judged = stages.dropna(subset=["loss", "upper"])
    metric = tolerance.get("metric", "metric")
    ax = figures.panel(height=280)
    figures.tradeoff(ax, judged, front_of(judged), most=tolerance.get("max_loss"))
    ax.set(xlabel=_named_cost(tolerance), ylabel=f"{metric} beyond the parent's, %")
    about = f"Loss of {metric} of {len(judged)} models over their cost relative to the parent, log scale."
    return figures.framed(ax, "Loss over cost", about)


def _course_panel(stages: pd.DataFrame, tolerance: dict[str, Any]) -> Drawing:
    ax = figures.course(figures.panel(height=280), stages)
    ax.set_ylabel(_named_cost(tolerance))
    about = f"Cost of the model of each of {len(stages)} steps, and of the cheapest that held so far."
    return figures.framed(ax, "How the search went", about)


def _named_cost(tolerance: dict[str, Any]) -> str:
    return f"{UNITS.get(tolerance.get('unit', ''), 'cost')} over the parent's"


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
