"""Ranks over depth: which lines to draw and which rows to print, from the tidy frames."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flowrank.figures.names import NAMES

SITES = {
    ("encoder", "self"): "Encoder",
    ("encoder", "group"): "Encoder, attention over a group",
    ("decoder", "self"): "Decoder, self-attention",
    ("decoder", "cross"): "Decoder, cross-attention",
    ("encoder", "mlp"): "Encoder, MLP",
    ("decoder", "mlp"): "Decoder, MLP",
    ("encoder", "block"): "Block that embeds patches",
    ("decoder", "block"): "Block that reads forecasts off",
}
"""Where rows belong, in the order of the flow; (stack, kind) → heading."""

NEURONS = "neurons"
SIGNAL = ("input", "residual", "head_outputs", "queries", "keys")
WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")


def site_of(stack: str, kind: str) -> str:
    """Heading under which a row belongs; the residual stream goes with its stack's self-attention."""
    return SITES.get((stack, "self" if kind in ("residual", "embedding") else kind), f"{stack}, {kind}")


def sites(frame: pd.DataFrame) -> list[str]:
    """Headings that occur in a frame, in the order of the flow."""
    layers = frame[frame["kind"] != "embedding"]
    rows = layers if len(layers) else frame
    found = {site_of(*pair) for pair in rows[["stack", "kind"]].drop_duplicates().itertuples(index=False)}
    known = [name for name in SITES.values() if name in found]
    return known + sorted(found - set(known))


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``site``; keep of each matrix the row of all heads together, or every head if there is none."""
    frame = frame.assign(site=[site_of(s, k) for s, k in zip(frame["stack"], frame["kind"], strict=True)])
    keys = ["site", "depth", "quantity"]
    together = frame["head"].eq(-1).groupby([frame[key] for key in keys]).transform("any")
    return frame[~together | frame["head"].eq(-1)]


def profile(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank of each quantity by site, depth and ε: median over heads where heads were measured apart."""
    keys = ["epsilon", "site", "quantity", "depth"]
    values = ["layer", "dim", "rank", "effective_rank", "stable_rank"]
    return whole(frame).groupby(keys, as_index=False)[values].median().sort_values(keys)


def flow_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """How rank changes from the first to the last layer, one row a quantity, site and ε."""
    rows = []
    table = profile(frame)
    for epsilon in sorted(table["epsilon"].unique(), reverse=True):
        part = table[table["epsilon"] == epsilon]
        for site in sites(frame):
            for quantity in NAMES:
                lines = part[(part["site"] == site) & (part["quantity"] == quantity)]
                if lines.empty:
                    continue
                first, last = lines.iloc[0], lines.iloc[-1]
                alone = len(lines) == 1
                rows.append(
                    {
                        "site": site,
                        "quantity": NAMES[quantity],
                        "epsilon": float(epsilon),
                        "first": float(first["rank"]),
                        "last": None if alone else float(last["rank"]),
                        "growth": None if alone or not first["rank"] else float(last["rank"] / first["rank"]),
                        "dim": float(first["dim"]),
                        "effective_first": float(first["effective_rank"]),
                        "effective_last": None if alone else float(last["effective_rank"]),
                    }
                )
    return rows


def layer_rows(frame: pd.DataFrame, epsilon: float) -> list[dict[str, Any]]:
    """One row a layer, one entry a quantity: its rank at ``epsilon``."""
    table = profile(frame)
    table = table[table["epsilon"] == epsilon]
    rows = []
    for site in sites(frame):
        for depth, layer in table[table["site"] == site].groupby("depth"):
            entries = {str(q): float(r) for q, r in zip(layer["quantity"], layer["rank"], strict=True)}
            rows.append({"site": site, "layer": int(layer["layer"].max()), "depth": int(depth), **entries})
    return rows


def kept_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a layer and part: width kept (mean, least and most over the heads) and parameters kept."""
    frame = frame.assign(site=[site_of(s, k) for s, k in zip(frame["stack"], frame["kind"], strict=True)])
    rows = []
    for site in sites(frame):
        part = frame[frame["site"] == site]
        for (depth, name), heads in part.groupby(["depth", "part"], sort=True):
            cost, full_cost = float(heads["cost"].sum()), float(heads["full_cost"].sum())
            rows.append(
                {
                    "site": site,
                    "layer": int(heads["layer"].iloc[0]),
                    "depth": int(depth),
                    "part": str(name),
                    "heads": None if (heads["head"] == -1).all() else len(heads),
                    "full": float(heads["full"].mean()),
                    "kept": float(heads["kept"].mean()),
                    "kept_min": float(heads["kept"].min()),
                    "kept_max": float(heads["kept"].max()),
                    "cost": cost,
                    "full_cost": full_cost,
                    "share": cost / full_cost if full_cost else None,
                }
            )
    return rows


def attention_in(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of attention layers among the ranks before and after."""
    return frame[frame["part"] != NEURONS]


def neurons_in(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of layers other than attention, in the order of the flow; None where they are as they were."""
    rows = frame[frame["part"] == NEURONS].sort_values(["stack", "layer"], ascending=[False, True], kind="stable")
    return None if (rows["cost"] == rows["full_cost"]).all() else rows


def kept_by_site(frame: pd.DataFrame, total: str = "All attention") -> list[dict[str, Any]]:
    """Parameters kept in each part of the model, and in its first and last layer; in the last row, of all parts."""
    layers = pd.DataFrame(kept_rows(frame))
    rows = []
    for site in [*sites(frame), total]:
        part = layers if site == total else layers[layers["site"] == site]
        by_depth = part.groupby("depth")[["cost", "full_cost"]].sum()
        shares = by_depth["cost"] / by_depth["full_cost"].where(by_depth["full_cost"] > 0)
        cost, full_cost = float(part["cost"].sum()), float(part["full_cost"].sum())
        rows.append(
            {
                "site": site,
                "full_cost": full_cost,
                "cost": cost,
                "share": cost / full_cost if full_cost else None,
                "first": float(shares.iloc[0]),
                "last": float(shares.iloc[-1]),
            }
        )
    return rows
