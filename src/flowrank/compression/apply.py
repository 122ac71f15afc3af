"""The verb: `compress(pipeline, method)` makes the smaller model."""

from __future__ import annotations

from typing import Any

import torch
from chronos import ChronosBoltPipeline
from transformers import PreTrainedModel

from flowrank.calibration import POINTS, Calibration
from flowrank.compression.allocation import allocate
from flowrank.compression.factorize import Layer, factorization_of
from flowrank.compression.methods import Method, describe, passes
from flowrank.errors import FlowrankError
from flowrank.families import family_of
from flowrank.models import (
    CompressedChronosBolt,
    CompressedT5Config,
    CompressedT5ForConditionalGeneration,
    attention_layers,
    attention_parameters,
    tensor_digest,
)
from flowrank.pipelines import FlowrankBoltPipeline, FlowrankT5Pipeline, Pipeline
from flowrank.progress import progress_bar
from flowrank.versions import versions


def compress(
    pipeline: Any,
    method: Method,
    *,
    series: Any = None,
    calibration_series: int = 512,
    calibration_points: int = POINTS,
    seed: int = 0,
    progress: bool = False,
    **columns: Any,
) -> Pipeline:
    """Make a smaller model; the parent is left as it was.

    Parameters
    ----------
    pipeline
        A dense Chronos-T5 or Chronos-Bolt pipeline.
    method
        `WeightSVD`, `InputSVD` or `JointHeads`, with its allocation.
    series
        Calibration series, anything that `flowrank.series.read_series` reads; None for the built-in synthetic ones.
    calibration_series, calibration_points
        How many series to use at most, and how many last points of each.
    seed
        Of the synthetic series and of the probe's random directions.
    progress
        Whether to show a progress bar.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Returns
    -------
    FlowrankBoltPipeline or FlowrankT5Pipeline
        The child, with its recipe; ``save_pretrained`` writes it. Feed-forward layers and embeddings share memory
        with the parent's.

    Raises
    ------
    FlowrankError
        If the pipeline is compressed already, or the method or the series cannot be used.

    Examples
    --------
    >>> import flowrank
    >>> parent = flowrank.load("seed-bolt")
    >>> child = flowrank.compress(parent, flowrank.JointHeads(flowrank.Budget(0.25)), calibration_series=32)
    >>> child.recipe["parameters"]["attention_child"] <= 0.25 * child.recipe["parameters"]["attention_parent"]
    True
    """
    family = family_of(pipeline)
    parent = family.model
    if isinstance(parent.config, CompressedT5Config):
        raise FlowrankError(
            "pipeline",
            expected="a dense model",
            found="one that flowrank compressed already",
            todo="compress its parent to the ratio you want",
        )
    calibration = Calibration([], "none needed", {})
    sweeps = passes(method)
    if sweeps:
        calibration = Calibration.read(
            series, count=calibration_series, points=calibration_points, seed=seed, **columns
        )
    total = sweeps * len(calibration.contexts)
    with progress_bar(f"measuring (passes: {sweeps})", total=total, show=progress and total > 0) as advance:
        factorization = factorization_of(method, family, calibration.contexts, seed, advance)
    dense = sum(site.dense_parameters for site in family.sites)
    kept = allocate(method.allocation, factorization.groups, dense)
    child = child_of(parent, factorization.layers(kept))
    bolt = isinstance(pipeline, ChronosBoltPipeline)
    made: Pipeline = FlowrankBoltPipeline(child) if bolt else FlowrankT5Pipeline.around(child)
    made.name = f"{parent_name(pipeline)} compressed"
    made.recipe = {
        "method": describe(method),
        "allocation": describe(method.allocation),
        "seed": seed,
        "calibration": {
            "source": calibration.source,
            "series": len(calibration.contexts),
            "points": calibration_points,
            "skipped": calibration.skipped,
        },
        "parent": {"name": parent_name(pipeline), "sha256": tensor_digest(parent)},
        "parameters": _parameters(parent, child),
        "versions": versions(),
    }
    return made


def _parameters(parent: PreTrainedModel, child: PreTrainedModel) -> dict[str, int]:
    return {
        "parent": parent.num_parameters(),
        "child": child.num_parameters(),
        "attention_parent": attention_parameters(parent),
        "attention_child": attention_parameters(child),
    }


def parent_name(pipeline: Any) -> str:
    """What the pipeline was loaded as."""
    return str(getattr(pipeline, "name", None) or pipeline.inner_model.config._name_or_path or "in memory")


def child_of(parent: PreTrainedModel, layers: dict[str, Layer]) -> PreTrainedModel:
    """A copy of ``parent`` in which the named attention layers are replaced; all other tensors are the parent's own."""
    raw = parent.config.to_dict()
    for key in ("model_type", "architectures", "attention_shapes"):
        raw.pop(key, None)
    config = CompressedT5Config(**raw)
    config.attention_shapes = {name: shape.to_dict() for name, (shape, _) in layers.items()}
    bolt = hasattr(parent, "input_patch_embedding")
    with torch.device("meta"):
        child = (CompressedChronosBolt if bolt else CompressedT5ForConditionalGeneration)(config)
    state = dict(parent.state_dict())
    for name, (_, tensors) in layers.items():
        reference = attention_layers(parent)[name].q.weight
        for projection in ("q", "k", "v", "o"):
            del state[f"{name}.{projection}.weight"]
        for suffix, tensor in tensors.items():
            state[f"{name}.{suffix}"] = tensor.to(reference).contiguous()
    child.load_state_dict(state, assign=True)
    _tie_like(child, parent)
    for name, buffer in parent.named_buffers():
        module, _, attribute = name.rpartition(".")
        child.get_submodule(module).register_buffer(attribute, buffer, persistent=False)
    if parent.can_generate():
        child.generation_config = parent.generation_config
    return child.eval().requires_grad_(False)


def _tie_like(child: PreTrainedModel, parent: PreTrainedModel) -> None:
    """Make parameters one object in the child where they are one in the parent (embeddings)."""
    first: dict[int, str] = {}
    for name, parameter in parent.named_parameters(remove_duplicate=False):
        original = first.setdefault(id(parameter), name)
        if original != name:
            module, _, attribute = name.rpartition(".")
            setattr(child.get_submodule(module), attribute, child.get_parameter(original))
