"""What a forecast of a Chronos-T5 model costs.

With P_i the parameters of a layer's matrices, N = B · L context tokens and k_i + v_i its cached features a token:

* the encoder takes 2 N P_i + 2 B L² (k_i + v_i) operations a layer;
* exact decoding makes cross-attention keys and values for N tokens, stock decoding for N · S;
* exact decoding decodes B + B · S (H − 1) tokens, stock decoding B · S · H.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowrank.cost import LayerSize, Part, Pass, Workload, blocks_of, prefers_latent
from flowrank.families._t5_stack.cost import Stacks


def passes(config: Any, workload: Workload, *, exact: bool, itemsize: int, cross_cache: str = "auto") -> Iterator[Pass]:
    """What a forecast of sample paths passes through, block by block of the model's own horizon."""
    stacks, raw = Stacks(config, even=exact), config.chronos_config
    series, paths, d = workload.batch_size, workload.num_samples, stacks.d
    end = int(raw["use_eos_token"] and raw["model_type"] == "seq2seq")
    past = sum(layer.features for layer in stacks.decoder)
    decoding = sum(layer.parameters for layer in stacks.decoder) + sum(layer.q + layer.o for layer in stacks.cross)
    decoding += sum(stacks.decoder_mlps)
    vocabulary = int(config.vocab_size)
    rank = stacks.shapes.vocabulary.get("head")
    head = vocabulary * d if rank is None else rank * (d + vocabulary)
    embedding = (stacks.shapes.vocabulary.get("embedding") or 0) * d
    decoding += embedding
    for read, steps in blocks_of(workload, int(raw["context_length"]), int(raw["prediction_length"])):
        parts = []
        tokens = read + end
        rows = series + series * paths * (steps - 1) if exact else series * paths * steps
        lookups = series * paths * sum(range(2, steps + 1))  # keys read again, the first token's own apart
        keyed, latent = list(stacks.cross), list[LayerSize]()
        if exact:
            for layer in stacks.cross:
                shared = prefers_latent(d, layer.heads, layer.features, tokens=tokens, paths=paths, series=series)
                if cross_cache == "latent" or (cross_cache == "auto" and shared):
                    keyed.remove(layer)
                    latent.append(layer)
        cross = sum(layer.features for layer in keyed)
        making = sum(layer.k + layer.v for layer in keyed)
        encoder = stacks.encode(series, tokens, itemsize)
        embedded = 2 * series * tokens * embedding
        parts.append(Part("encoder", encoder.flops + embedded, encoder.moved + itemsize * embedding))
        made = series * (1 if exact else paths) * tokens
        parts.append(Part("cross keys and values", 2 * made * making, itemsize * (making + made * cross)))
        flops = 2 * rows * decoding + 2 * rows * tokens * sum(layer.attended for layer in keyed)
        flops += 2 * lookups * sum(layer.attended for layer in stacks.decoder)
        flops += sum(2 * rows * d * (layer.features + 2 * layer.heads * tokens) for layer in latent)
        moved = steps * (decoding + made * (cross + d * len(latent))) + lookups * past
        if not exact:  # its cache is copied to grow
            flops += 2 * series * paths * sum(layer.attended for layer in stacks.decoder)
            moved += 2 * lookups * past
        parts.append(Part("decoder", flops, itemsize * moved))
        parts.append(Part("head", 2 * rows * head, itemsize * steps * head + 4 * rows * vocabulary))
        held = made * (cross + (d if latent else 0))
        yield Pass(tuple(parts), cache_self=itemsize * series * paths * steps * past, cache_cross=itemsize * held)
