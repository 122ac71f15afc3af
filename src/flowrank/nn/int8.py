"""Linear layers whose weights are 8-bit integers, multiplied by activations that are quantised row by row.

A weight keeps one scale an output, a row of activations gets one as it comes; both are symmetric. The product of the
integers is exact (`torch._int_mm`, oneDNN's on CPUs), so a row's result does not depend on its neighbours. Where the
processor would lose some of it, the integers are multiplied as fp32 numbers: the same forecasts, but no faster.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from flowrank.errors import FlowrankError
from flowrank.nn.factored import FactoredEmbedding

SMALLEST = 4096  # numbers of a weight from which on the integers win
_STEPS = 127


@dataclass(frozen=True)
class Int8Weight:
    """A weight (out, in) of integers, and what one step of each output stands for.

    Attributes
    ----------
    values
        Shape (out, in), int8.
    scale
        Shape (out,), fp32.

    Examples
    --------
    >>> weight = torch.tensor([[1.0, -0.5], [0.0, 0.25]])
    >>> (Int8Weight.of(weight).dense() - weight).abs().max().item() <= 0.5 / 127
    True
    """

    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8Weight:
        """Round a weight to the nearest of 255 steps an output."""
        values, scale = _rounded(weight.detach())
        return cls(values, scale.squeeze(1).to(weight.dtype))

    @property
    def shape(self) -> torch.Size:
        """(out, in)."""
        return self.values.shape

    def dense(self) -> Tensor:
        """What the integers stand for, (out, in)."""
        return self.values * self.scale[:, None]

    def with_rows(self, slots: Tensor, total: int) -> Int8Weight:
        """Spread the outputs over ``total`` places, with zeros between them."""
        values = self.values.new_zeros(total, self.shape[1]).index_copy_(0, slots, self.values)
        return Int8Weight(values, self.scale.new_zeros(total).index_copy_(0, slots, self.scale))

    def with_columns(self, slots: Tensor, total: int) -> Int8Weight:
        """Spread the inputs over ``total`` places, with zeros between them."""
        return Int8Weight(self.values.new_zeros(len(self.values), total).index_copy_(1, slots, self.values), self.scale)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers of every row, and its step (n, 1)."""
    work = rows.abs()  # once: at many rows, new memory costs more than the arithmetic
    step = work.amax(dim=1, keepdim=True).clamp_(min=torch.finfo(rows.dtype).tiny * _STEPS).mul_(1 / _STEPS)
    return torch.div(rows, step, out=work).round_().to(torch.int8), step


@cache
def multiplies_exactly(onednn: bool) -> bool:
    """Whether this processor sums products of 8-bit integers without loss: those with VNNI or AMX instructions do.

    On others oneDNN adds pairs of them in 16 bits, and what does not fit is cut off. Tried once, on the largest.

    Parameters
    ----------
    onednn
        Whether oneDNN is switched on, now: what was found is kept for each.
    """
    largest = torch.full((32, 256), _STEPS, dtype=torch.int8)
    return all(
        bool((torch._int_mm(largest[:rows], sign * largest.t()) == sign * 256 * _STEPS**2).all())
        for rows in (1, 32)
        for sign in (1, -1)
    )


@torch.no_grad()
def int8_product(x: Tensor, weight: Int8Weight, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Map (…, in) by a weight (out, in), in fp32 but for the product itself; then ReLU, if asked."""
    rows = x.reshape(-1, x.shape[-1])
    if not len(rows):
        return x.new_zeros(*x.shape[:-1], weight.shape[0])
    integers, step = _rounded(rows)
    if multiplies_exactly(torch.backends.mkldnn.enabled):
        summed = torch._int_mm(integers, weight.values.t())
        result = summed.view(torch.float32)  # in the same memory: a second result costs more than the product
        result.copy_(summed)
    else:
        result = linear(integers.float(), weight.values.float())
    result.mul_(step).mul_(weight.scale)
    if bias is not None:
        result += bias
    return (result.relu_() if relu else result).view(*x.shape[:-1], -1)


class Int8Linear(nn.Module):
    """A linear layer of integers, for inference on CPUs.

    Parameters
    ----------
    weight
        Of shape (out, in).
    bias
        Of shape (out,), kept as it is; or none.

    Examples
    --------
    >>> dense = nn.Linear(64, 32)
    >>> layer = Int8Linear(Int8Weight.of(dense.weight), dense.bias)
    >>> layer(torch.ones(1, 64)).shape, layer.weight.dtype
    (torch.Size([1, 32]), torch.int8)
    """

    def __init__(self, weight: Int8Weight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.values, requires_grad=False)
        self.scale = nn.Parameter(weight.scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def quantized(self) -> Int8Weight:
        """Its weight as the exact engine reads it."""
        return Int8Weight(self.weight.detach(), self.scale.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out).

        Raises
        ------
        FlowrankError
            In training: integers have no gradient.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise FlowrankError(
                "model",
                expected="floating-point weights for training",
                found="a layer of 8-bit integers",
                todo="train its parent, then quantize the result",
            )
        return int8_product(x, self.quantized, self.bias)


def quantizable(model: nn.Module, *, excluded: Collection[str] = ()) -> list[str]:
    """Names of the linear layers that `flowrank.quantize` turns into integers.

    Those with enough numbers, but for embeddings, an output matrix that is the embedding too, and those that a family
    excludes.
    """
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    codes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, FactoredEmbedding))
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and module.weight.numel() >= SMALLEST
        and owners[id(module.weight)] == 1
        and not name.startswith(codes)
        and not any(name == one or name.startswith(f"{one}.") for one in excluded)
    ]
