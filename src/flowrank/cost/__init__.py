"""Operations, bytes and roofline time of a workload; peak rates of a machine."""

from __future__ import annotations

from flowrank.cost.counting import (
    Cost,
    LayerSize,
    Part,
    Pass,
    Workload,
    blocks_of,
    encoder_pass,
    prefers_latent,
    total,
)
from flowrank.cost.machine import Machine, fastest_dtype

__all__ = [
    "Cost",
    "LayerSize",
    "Machine",
    "Part",
    "Pass",
    "Workload",
    "blocks_of",
    "encoder_pass",
    "fastest_dtype",
    "prefers_latent",
    "total",
]
