"""The flow-of-ranks, sublayer by sublayer, and theorem 4 next to it."""

from __future__ import annotations

import pandas as pd

from flowrank import figures
from flowrank.analysis.flow import flow_of
from flowrank.figures.depth import EMBEDDED, HUES
from flowrank.figures.names import MOVERS
from flowrank.report.tables import Column, Figure, Legend, Table


def stream(ranks: pd.DataFrame) -> Figure | None:
    """Rank of the stream from sublayer to sublayer, one panel a stack and ε; None where sublayers were not measured.

    Parameters
    ----------
    ranks
        The columns of ``rank_profile.parquet``.
    """
    panels, seen = [], set()
    for epsilon in sorted(ranks["epsilon"].unique(), reverse=True)[:2]:
        table = flow_of(ranks, epsilon)
        if table.empty:
            return None
        seen |= set(table["kind"])
        among = [*table["before"], *table["after"]]
        for stack, part in table.groupby("stack", sort=False):
            ax = figures.stream(figures.panel(), part, among=among)
            description = f"Rank of the residual stream of the {stack} at ε = {epsilon:g}, sublayer by sublayer."
            panels.append(figures.framed(ax, f"{str(stack).title()}, ε = {epsilon:g}", description))
    keys = [Legend(figures.key(HUES[kind]), MOVERS[kind]) for kind in HUES if kind in seen]
    return Figure(
        "flow-parts",
        "What moves the rank",
        "Numerical rank of the residual stream, followed through every sublayer: each piece is one sublayer, coloured "
        "by its kind, and goes from the rank before it to the rank after. Look for the kind whose pieces rise.",
        panels,
        keys,
    )


def parts_table(ranks: pd.DataFrame) -> Table | None:
    """The same as a table, with what each step inside a sublayer changes, at the smallest ε."""
    table = flow_of(ranks)
    if table.empty:
        return None
    epsilon = float(ranks["epsilon"].min())
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in table.to_dict("records")
    ]
    changes = [Column(name, name, "number") for name in ("normalisation", "mixing", "residual", "total")]
    return Table(
        "flow_parts",
        f"What moves the rank, at ε = {epsilon:g}: the stream before and after, and what each step changes",
        [
            Column("stack", "where"),
            Column("layer", "layer", "count"),
            Column("kind", "sublayer"),
            Column("before", "before", "number"),
            Column("update", "what it adds", "number"),
            Column("after", "after", "number"),
            *changes,
        ],
        rows,
        folded=True,
    )


def bounds(frame: pd.DataFrame) -> Figure | None:
    """Theorem 4 over the measured singular values, first and last attention layer of each kind.

    Parameters
    ----------
    frame
        The columns of ``bounds.parquet``.
    """
    panels = []
    for (stack, kind), part in frame.groupby(["stack", "kind"], sort=False):
        layers = sorted(part["layer"].unique())
        for layer in dict.fromkeys((layers[0], layers[-1])):
            curve = part[part["layer"] == layer]
            title = f"{str(stack).title()}, {MOVERS.get(str(kind), str(kind))}, layer {layer}"
            description = "Normalised singular values after the layer, and theorem 4's bound on them, log scale."
            panels.append(figures.framed(figures.bound(figures.panel(), curve), title, description))
    if not panels:
        return None
    return Figure(
        "theorem-4",
        "How much an attention layer may lift the small singular values",
        "Theorem 4 with the layer's own constants: the norms of its W_O W_V and of its attention matrices, over all "
        "series. The measured curve lies below the bound; where the bound is 1 it says nothing.",
        panels,
        [
            Legend(figures.key(figures.SERIES[0]), "measured"),
            Legend(figures.key(figures.SERIES[1], dash=EMBEDDED), "theorem 4"),
        ],
    )
