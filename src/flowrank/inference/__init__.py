"""The exact fast path: the same forecasts from the same weights, without the work that changes nothing."""

from __future__ import annotations

import chronos  # noqa: F401 - first: importing it defines flowrank's pipelines, which import parts of this package

from flowrank.inference.bolt import BoltEngine
from flowrank.inference.engines import ENGINES, Inference
from flowrank.inference.sampling import Sampling
from flowrank.inference.t5 import Decoder, T5Engine

__all__ = [
    "ENGINES",
    "BoltEngine",
    "Decoder",
    "Inference",
    "Sampling",
    "T5Engine",
]
