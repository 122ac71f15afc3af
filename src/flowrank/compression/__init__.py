"""Compression: methods and allocations are values, `compress` applies them."""

from __future__ import annotations

from flowrank.compression.apply import compress
from flowrank.compression.integers import fastest, quantize
from flowrank.compression.methods import InputSVD, JointHeads, Method, WeightSVD, WholeModel
from flowrank.compression.ranks import rank_table
from flowrank.compression.rules import Allocation, Budget, Epsilon, FlowOfRanks, Uniform
from flowrank.compression.single import univariate

__all__ = [
    "Allocation",
    "Budget",
    "Epsilon",
    "FlowOfRanks",
    "InputSVD",
    "JointHeads",
    "Method",
    "Uniform",
    "WeightSVD",
    "WholeModel",
    "compress",
    "fastest",
    "quantize",
    "rank_table",
    "univariate",
]
