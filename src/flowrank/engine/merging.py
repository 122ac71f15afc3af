"""Products of two weights with nothing between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowrank.engine.heads import Matrices, matrices_of
from flowrank.engine.products import Weight
from flowrank.nn.factored import Unchanged


def merged(first: nn.Module, then: nn.Module) -> Matrices:
    """Weights of one linear layer after another, applied from the left to the right: their product where it is smaller.

    Parameters
    ----------
    first, then
        Linear layers without biases, dense or of two factors.

    Examples
    --------
    >>> up, down = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)
    >>> [tuple(matrix.shape) for matrix in merged(up, down)]
    [(4, 4)]
    >>> [tuple(matrix.shape) for matrix in merged(nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False))]
    [(2, 8), (8, 2)]
    """
    chain = [] if isinstance(first, Unchanged) else list(matrices_of(first))
    chain += [] if isinstance(then, Unchanged) else list(matrices_of(then))
    tensors = [one.tensor for one in chain if isinstance(one, Weight)]
    if len(chain) == 1 or len(tensors) < len(chain):
        return tuple(chain)
    inputs, outputs = tensors[0].shape[1], tensors[-1].shape[0]
    if inputs * outputs >= sum(one.numel() for one in tensors):
        return tuple(chain)
    return (Weight(_product(tensors)),)


def _product(matrices: list[Tensor]) -> Tensor:
    """Their product, added up in fp32 at least."""
    kind = torch.float32 if matrices[0].dtype in (torch.bfloat16, torch.float16) else matrices[0].dtype
    result = matrices[0].to(kind)
    for one in matrices[1:]:
        result = one.to(kind) @ result
    return result.to(matrices[0].dtype)
