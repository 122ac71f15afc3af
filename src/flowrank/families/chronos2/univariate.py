"""A model for single series: attention over a group of one is W_O W_V, one matrix a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.nn.shapes import AttentionShape, Shapes


def univariate_layers(sites: list[Attention], config: Any) -> tuple[Shapes, dict[str, dict[str, Tensor]]]:
    """Sizes and tensors of layers over a group whose softmax has one key, exactly.

    Queries and keys go. Values and output become one matrix where that is smaller than two.

    Parameters
    ----------
    sites
        Attention layers of a model.
    config
        Of the model.
    """
    shapes, tensors = dict[str, AttentionShape](), dict[str, dict[str, Tensor]]()
    none = (0,) * config.num_heads
    for site in sites:
        if site.kind != "group" or site.single_key:
            continue
        d, inner = site.d_model, sum(site.value_widths)
        merged = 0 < d * d < 2 * d * inner
        widths = [0] * config.num_heads
        for head, width in zip(site.active, site.value_widths, strict=True):
            widths[head] = width
        ranks = {}
        if merged:
            widths = [d] + [0] * (config.num_heads - 1)
            tensors[site.value.name] = {"weight": site.output.weight @ site.value.weight}
            tensors[site.output.name] = {}
        else:
            ranks = {
                letter: int(site.projections[letter].module.rank)  # type: ignore[arg-type]
                for letter in "vo"
                if hasattr(site.projections[letter].module, "rank")
            }
        for projection in (site.query, site.key):
            tensors[projection.name] = {"weight": torch.zeros(0, d)}
        shapes[site.name] = AttentionShape(none, tuple(widths), ranks, merged=merged)
    return Shapes(shapes, univariate=True), tensors
