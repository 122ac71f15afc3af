"""Products of rows with a weight, each in the way that is fastest for its shape.

torch carries two libraries for fp32 products on x86 processors: MKL, which `torch.nn.functional.linear` calls, and
oneDNN, which can also keep a weight packed as it reads it. Which is faster depends on the shape, hardly on the maker of
the processor (`benchmarks/products.py`). A call of MKL is the shortest, so few rows and small weights are its; from
some rows on oneDNN is faster, and much so from a packed weight, as long as the rows are not so many that arranging a
weight for one product costs nothing. The choice goes by rule, not by a measurement: forecasts of one machine are the
same to the last bit in every process. `torch.backends.mkldnn.flags(enabled=False)` switches oneDNN off.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from flowrank.nn.int8 import Int8Weight, int8_product

_MANY = 2048  # rows from which on the addition inside MKL's product is worth more
_SMALL = 1 << 15  # numbers of a weight below which the length of a call counts most
_LARGE = 1 << 20  # from which on a weight is not copied, and on which even few rows are oneDNN's, but on Intel's
_PLACE = 64  # bytes; what torch allocates begins at a multiple of it
_FEW, _SOME = 8, 512  # rows: below the first, and below the second
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

    __slots__ = ("_aligned", "_packed", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._aligned: Tensor | None = None
        self._packed: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        return self.tensor.shape

    def dense(self) -> Tensor:
        """The weight, (out, in)."""
        return self.tensor

    def aligned(self) -> Tensor:
        """The weight at an address where torch itself would place it: MKL rounds otherwise at others.

        A weight that was read from a file may lie anywhere.
        """
        if self._aligned is None:
            lies = self.tensor.data_ptr() % _PLACE == 0 or not self.tensor.is_contiguous()
            self._aligned = self.tensor if lies else self.tensor.clone()
        return self._aligned

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
        x.addmm_(update, weight.aligned().t())
    else:
        x += chosen(update, weight, None, False)


def by_mkl(x: Tensor, weight: Weight, bias: Tensor | None, relu: bool) -> Tensor:
    """By MKL, or by whatever torch takes where it has no MKL."""
    result = linear(x, weight.aligned(), bias)
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
    rows, size = x.shape[0], tensor.numel()
    if rows == 0 or size < _SMALL or (rows < _FEW and (size < _LARGE or _mkl_is_best())):
        return by_mkl
    if rows < _SOME:
        return by_onednn if _PACK is None or size > _LARGE or rows < _FEW else by_packed
    return by_mkl if _mkl_is_best() else by_onednn


@cache
def _mkl_is_best() -> bool:
    """Whether torch has MKL and Intel made this processor; on others MKL is held back."""
    try:
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        name = platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in name
