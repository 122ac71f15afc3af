"""Opening a model of any family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flowrank.cost import fastest_dtype
from flowrank.engine.paths import check_budget, check_engine
from flowrank.family import DEFAULT, Checkpoint, FlowrankPipeline
from flowrank.nn.shapes import Shapes

Pipeline = FlowrankPipeline
"""What `load` returns."""


def load(
    source: str | Path = DEFAULT,
    *,
    device_map: Any = "cpu",
    dtype: Any = "auto",
    revision: str | None = None,
    engine: str = "exact",
    memory_budget: int | None = None,
    local_files_only: bool = False,
) -> Any:
    """Open a time series model of any known family, dense or compressed.

    Parameters
    ----------
    source
        A hub id (``"amazon/chronos-bolt-small"``), a folder, or the name of an embedded model.
    device_map
        Where the weights go: ``"cpu"``, ``"cuda"``, ``"auto"`` or what transformers accepts.
    dtype
        ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ``"float16"``, a torch dtype, or ``"fastest"``: bfloat16
        where a short measurement finds that the device multiplies it faster, else float32. A model of 8-bit integers
        (`flowrank.quantize`) opens as it is.
    revision
        Commit, branch or tag on the hub.
    engine
        "exact" (fast, the same forecasts) or "stock" (chronos-forecasting's own code path). Also a settable attribute.
    memory_budget
        Bytes for activations and caches of the exact engine; None: 2 GiB on a CPU, half of what is free on a GPU. Also
        a settable attribute.
    local_files_only
        Whether a hub id is looked up in the cache of the hub only, and nothing is downloaded.

    Returns
    -------
    FlowrankPipeline
        A pipeline of the model's family; those of Chronos models have chronos-forecasting's verbs: ``predict``,
        ``predict_quantiles``, ``predict_df``, ``predict_fev``, ``embed``.

    Raises
    ------
    FlowrankError
        If the source is not there or not such a model, or its weights are absent, truncated or contradict its
        config. Nothing is unpickled and no remote code runs.

    Examples
    --------
    >>> import torch
    >>> pipeline = load("flow-bolt-mini")
    >>> quantiles, mean = pipeline.predict_quantiles([torch.arange(48.0)], prediction_length=12)
    >>> tuple(quantiles.shape), tuple(mean.shape)
    ((1, 12, 9), (1, 12))
    """
    check_engine(engine)
    check_budget(memory_budget)
    cached: dict[str, Any] = {"local_files_only": True} if local_files_only else {}
    checkpoint = Checkpoint.find(source, revision=revision, **cached)
    if dtype == "fastest" and Shapes.of(checkpoint.config).int8:
        dtype = "auto"
    if dtype == "fastest":
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = fastest_dtype(device_map if device_map != "auto" and isinstance(device_map, str) else auto)
    pipeline = FlowrankPipeline.of_checkpoint(checkpoint, device_map=device_map, dtype=dtype)
    pipeline.engine, pipeline.memory_budget = engine, memory_budget
    return pipeline
