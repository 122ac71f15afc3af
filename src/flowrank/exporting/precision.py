"""Fewer bits for the weights of an ONNX model.

The graph says how they become numbers of 32 bits again, so that any runtime computes the same.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LEAST = 1024
"""Numbers of a weight that is worth it."""


def halved(model: Any) -> Any:
    """A copy whose large weights are stored in bfloat16."""
    import onnx
    from ml_dtypes import bfloat16

    def stored(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        kept = onnx.numpy_helper.from_array(values.astype(bfloat16), f"{name}.bf16")
        return [kept], [onnx.helper.make_node("Cast", [kept.name], [name], to=onnx.TensorProto.FLOAT)]

    return _replaced(model, stored)


def integers(model: Any) -> Any:
    """A copy whose large matrices are stored as 8-bit integers, with a scale for each column."""
    import onnx

    def stored(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
        largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        rounded = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
        tensors = [onnx.numpy_helper.from_array(rounded, f"{name}.int8")]
        tensors.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
        names = [one.name for one in tensors]
        return tensors, [onnx.helper.make_node("DequantizeLinear", names, [name], axis=values.ndim - 1)]

    return _replaced(model, stored)


def dynamic_integers(model: Any) -> Any:
    """A copy that multiplies in 8-bit integers: weights rounded now, activations by each batch's range."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    flat = {one.name for one in model.graph.initializer if len(one.dims) == 2}  # the rest has no scales by column there
    others = [one.name for one in model.graph.node if one.op_type == "MatMul" and one.input[1] not in flat]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        onnx.save(model, source)
        with _silenced():
            quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=others)
        return onnx.load(target)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without advice that does not hold here; it goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _replaced(model: Any, stored: Any) -> Any:
    """A copy in which nodes make the large weights from what ``stored`` gives for their name and values."""
    import onnx

    made = type(model)()
    made.CopyFrom(model)
    graph = made.graph
    nodes, kept = [], []
    for one in graph.initializer:
        large = one.data_type == onnx.TensorProto.FLOAT and len(one.dims) >= 2 and np.prod(one.dims) >= LEAST
        if not large:
            kept.append(one)
            continue
        tensors, makers = stored(one.name, onnx.numpy_helper.to_array(one))
        kept += tensors
        nodes += makers
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return made
