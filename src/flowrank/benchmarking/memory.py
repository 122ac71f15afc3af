"""The memory that a call needs, by the account of torch's own allocators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory(call: Callable[[], object], *, device: torch.device | None = None) -> int | None:
    """Highest number of bytes that ``call`` holds at one time, above what was held before it.

    Parameters
    ----------
    call
        What to run, once.
    device
        Where it computes; default: the CPU.

    Returns
    -------
    int or None
        Bytes. On the CPU, the peak of the running sum over every allocation and release that torch's CPU
        allocator reports, temporaries inside kernels included; on CUDA, torch's own peak counter. None for
        other devices, which report neither.

    Examples
    --------
    >>> import torch
    >>> peak_memory(lambda: torch.zeros(1000).sum().item()) >= 4000
    True
    """
    import torch

    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device is not None and device.type != "cpu":
        return None
    with _quiet_profiler(), torch.autograd.profiler.profile(profile_memory=True) as profiler:
        call()
    results = profiler.kineto_results
    assert results is not None  # the profiler has just ended
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own log lines off the terminal; it reads its level when it first runs."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
