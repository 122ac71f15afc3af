"""`quantize` makes weights of 8-bit integers for CPUs; `fastest` finds the fastest number type of a machine."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from flowrank.compression.children import assembled, parent_name, pipeline_of
from flowrank.compression.timing import seconds_of
from flowrank.errors import FlowrankError, check_count
from flowrank.family import FlowrankPipeline, family_of_model, tensor_digest
from flowrank.nn.config import refuse_quantized
from flowrank.nn.int8 import Int8Weight, quantizable
from flowrank.nn.shapes import Shapes
from flowrank.pipelines import Pipeline
from flowrank.versions import versions

_WORTH = 1.1  # how many times as fast another number type must be to be chosen


def quantize(pipeline: Pipeline) -> Pipeline:
    """Make the weights of the large linear layers 8-bit integers; the parent does not change.

    For inference on CPUs. The file is about a quarter of an fp32 model's, and `fastest` measures whether the forecasts
    are faster on this machine. Activations are quantised row by row during a forecast, without calibration. Biases,
    norms and embeddings do not change, nor does an output matrix that is tied to the embedding.

    Parameters
    ----------
    pipeline
        A model in fp32 on a CPU, dense or compressed.

    Returns
    -------
    FlowrankPipeline
        The model of integers, with its recipe; ``save_pretrained`` writes it. Tensors that did not change share memory
        with the parent's.

    Raises
    ------
    FlowrankError
        If the pipeline is not of flowrank, is on a GPU, in another type than fp32 or quantized already, or has no layer
        that is large enough.

    Examples
    --------
    >>> import flowrank
    >>> parent = flowrank.load("flow-bolt")
    >>> child = flowrank.quantize(parent)
    >>> child.inner_model.get_parameter("encoder.block.0.layer.0.SelfAttention.q.weight").dtype
    torch.int8
    """
    _check(pipeline)
    parent = pipeline.inner_model
    family = family_of_model(parent)
    layers = quantizable(parent, excluded=family.kept_from_int8(parent))
    if not layers:
        raise FlowrankError("pipeline", expected="a linear layer large enough to win by integers", found="none")
    state = dict(parent.state_dict())
    for name in layers:
        weight = Int8Weight.of(parent.get_parameter(f"{name}.weight"))
        state |= {f"{name}.weight": weight.values, f"{name}.scale": weight.scale}
    config = family.narrowed_config(parent.config, Shapes(int8=tuple(layers)))
    made = pipeline_of(assembled(config, state, parent))
    made.name = f"{parent_name(pipeline)} int8"
    made.engine, made.memory_budget = pipeline.engine, pipeline.memory_budget
    made.recipe = {
        **(pipeline.recipe or {}),
        "quantization": {
            "weights": "int8",
            "layers": len(layers),
            "parent": {"name": parent_name(pipeline), "sha256": tensor_digest(parent)},
            "versions": versions(),
        },
    }
    return made


def fastest(pipeline: Pipeline, *, batch_size: int = 32, seconds: float = 3.0) -> Pipeline:
    """The model in the number type that is fastest on this machine: its present one, bfloat16, or 8-bit integers.

    Measured on this machine and this model, in turns. Another type than the model's own is chosen only where it takes
    at most 1 / 1.1 of the time.

    Parameters
    ----------
    pipeline
        As for `quantize`.
    batch_size
        Series in one forecast, of the longest context that the model reads.
    seconds
        How long to measure.

    Returns
    -------
    FlowrankPipeline
        ``pipeline`` itself, or a new one.

    Raises
    ------
    FlowrankError
        As `quantize` does.

    Examples
    --------
    >>> import flowrank
    >>> pipeline = flowrank.fastest(flowrank.load("flow-bolt-mini"), batch_size=2, seconds=0.1)
    >>> pipeline.predict(torch.ones(2, 64)).shape[0]
    2
    """
    check_count(batch_size, "batch_size")
    kinds = {"float32": pipeline, "bfloat16": _in_bfloat16(pipeline), "int8": quantize(pipeline)}
    taken = seconds_of(kinds, batch_size=batch_size, seconds=seconds)
    best = min(taken, key=taken.__getitem__)
    return kinds[best] if taken[best] * _WORTH <= taken["float32"] else pipeline


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a model's tensors, shared ones once."""
    return sum(one.nbytes for one in {id(tensor): tensor for tensor in model.parameters()}.values())


def _in_bfloat16(pipeline: Pipeline) -> Pipeline:
    _check(pipeline)
    model: Any = copy.deepcopy(pipeline.inner_model)
    made = pipeline_of(model.to(torch.bfloat16))
    made.name, made.recipe = pipeline.name, pipeline.recipe
    made.engine, made.memory_budget = pipeline.engine, pipeline.memory_budget
    return made


def _check(pipeline: Any) -> None:
    if not isinstance(pipeline, FlowrankPipeline):
        raise FlowrankError(
            "pipeline",
            expected="a pipeline of flowrank",
            found=type(pipeline).__name__,
            todo="open it with flowrank.load",
        )
    model = pipeline.inner_model
    refuse_quantized(model, "pipeline", "quantize")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise FlowrankError(
            "pipeline",
            expected="a model in float32 on a CPU",
            found=f"{str(model.dtype).removeprefix('torch.')} on {model.device.type}",
            todo='open it with flowrank.load(…, device_map="cpu", dtype="float32")',
        )
