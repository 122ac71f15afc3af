"""Rank in position: how much of its turning planes a model uses."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flowrank import figures
from flowrank.analysis.positions import SLOW, by_head
from flowrank.figures.panel import SERIES, level
from flowrank.report.tables import Column, Figure, Legend, Section, Table

EPSILON = 0.01
"""ε of the position rank."""

_MEANS = (
    "effective_planes",
    "position_rank",
    *(f"{what}_below_{a:g}" for a in SLOW for what in ("planes", "variance")),
)


def rank_in_position(frame: pd.DataFrame | None, ranks: pd.DataFrame | None = None) -> Section | None:
    """The section on queries and keys that turn with their places; None where none do.

    Parameters
    ----------
    frame
        The columns of ``positions.parquet``.
    ranks
        Those of ``rank_profile.parquet``, which tell whether any two series were read together.
    """
    if frame is None:
        return None
    rows = layers(frame)
    counts = sorted({int(row["planes"]) for row in rows})
    planes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lead = (
        f"Attention over time knows where tokens are by turning queries and keys: a head has {planes} planes, and each "
        f"turns at its own speed. Over the {rows[0]['tokens']:,} tokens that were measured, planes that hardly turn "
        "say nothing about position. They can become one small block that does not turn, at almost no change of the "
        "scores; compression with JointHeads does so where the loss that it measures allows."
    )
    if ranks is not None and _reads_one_by_one(ranks):
        lead += (
            " No two series were read together here: for such forecasts flowrank.univariate makes attention over a "
            "group one matrix a layer, with the same results."
        )
    figures_of = [_shares(frame), _used(pd.DataFrame(rows))]
    return Section("positions", "Rank in position", lead, figures_of, [_table(rows)])


def _reads_one_by_one(ranks: pd.DataFrame) -> bool:
    """Whether there are queries over a group, and never two series in one."""
    group = ranks[ranks["kind"] == "group"]
    return bool((group["quantity"] == "queries").any()) and not (group["quantity"] == "attention").any()


def layers(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a layer: means over its heads of what `flowrank.RankProfile.turning` gives."""
    heads = by_head(frame, EPSILON)
    keys = ["stack", "layer", "depth"]
    table = heads.groupby(keys, as_index=False, sort=False).agg(
        {"tokens": "max", "planes": "max", **dict.fromkeys(_MEANS, "mean")}
    )
    return table.astype({"tokens": int, "layer": int, "depth": int}).to_dict("records")


def _shares(frame: pd.DataFrame) -> Figure:
    depths = int(frame["depth"].min()), int(frame["depth"].max())
    panels = []
    for stack, part in frame.groupby("stack", sort=False):
        ax = figures.planes(figures.panel(), part)
        about = "Share of the variance of attention scores in planes that turn by less than an angle, layer by layer."
        panels.append(figures.framed(ax, f"{str(stack).title()}", about))
    return Figure(
        "position-planes",
        "Where the scores come from: slow planes or fast ones",
        "Each curve is one layer, mean over its heads. It shows how much of what tells keys apart (the variance of the "
        "scores of a query) lies in planes that turn by less than the angle below, from the first to the last token in "
        "use. Planes left of 0.1 radians may stop turning: what each adds to a score changes by a tenth of |q| |k| at "
        "most. A curve that is high on the left belongs to a layer that reads content, not position.",
        panels,
        [Legend(figures.depth_scale(), f"first layer (depth {depths[0]}) to last (depth {depths[1]})")],
    )


def _used(rows: pd.DataFrame) -> Figure:
    shown = {"effective_planes": "planes in use", f"planes_below_{SLOW[1]:g}": f"planes below {SLOW[1]:g} radians"}
    panels = []
    for stack, part in rows.groupby("stack", sort=False):
        long = part.melt(["layer"], list(shown), "quantity", "count").replace({"quantity": shown})
        full = float(part["planes"].max())
        ax = figures.lines(figures.panel(), long, list(shown.values()), y="count", among=[*long["count"], full])
        level(ax, full, "all planes of a head")
        ax.set(ylabel="planes (mean over heads)")
        panels.append(figures.framed(ax, str(stack).title(), "Planes in use, and slow planes, over depth."))
    legend = [Legend(figures.key(SERIES[i], figures.SHAPES[i]), label) for i, label in enumerate(shown.values())]
    return Figure(
        "position-use",
        "How many planes a head uses",
        "Planes in use: how many there would be if all that are used held the same share of the variance. Slow planes "
        "depend on the number of tokens alone: series twice as long turn each plane twice as far.",
        panels,
        legend,
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [Column("stack", "where"), Column("layer", "layer", "count"), Column("tokens", "tokens", "count")]
    columns += [Column("planes", "planes", "number"), Column("effective_planes", "in use", "number")]
    for angle in SLOW:
        columns.append(Column(f"planes_below_{angle:g}", f"turn < {angle:g} rad", "number"))
        columns.append(Column(f"variance_below_{angle:g}", "their variance", "percent"))
    columns.append(Column("position_rank", f"position rank, ε = {EPSILON:g}", "number"))
    return Table(
        "positions",
        "Planes in use, layer by layer (mean over heads)",
        columns,
        rows,
        note="Position rank: how many functions of the distance between two tokens the planes of a head can tell apart "
        "over the tokens in use; with all features it could be twice the number of planes.",
    )
