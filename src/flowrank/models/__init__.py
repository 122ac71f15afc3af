"""Chronos models whose layers have widths of their own, and their files."""

from __future__ import annotations

import chronos  # noqa: F401 - first: importing it defines flowrank's pipelines, which import parts of this package

from flowrank.models.checkpoint import tensor_digest
from flowrank.models.config import AttentionShape, CompressedT5Config, MlpShape
from flowrank.models.embedded import DEFAULT, embedded_models
from flowrank.models.t5 import (
    CompressedChronosBolt,
    CompressedT5ForConditionalGeneration,
    attention_layers,
    attention_parameters,
    mlp_layers,
    model_class_of,
)

__all__ = [
    "DEFAULT",
    "AttentionShape",
    "CompressedChronosBolt",
    "CompressedT5Config",
    "CompressedT5ForConditionalGeneration",
    "MlpShape",
    "attention_layers",
    "attention_parameters",
    "embedded_models",
    "mlp_layers",
    "model_class_of",
    "tensor_digest",
]
