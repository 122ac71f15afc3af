"""What a forecast of single series by a Chronos-2 model costs.

With P_i the parameters of a layer's matrices, N = B · L tokens and k_i + v_i the features that attention over time
computes with: 2 N P_i + 2 B L² (k_i + v_i) operations a layer. Under the exact engine attention over a group of one is
the product of W_V and W_O, in the last layer all but keys and values is computed for
the future alone, and patches of an unknown future are embedded once. Stock code
lets every series of a batch attend to every other: 2 L B² (k_i + v_i) operations more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from flowrank.cost import LayerSize, Part, Pass, Workload
from flowrank.families._patch_block import block_sizes
from flowrank.families.chronos2.block import feed_forward_sizes
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes

_PATHS = 9  # quantiles that go on beyond the model's own horizon


def passes(config: Any, workload: Workload, *, exact: bool, itemsize: int) -> Iterator[Pass]:
    """What a forecast passes through, as many output patches at a time as the model was trained for."""
    raw = config.chronos_config
    size, most = raw["output_patch_size"], raw.get("max_output_patches", 1)
    left, rows, read = math.ceil(workload.horizon / size), workload.batch_size, workload.context_length
    model = _Model(config, exact)
    while left > 0:
        ahead = min(left, most)
        past = math.ceil(min(read, raw["context_length"]) / raw["input_patch_size"])
        yield model.forward(rows, past, ahead, itemsize)
        left, read = left - ahead, read + ahead * size
        rows = workload.batch_size * _PATHS


class _Model:
    def __init__(self, config: Any, exact: bool) -> None:
        self.config, self.exact, self.shapes = config, exact, Shapes.of(config)
        self.d = int(config.d_model)
        raw = config.chronos_config
        patch, outputs = 3 * raw["input_patch_size"], len(raw["quantiles"]) * raw["output_patch_size"]
        self.outputs = outputs
        self.embedding = self._mlp("input_patch_embedding", patch, self.d)
        self.head = self._mlp("output_patch_embedding", self.d, outputs)

    def _mlp(self, name: str, inputs: int, outputs: int) -> int:
        shape = self.shapes.mlp.get(name) or MlpShape.dense(self.config.d_ff)
        return sum(shape.parameters(block_sizes(inputs, outputs, shape.width)).values())

    def _attention(self, name: str) -> tuple[AttentionShape, LayerSize]:
        shape = self.shapes.attention.get(name) or AttentionShape.dense(self.config.num_heads, self.config.d_kv)
        return shape, LayerSize.of(shape, self.d, even=self.exact)

    def _feed_forward(self, name: str) -> int:
        shape = self.shapes.mlp.get(name) or MlpShape.dense(self.config.d_ff)
        return sum(shape.parameters(feed_forward_sizes(self.d, shape.width)).values()) if shape.width else 0

    def forward(self, rows: int, past: int, ahead: int, itemsize: int) -> Pass:
        tokens = past + 1 + ahead
        flops = parameters = 0
        for number in range(self.config.num_layers):
            place = f"encoder.block.{number}.layer"
            asking = ahead if self.exact and number == self.config.num_layers - 1 else tokens
            _, time = self._attention(f"{place}.0.self_attention")
            flops += 2 * rows * (tokens * (time.k + time.v) + asking * (time.q + time.o))
            flops += 2 * rows * asking * tokens * time.attended
            group, work = self._group(f"{place}.1.self_attention")
            flops += 2 * rows * asking * work
            if not self.exact and not self.shapes.univariate:
                flops += 2 * rows**2 * tokens * group.attended
            feed_forward = self._feed_forward(f"{place}.2.mlp")
            flops += 2 * rows * asking * feed_forward
            parameters += time.parameters + work + feed_forward
        stream = 2 * rows * tokens * self.d * self.config.num_layers
        embedded = 2 * (rows * past + (1 if self.exact else rows) * ahead) * self.embedding
        encoder = Part("encoder", flops + embedded, itemsize * (parameters + self.embedding + stream))
        head = Part("head", 2 * rows * ahead * self.head, itemsize * (self.head + rows * ahead * self.outputs))
        return Pass((encoder, head))

    def _group(self, name: str) -> tuple[LayerSize, int]:
        """Attention over a group, and the parameters that a token alone in its group passes."""
        shape, size = self._attention(name)
        if shape.merged:
            return size, self.d**2
        if not self.exact:
            return size, size.v + size.o if self.shapes.univariate else size.parameters
        return size, min(size.v + size.o, self.d**2) if size.heads else 0
