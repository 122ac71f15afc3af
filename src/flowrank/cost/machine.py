"""Peak rates of a machine, measured in half a second."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrank.stopwatch import seconds_taken

if TYPE_CHECKING:
    import torch

_MEASURE_S = 0.25
_LARGE = 1 << 24  # floats of a copy: more than a processor's cache


@dataclass(frozen=True)
class Machine:
    """Measured peak rates of a machine.

    Attributes
    ----------
    flops_per_second
        Of a large matrix product.
    bytes_per_second
        Read and written, of a large copy.
    """

    flops_per_second: float
    bytes_per_second: float

    @classmethod
    def measure(cls, device: Any = "cpu", dtype: Any = None) -> Machine:
        """Time a large matrix product and a large copy, for half a second.

        Parameters
        ----------
        device
            Where.
        dtype
            Of the matrices; default: fp32.

        Examples
        --------
        >>> Machine.measure().flops_per_second > 1e8
        True
        """
        import torch

        device, dtype = torch.device(device), dtype or torch.float32
        a, b = (torch.ones(1024, 1024, dtype=dtype, device=device) for _ in range(2))
        product = torch.empty_like(a)
        source = torch.ones(_LARGE, device=device)
        target = torch.empty_like(source)
        with torch.no_grad():
            multiply = _fastest(lambda: torch.mm(a, b, out=product), device)
            copy = _fastest(lambda: target.copy_(source), device)
        return cls(2 * 1024**3 / multiply, 2 * source.nbytes / copy)


def fastest_dtype(device: Any = "cpu") -> torch.dtype:
    """bf16 where the device multiplies it clearly faster than fp32, else fp32: measured, in a second.

    Processors without bf16 instructions compute it more slowly than fp32.

    Examples
    --------
    >>> str(fastest_dtype()) in ("torch.float32", "torch.bfloat16")
    True
    """
    import torch

    single, half = (Machine.measure(device, dtype).flops_per_second for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if half > 1.2 * single else torch.float32


def _fastest(call: Any, device: torch.device) -> float:
    call()
    best, until = math.inf, time.perf_counter() + _MEASURE_S
    while best == math.inf or time.perf_counter() < until:
        best = min(best, seconds_taken(call, device))
    return best
