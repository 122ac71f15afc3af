"""What a transformer is made of, as plain data: the one description of layers that everything else reads.

A model has blocks, a block has sublayers around the residual stream, a sublayer is attention or an MLP. A model family
writes this description (`flowrank.family`); measuring, compression, cost, engines, analysis and the report read it, and
describe no layer themselves.
"""

from __future__ import annotations

from flowrank.anatomy.kinds import Kind, Stack
from flowrank.anatomy.layers import Attention, Layer, Mlp, Projection, Vocabulary
from flowrank.anatomy.model import Anatomy, Block, Ends, Place, Sublayer
from flowrank.anatomy.positions import Positions

__all__ = [
    "Anatomy",
    "Attention",
    "Block",
    "Ends",
    "Kind",
    "Layer",
    "Mlp",
    "Place",
    "Positions",
    "Projection",
    "Stack",
    "Sublayer",
    "Vocabulary",
]
