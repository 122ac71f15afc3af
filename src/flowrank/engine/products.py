"""Products with a weight, by the faster of the two libraries that torch carries.

In fp32 `torch.nn.functional.linear` goes to MKL on x86 CPUs. oneDNN, which torch uses for bfloat16, is not held back on
processors of other makers than Intel, and is faster there. On Intel's it takes some 15 μs a call longer than MKL, which
pays only for some rows by a weight of megabytes (`benchmarks/products.py`).
`torch.backends.mkldnn.flags(enabled=False)` switches it off.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from flowrank.nn.int8 import Int8Weight, int8_product

_MANY = 2048  # rows from which on the addition inside MKL's product is worth more
_LARGE = 1 << 20  # numbers of a weight from which on oneDNN is faster on Intel's processors, too, by
_SOME = range(8, 512)  # so many rows
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


@cache
def mkl_is_best() -> bool:
    """Whether torch has MKL and Intel made this processor."""
    try:
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        name = platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in name


Matrix = Tensor | Int8Weight
"""A weight (out, in), of floating-point numbers or of integers."""


def product(x: Tensor, weight: Matrix, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Map rows (n, in) by a weight (out, in), as `torch.nn.functional.linear` does; then ReLU, if asked."""
    if isinstance(weight, Int8Weight):
        return int8_product(x, weight, bias, relu=relu)
    if _by_onednn(x, weight):
        return _ONEDNN(x, weight, bias, "relu" if relu else "none", [], "")  # type: ignore[misc]
    result = linear(x, weight, bias)
    return result.relu_() if relu else result


def add_product(x: Tensor, update: Tensor, weight: Matrix) -> None:
    """Add the product of rows ``update`` (n, in) and a weight (out, in) to ``x`` (n, out), in place."""
    if isinstance(weight, Int8Weight) or (len(x) < _MANY and _by_onednn(update, weight)):
        x += product(update, weight)
    else:
        x.addmm_(update, weight.t())


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and (not mkl_is_best() or (weight.numel() >= _LARGE and len(x) in _SOME))
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and x.numel() > 0
        and weight.numel() > 0
        and x.is_contiguous()
        and weight.is_contiguous()
    )
