"""What a model family is, which ones there are, and the files and pipelines of their models."""

from __future__ import annotations

from flowrank.family.attention import explicit_attention
from flowrank.family.checkpoint import MODEL_FILES, Checkpoint, tensor_digest
from flowrank.family.copies import private_copy
from flowrank.family.costs import cost
from flowrank.family.embedded import DEFAULT, embedded_models
from flowrank.family.groups import Context, SeriesGroup, rows_of
from flowrank.family.layouts import Layout, layout_of
from flowrank.family.objectives import Objective, QuantileObjective, quantile_objective, quantile_probe, token_objective
from flowrank.family.pipeline import FlowrankPipeline, check_reach
from flowrank.family.protocol import Family, pad_left, shape_of, shapes_of
from flowrank.family.registry import (
    anatomy_of,
    families,
    family_of,
    family_of_config,
    family_of_model,
    register,
    trained_families,
    training_keys,
    training_of,
    unregister,
)
from flowrank.family.sizes import SIZES
from flowrank.family.training import Training

__all__ = [
    "DEFAULT",
    "MODEL_FILES",
    "SIZES",
    "Checkpoint",
    "Context",
    "Family",
    "FlowrankPipeline",
    "Layout",
    "Objective",
    "QuantileObjective",
    "SeriesGroup",
    "Training",
    "anatomy_of",
    "check_reach",
    "cost",
    "embedded_models",
    "explicit_attention",
    "families",
    "family_of",
    "family_of_config",
    "family_of_model",
    "layout_of",
    "pad_left",
    "private_copy",
    "quantile_objective",
    "quantile_probe",
    "register",
    "rows_of",
    "shape_of",
    "shapes_of",
    "tensor_digest",
    "token_objective",
    "trained_families",
    "training_keys",
    "training_of",
    "unregister",
]
