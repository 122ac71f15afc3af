"""Wall time of calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seconds_taken(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds that a call takes; on a CUDA device from when it is idle until it has done all that the call started.

    Examples
    --------
    >>> seconds_taken(lambda: sum(range(10))) > 0
    True
    """
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
