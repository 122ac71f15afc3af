"""What a forecast of a Chronos-Bolt model costs.

With P_i the parameters of a layer's matrices, N = B · L context tokens and k_i + v_i its cached features a token:

* the encoder takes 2 N P_i + 2 B L² (k_i + v_i) operations a layer;
* exact decoding makes no keys and values: a head's query costs k_i d to take to the encoder's space, 4 L d to read
  there, and v_i d to take back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from flowrank.cost import Part, Pass, Workload, blocks_of
from flowrank.families._patch_block import block_sizes
from flowrank.families._t5_stack.config import shape_of_mlp
from flowrank.families._t5_stack.cost import Stacks


def passes(config: Any, workload: Workload, *, exact: bool, itemsize: int) -> Iterator[Pass]:
    """What a forecast passes through, block by block of the model's own horizon."""
    stacks, raw = Stacks(config, even=exact), config.chronos_config
    d = stacks.d
    size, stride, levels = raw["input_patch_size"], raw["input_patch_stride"], len(raw["quantiles"])
    outputs = levels * raw["prediction_length"]
    embedding = _block(stacks, "input_patch_embedding", 2 * size, d)
    head = _block(stacks, "output_patch_embedding", d, outputs)
    reach = blocks_of(workload, int(raw["context_length"]), int(raw["prediction_length"]))
    for block, (read, _) in enumerate(reach):
        parts = []
        rows = workload.batch_size * (levels if block else 1)
        patches = (math.ceil(read / size) * size - size) // stride + 1
        tokens = patches + int(raw.get("use_reg_token", False))
        encoder = stacks.encode(rows, tokens, itemsize)
        embedded = 2 * rows * patches * embedding
        parts.append(Part("encoder", encoder.flops + embedded, encoder.moved + itemsize * embedding))
        flops = parameters = 0
        layers = zip(stacks.decoder, stacks.cross, stacks.decoder_mlps, strict=True)
        for index, (past, cross, feed_forward) in enumerate(layers):
            mapped = past.v + past.o if exact else past.parameters
            asked = mapped + cross.q + (cross.keys * d if exact else 0)
            if exact and index == 0:  # the same token for every series, so all of it is made once for the model
                asked = 0
            flops += 2 * rows * (asked + cross.o + feed_forward)
            parameters += mapped + cross.parameters + feed_forward
            if exact:
                flops += 2 * rows * cross.values * d + 4 * rows * cross.heads * tokens * d
            else:
                flops += 2 * rows * past.attended + 2 * rows * tokens * (cross.k + cross.v + cross.attended)
        made = 0 if exact else rows * tokens * sum(layer.features for layer in stacks.cross)
        moved = parameters + 2 * made + (rows * tokens * d * len(stacks.cross) if exact else 0)
        parts.append(Part("decoder", flops, itemsize * moved))
        parts.append(Part("head", 2 * rows * head, itemsize * (head + rows * outputs)))
        past_made = 0 if exact else rows * sum(layer.features for layer in stacks.decoder)
        yield Pass(tuple(parts), cache_self=itemsize * past_made, cache_cross=itemsize * made)


def _block(stacks: Stacks, name: str, inputs: int, outputs: int) -> int:
    """Parameters of a patch block."""
    shape = shape_of_mlp(stacks.config, stacks.shapes, name)
    return sum(shape.parameters(block_sizes(inputs, outputs, shape.width)).values())
