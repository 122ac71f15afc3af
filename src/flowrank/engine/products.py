"""Products of rows with a weight, each in the way that is fastest for its shape on this machine.

torch carries two libraries for fp32 products on x86 processors: MKL, which `torch.nn.functional.linear` calls, and
oneDNN, which can also keep a weight packed as it reads it. Which is faster depends on the shape, the number of threads
and the processor. So for up to some hundred rows each way is tried for a few milliseconds, when a shape first comes,
and the answer is kept as long as the process lives (`benchmarks/products.py`). For more rows the ways hardly differ,
and are chosen by rule; small weights are MKL's, whose calls are the shortest.
`torch.backends.mkldnn.flags(enabled=False)` switches oneDNN off.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from flowrank.nn.int8 import Int8Weight, int8_product

_MANY = 2048  # rows from which on the addition inside MKL's product is worth more
_SMALL = 1 << 15  # numbers of a weight below which a call of MKL, which is the shortest, takes least
_MEASURED = 512  # rows below which the ways are measured
_LARGEST = 1 << 30  # multiplications of a product that is measured, at most
_COPIES = 1 << 23  # bytes of weights that a measurement goes through: more than what a core's own cache holds
_TURNS = 6
_WORTH = 0.95  # a packed copy of a weight has to be this much faster than the weight as it is
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
_PACK = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None) if torch.backends.mkldnn.is_available() else None

Way = Callable[[Tensor, "Weight", Tensor | None, bool], Tensor]
"""Maps rows by a weight, adds a bias, and takes the positive part, if asked."""


class Weight:
    """A weight (out, in) of floating-point numbers, and what is kept to multiply by it.

    Parameters
    ----------
    tensor
        The weight; it is not copied.
    """

    __slots__ = ("_packed", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._packed: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        return self.tensor.shape

    def dense(self) -> Tensor:
        """The weight, (out, in)."""
        return self.tensor

    def packed(self, rows: int) -> Tensor:
        """A copy in the order in which oneDNN reads it, made for about so many rows when first asked for."""
        if self._packed is None:
            self._packed = _PACK(self.tensor, rows)  # type: ignore[misc]
        return self._packed


Matrix = Weight | Int8Weight
"""A weight (out, in), of floating-point numbers or of integers."""


def product(x: Tensor, weight: Matrix, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Map rows (n, in) by a weight (out, in), as `torch.nn.functional.linear` does; then ReLU, if asked."""
    if isinstance(weight, Int8Weight):
        return int8_product(x, weight, bias, relu=relu)
    return way(x, weight)(x, weight, bias, relu)


def add_product(x: Tensor, update: Tensor, weight: Matrix) -> None:
    """Add the product of rows ``update`` (n, in) and a weight (out, in) to ``x`` (n, out), in place."""
    if isinstance(weight, Int8Weight):
        x += int8_product(update, weight)
    elif (chosen := way(update, weight)) is by_mkl or x.shape[0] >= _MANY:
        x.addmm_(update, weight.tensor.t())
    else:
        x += chosen(update, weight, None, False)


def by_mkl(x: Tensor, weight: Weight, bias: Tensor | None, relu: bool) -> Tensor:
    """By MKL, or by whatever torch takes where it has no MKL."""
    result = linear(x, weight.tensor, bias)
    return result.relu_() if relu else result


def by_onednn(x: Tensor, weight: Weight, bias: Tensor | None, relu: bool) -> Tensor:
    """By oneDNN, from the weight as it is."""
    return _ONEDNN(x, weight.tensor, bias, "relu" if relu else "none", [], "")  # type: ignore[misc]


def by_packed(x: Tensor, weight: Weight, bias: Tensor | None, relu: bool) -> Tensor:
    """By oneDNN, from a packed copy of the weight."""
    return _ONEDNN(x, weight.packed(len(x)), bias, "relu" if relu else "none", [], "")  # type: ignore[misc]


def way(x: Tensor, weight: Weight) -> Way:
    """The fastest way to map rows by a weight."""
    tensor = weight.tensor
    if (
        _ONEDNN is None
        or x.dtype is not torch.float32
        or tensor.dtype is not torch.float32
        or x.device.type != "cpu"
        or not torch.backends.mkldnn.enabled
        or not x.is_contiguous()
        or not tensor.is_contiguous()
    ):
        return by_mkl
    rows, (outputs, inputs) = x.shape[0], tensor.shape
    work = rows * outputs * inputs
    if work == 0 or outputs * inputs < _SMALL:
        return by_mkl
    if rows >= _MEASURED or work > _LARGEST:
        return by_mkl if _mkl_is_best() else by_onednn
    return fastest(rows.bit_length(), outputs, inputs, torch.get_num_threads())


@cache
def fastest(bits: int, outputs: int, inputs: int, threads: int) -> Way:
    """The fastest way for a shape, by a short measurement.

    Parameters
    ----------
    bits
        Of the number of rows: numbers of as many bits count as one.
    outputs, inputs
        Shape of the weight.
    threads
        Of torch.
    """
    rows = 3 << bits >> 2
    weights = [Weight(torch.ones(outputs, inputs)) for _ in range(max(2, min(32, _COPIES // (4 * outputs * inputs))))]
    x = torch.ones(rows, inputs)
    ways: list[Way] = [by_mkl, by_onednn, *([] if _PACK is None else [by_packed])]
    seconds = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for turn in range(_TURNS):
            for one in ways:
                start = time.perf_counter()
                for weight in weights:
                    one(x, weight, None, False)
                if turn:  # the first packs
                    seconds[one] = min(seconds[one], time.perf_counter() - start)
    plain = min((by_mkl, by_onednn), key=seconds.__getitem__)
    return by_packed if seconds.get(by_packed, float("inf")) < _WORTH * seconds[plain] else plain


@cache
def _mkl_is_best() -> bool:
    """Whether torch has MKL and Intel made this processor; on others MKL is held back."""
    try:
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        name = platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in name
