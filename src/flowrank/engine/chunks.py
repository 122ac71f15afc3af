"""How many series go through a model at once, from a memory budget."""

from __future__ import annotations

from collections.abc import Iterator

import torch

DEFAULT_BUDGET = 2 * 2**30
"""Bytes that one chunk's activations and caches may take on a CPU; on a GPU, half of what is free."""


def budget_on(device: torch.device, budget: int | None) -> int:
    """The budget in bytes: the caller's, or the default of the device."""
    if budget is not None:
        return budget
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) // 2
    return DEFAULT_BUDGET


def even_chunks(costs: list[int], budget: int) -> Iterator[slice]:
    """Cut a sequence of series into chunks that fit the budget, alike in size; a single series always fits.

    Parameters
    ----------
    costs
        Bytes of each series. Within a chunk all are padded, so each takes as much as the largest.

    Examples
    --------
    >>> list(even_chunks([1, 1, 1, 1], 3))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    start = 0
    while start < len(costs):
        most, dearest = 0, 0
        for cost in costs[start:]:
            dearest = max(dearest, cost)
            if (most + 1) * dearest > budget:
                break
            most += 1
        left = len(costs) - start
        chunks = -(-left // max(1, most))  # as many as needed, none of them nearly empty
        size = -(-left // chunks)
        yield slice(start, start + size)
        start += size
