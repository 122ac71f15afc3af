"""Chronos models whose attention layers have widths of their own, and how they are opened and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowrank.models.checkpoint import Checkpoint, tensor_digest
from flowrank.models.config import AttentionShape, CompressedT5Config
from flowrank.models.embedded import DEFAULT, embedded_models
from flowrank.models.pipelines import FlowrankBoltPipeline, FlowrankT5Pipeline
from flowrank.models.t5 import (
    CompressedChronosBolt,
    CompressedT5ForConditionalGeneration,
    attention_layers,
    attention_parameters,
)

__all__ = [
    "DEFAULT",
    "AttentionShape",
    "CompressedChronosBolt",
    "CompressedT5Config",
    "CompressedT5ForConditionalGeneration",
    "FlowrankBoltPipeline",
    "FlowrankT5Pipeline",
    "Pipeline",
    "attention_layers",
    "attention_parameters",
    "embedded_models",
    "load",
    "tensor_digest",
]

Pipeline = FlowrankBoltPipeline | FlowrankT5Pipeline
"""What `load` returns."""


def load(
    source: str | Path = DEFAULT,
    *,
    device_map: Any = "cpu",
    dtype: Any = "auto",
    revision: str | None = None,
) -> Pipeline:
    """Open a Chronos-T5 or Chronos-Bolt model, dense or compressed.

    Parameters
    ----------
    source
        A hub id (``"amazon/chronos-bolt-small"``), a folder, or the name of an embedded model.
    device_map
        Where the weights go: ``"cpu"``, ``"cuda"``, ``"auto"`` or what transformers accepts.
    dtype
        ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ``"float16"`` or a torch dtype.
    revision
        Commit, branch or tag on the hub.

    Returns
    -------
    FlowrankBoltPipeline or FlowrankT5Pipeline
        A chronos-forecasting pipeline: ``predict``, ``predict_quantiles``, ``predict_df``, ``predict_fev``, ``embed``.

    Raises
    ------
    FlowrankError
        If the source is not there or not such a model, or its weights are absent, truncated or contradict its
        config. Nothing is unpickled and no remote code runs.

    Examples
    --------
    >>> import torch
    >>> pipeline = load("seed-bolt")
    >>> quantiles, mean = pipeline.predict_quantiles([torch.arange(48.0)], prediction_length=12)
    >>> tuple(quantiles.shape), tuple(mean.shape)
    ((1, 12, 9), (1, 12))
    """
    checkpoint = Checkpoint.find(source, revision=revision)
    bolt = checkpoint.config.chronos_pipeline_class.endswith("BoltPipeline")
    pipeline_class = FlowrankBoltPipeline if bolt else FlowrankT5Pipeline
    return pipeline_class.from_pretrained(source, device_map=device_map, dtype=dtype, revision=revision)
