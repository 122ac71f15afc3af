"""Forward and backward passes over calibration series, batch by batch, observed by taps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch

from flowrank.family import Context, Family, rows_of

BATCH_BYTES = 512 * 2**20
"""Activations of one calibration batch, over all layers, stay near or below this, or half of the model's bytes."""

LEAST_BYTES = 256 * 2**20
"""However small the model is."""

BATCH_SERIES = 64
"""Most series in one calibration batch."""

BLOCK = 1024
"""Series among which those of like length are batched."""

OnBatch = Callable[[int], None]
"""Called with the number of series of each finished batch."""

Tap = Callable[[], list[Any]]
"""Hangs hooks into a model, and gives the handles that take them off again."""


def batches(family: Family, contexts: Iterable[Context]) -> Iterator[list[Context]]:
    """Group series, the longest first, so that activations kept for the backward pass fit in `BATCH_BYTES`.

    Sorting reduces padding, and cuts fewer series to the horizon of a short one (`Family.probe`). A token keeps about 8
    vectors of the model's width a layer, a pair of tokens one attention weight a head.
    """
    sites = family.attention
    size = sum(parameter.nbytes for parameter in family.model.parameters())
    most = min(BATCH_BYTES, max(LEAST_BYTES, size // 2))
    bytes_a_token = 4 * len(sites) * 8 * sites[0].d_model
    bytes_a_pair = 4 * len(sites) * max(1, *(site.heads for site in sites))
    batch: list[Context] = []
    longest = held = 0
    for context in _by_length(contexts):
        tokens = max(longest, family.context_tokens(len(context)))
        rows = held + rows_of(context)
        needed = rows * tokens * (bytes_a_token + tokens * bytes_a_pair)
        if batch and (needed > most or rows > BATCH_SERIES):
            yield batch
            batch, tokens, rows = [], family.context_tokens(len(context)), rows_of(context)
        batch.append(context)
        held = rows
        longest = tokens
    if batch:
        yield batch


def _by_length(contexts: Iterable[Context]) -> Iterator[Context]:
    """The longest first, block by block."""
    rest = iter(contexts)
    while block := list(islice(rest, BLOCK)):
        yield from sorted(block, key=len, reverse=True)


def sweep(
    family: Family,
    contexts: Iterable[Context],
    taps: Iterable[Tap],
    *,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> int:
    """Run forward and backward over all series in batches; taps receive every layer's activations and gradients.

    Parameters
    ----------
    family
        View of the model.
    contexts
        Series, 1-D tensors; consumed once.
    taps
        Observers of layers.
    seed
        Of the probe's random directions.
    on_batch
        Called with the number of series of each finished batch.

    Returns
    -------
    int
        Number of series read.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 0
    with family.instrumented(gradients=True), ExitStack() as stack:
        for tap in taps:
            for handle in tap():
                stack.callback(handle.remove)
        for batch in batches(family, contexts):
            family.probe(batch, generator).backward()
            count += len(batch)
            if on_batch is not None:
                on_batch(len(batch))
    return count
