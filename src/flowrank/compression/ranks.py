"""Ranks and neurons over depth, before and after, read off a compressed model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flowrank.anatomy import Mlp
from flowrank.family import family_of, layout_of, shape_of
from flowrank.nn.shapes import PROJECTIONS


def rank_table(pipeline: Any) -> pd.DataFrame:
    """Full and kept rank of every part of every attention layer, and neurons of every layer other than attention.

    Returns
    -------
    pd.DataFrame
        One row a head and part ("QK", "VO"), or a projection ("Q", "K", "V", "O", head −1) where it is kept as one
        matrix or two factors, or all hidden neurons ("neurons", head −1) of a feed-forward layer (kind "mlp") or a
        residual block ("block"): stack, kind, layer, depth, part, head, full, kept, cost and full_cost (parameters).

    Examples
    --------
    >>> import flowrank
    >>> table = rank_table(flowrank.load("flow-bolt-mini"))
    >>> int(table.cost.sum()) == int(table.full_cost.sum())
    True
    """
    rows: list[dict[str, Any]] = []
    family = family_of(pipeline)
    for site in family.attention:
        heads, d, d_kv, shape = site.all_heads, site.d_model, site.d_kv, shape_of(site)
        where = {"stack": site.stack, "kind": site.kind, "layer": site.layer, "depth": site.depth}
        if shape.ranks:
            costs = shape.parameters(d)
            full = min(d, heads * d_kv)
            for name in PROJECTIONS:
                part = {"part": name.upper(), "head": -1, "full": full, "kept": shape.ranks.get(name, full)}
                rows.append({**where, **part, "cost": costs[name], "full_cost": d * heads * d_kv})
            continue
        for part_name, widths in (("QK", shape.d_qk), ("VO", shape.d_vo)):
            for head, kept in enumerate(widths):
                part = {"part": part_name, "head": head, "full": d_kv, "kept": kept}
                rows.append({**where, **part, "cost": 2 * d * kept, "full_cost": 2 * d * d_kv})
    dense = layout_of(family.model.config).dense.mlp
    return pd.DataFrame(rows + [_neurons(site, dense[site.name].width) for site in family.mlps])


def _neurons(site: Mlp, full: int) -> dict[str, Any]:
    linears: dict[str, Any] = dict(site.linears)
    inputs, outputs = linears[site.reads[0]].in_features, linears[site.writes].out_features
    sizes = dict.fromkeys(site.reads, (inputs, full)) | {site.writes: (full, outputs)}
    if site.residual is not None:
        sizes[site.residual] = (inputs, outputs)
    biases = sum(sizes[name][1] for name, linear in linears.items() if _has_bias(linear))
    return {
        **{"stack": site.stack, "kind": site.kind, "layer": site.layer, "depth": site.depth},
        **{"part": "neurons", "head": -1, "full": full, "kept": site.width},
        "cost": sum(one.numel() for linear in linears.values() for one in linear.parameters()),
        "full_cost": sum(m * n for m, n in sizes.values()) + biases,
    }


def _has_bias(linear: Any) -> bool:
    return getattr(getattr(linear, "up", linear), "bias", None) is not None
