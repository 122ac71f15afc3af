"""Norms, feed-forward layers and residual blocks as exact engines compute them, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.engine.heads import add_projection, matrices_of, matrix_of, project
from flowrank.engine.products import product
from flowrank.nn.factored import FactoredLinear


def normalised(x: Tensor, norm: Any) -> Tensor:
    """Rows (n, d) over their root mean square, times the norm's weight: in two passes over memory.

    ``norm``: a module with ``weight`` and ``variance_epsilon`` that computes in fp32, as T5's.
    """
    if x.dtype != torch.float32:
        return norm(x)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    result = x * size.square_().mul_(1.0 / x.shape[1]).add_(norm.variance_epsilon).rsqrt_()
    result *= norm.weight
    return result


def pieces(rows: int, width: int, numbers: int) -> Iterator[slice]:
    """Slices of so many rows, alike in size, of about so many ``numbers`` each, where a row has ``width``.

    Examples
    --------
    >>> list(pieces(5, 10, 20))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    count = max(1, -(-rows * width // numbers))
    step = max(1, -(-rows // count))
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


def width_of(mlp: Any, writes: nn.Module) -> int:
    """Activations of a row within a feed-forward layer or residual block: hidden neurons, and those between factors.

    ``writes`` is the linear layer that reads the neurons.
    """
    ranks = mlp.shape.ranks.values() if hasattr(mlp, "shape") else ()
    return int(writes.in_features) + max(ranks, default=0)  # type: ignore[arg-type]


class FeedForward:
    """A feed-forward layer: x ← x + W_O ReLU(W_I norm(x)), or whatever its module computes.

    Parameters
    ----------
    norm
        Of its input, see `normalised`.
    module
        The layer itself.
    reads, writes
        W_I, or None where something else than ReLU follows; and W_O.
    numbers
        Hidden activations that are held at once.
    """

    def __init__(self, norm: Any, module: nn.Module, reads: nn.Module | None, writes: nn.Module, numbers: int) -> None:
        self.norm, self.module, self.numbers = norm, module, numbers
        self.width = width_of(module, writes)
        self.gone = writes.in_features == 0
        self.plain = reads is not None
        if reads is not None:
            *self.before, self.inner = matrices_of(reads)
            self.outer = matrices_of(writes)

    def add(self, x: Tensor) -> None:
        """Update ``x`` (n, d) in place."""
        if self.gone:
            return
        for piece in pieces(len(x), self.width, self.numbers):
            rows = x[piece]
            if self.plain:
                hidden = project(normalised(rows, self.norm), self.before)
                add_projection(rows, product(hidden, self.inner, relu=True), self.outer)
            else:
                rows += self.module(normalised(rows, self.norm))


def residual_block(
    x: Tensor, reads: nn.Module, writes: nn.Module, residual: nn.Module, activation: nn.Module, numbers: int = 1 << 23
) -> Tensor:
    """W_O act(W_I x) + W_R x, each with a bias, of rows (n, in): (n, out)."""
    relu = isinstance(activation, nn.ReLU)
    parts = []
    for piece in pieces(len(x), int(writes.in_features), numbers) if len(x) else [slice(0, 0)]:  # type: ignore[arg-type]
        hidden = _affine(x[piece], reads, relu=relu)
        result = _affine(hidden if relu else activation(hidden), writes)
        result += _affine(x[piece], residual)
        parts.append(result)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _affine(x: Tensor, layer: Any, *, relu: bool = False) -> Tensor:
    """Map rows (n, in) to (n, out) by a linear layer, dense or of two factors, with a bias."""
    if isinstance(layer, FactoredLinear):
        x, layer = product(x, matrix_of(layer.down)), layer.up
    return product(x, matrix_of(layer), layer.bias, relu=relu)
