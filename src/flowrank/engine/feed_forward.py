"""Norms, feed-forward layers and residual blocks as exact engines compute them, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.engine.heads import add_projection, matrices_of, project
from flowrank.engine.products import product
from flowrank.nn.factored import FactoredLinear


def normalised(x: Tensor, norm: Any) -> Tensor:
    """Rows (n, d) over their root mean square, times the norm's weight: in two passes over memory.

    ``norm``: a module with ``weight`` and ``variance_epsilon`` that computes in fp32, as T5's.
    """
    if x.dtype != torch.float32:
        return norm(x)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    least = _number(norm.variance_epsilon, x.device)
    return (x * torch.addcmul(least, size, size, value=1.0 / x.shape[1]).rsqrt_()).mul_(norm.weight)


@cache
def _number(value: float, device: torch.device) -> Tensor:
    """A number as a tensor without dimensions."""
    with torch.inference_mode(False):
        return torch.tensor(value, device=device)


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
        for piece in pieces(x.shape[0], self.width, self.numbers):
            rows = x[piece]
            if self.plain:
                hidden = project(normalised(rows, self.norm), self.before)
                add_projection(rows, product(hidden, self.inner, relu=True), self.outer)
            else:
                rows += self.module(normalised(rows, self.norm))


class PatchBlock:
    """A patch block on rows: W_O act(W_I x) + W_R x, each with a bias, and a norm where it has one.

    Parameters
    ----------
    module
        The block itself; the norm is its ``layer_norm``, if it ``use_layer_norm``.
    reads, writes, residual
        W_I, W_O and W_R.
    numbers
        Hidden activations that are held at once.
    """

    def __init__(
        self, module: Any, reads: nn.Module, writes: nn.Module, residual: nn.Module, numbers: int = 1 << 23
    ) -> None:
        self.reads, self.writes, self.residual = _Affine(reads), _Affine(writes), _Affine(residual)
        self.activation = None if isinstance(module.act, nn.ReLU) else module.act
        self.norm = module.layer_norm if getattr(module, "use_layer_norm", False) else None
        self.inner, self.numbers = int(writes.in_features), numbers  # type: ignore[arg-type]
        self.width = width_of(module, writes)

    def __call__(self, x: Tensor) -> Tensor:
        """Map rows (n, in) to (n, out)."""
        parts = []
        for piece in pieces(len(x), self.inner, self.numbers) if len(x) else [slice(0, 0)]:
            hidden = self.reads(x[piece], relu=self.activation is None)
            result = self.writes(hidden if self.activation is None else self.activation(hidden))
            result += self.residual(x[piece])
            parts.append(result)
        result = parts[0] if len(parts) == 1 else torch.cat(parts)
        return result if self.norm is None else self.norm(result)


class _Affine:
    """A linear layer with a bias, dense or of two factors."""

    def __init__(self, layer: Any) -> None:
        *self.before, self.last = matrices_of(layer)
        self.bias = (layer.up if isinstance(layer, FactoredLinear) else layer).bias

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Map rows (n, in) to (n, out)."""
        return product(project(x, self.before), self.last, self.bias, relu=relu)
