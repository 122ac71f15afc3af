"""Ranks and neurons over depth, before and after, read off a compressed model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flowrank.families import MlpSite, family_of
from flowrank.models import AttentionShape, CompressedT5Config, MlpShape
from flowrank.models.config import PROJECTIONS


def rank_table(pipeline: Any) -> pd.DataFrame:
    """Full and kept rank of every part of every attention layer, and neurons of every layer beside attention.

    Returns
    -------
    pd.DataFrame
        One row a head and part ("QK", "VO"), or a projection ("Q", "K", "V", "O", head −1) where it is kept as one
        matrix or two factors, or all hidden neurons ("neurons", head −1) of a feed-forward layer (kind "mlp") or a
        residual block ("block"): stack, kind, layer, depth, part, head, full, kept, cost and full_cost (parameters).

    Examples
    --------
    >>> import flowrank
    >>> table = rank_table(flowrank.load("seed-bolt"))
    >>> int(table.cost.sum()) == int(table.full_cost.sum())
    True
    """
    rows: list[dict[str, Any]] = []
    family = family_of(pipeline)
    config = family.model.config
    for site in family.attention:
        heads, d = site.module.n_heads, site.d_model
        shape = (
            config.shape_of(site.name)
            if isinstance(config, CompressedT5Config)
            else AttentionShape.dense(heads, config.d_kv)
        )
        where = {"stack": site.stack, "kind": site.kind, "layer": site.layer, "depth": site.depth}
        if shape.ranks:
            costs = shape.parameters(d)
            full = min(d, heads * config.d_kv)
            for name in PROJECTIONS:
                part = {"part": name.upper(), "head": -1, "full": full, "kept": shape.ranks.get(name, full)}
                rows.append({**where, **part, "cost": costs[name], "full_cost": d * heads * config.d_kv})
            continue
        for part_name, widths in (("QK", shape.d_qk), ("VO", shape.d_vo)):
            for head, kept in enumerate(widths):
                part = {"part": part_name, "head": head, "full": config.d_kv, "kept": kept}
                rows.append({**where, **part, "cost": 2 * d * kept, "full_cost": 2 * d * config.d_kv})
    return pd.DataFrame(rows + [_neurons(site, config.d_ff) for site in family.mlps])


def _neurons(site: MlpSite, full: int) -> dict[str, Any]:
    linears: dict[str, Any] = dict(site.linears)
    first, last = linears[site.reads[0]], linears[site.writes]
    dense = MlpShape.dense(full).parameters(first.in_features, last.out_features, tuple(linears))
    biases = {name: full if name in site.reads else last.out_features for name in linears if site.beside}
    return {
        **{"stack": site.stack, "kind": site.kind, "layer": site.layer, "depth": site.depth},
        **{"part": "neurons", "head": -1, "full": full, "kept": site.width},
        "cost": sum(one.numel() for linear in linears.values() for one in linear.parameters()),
        "full_cost": sum(dense.values()) + sum(biases.values()),
    }
