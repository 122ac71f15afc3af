"""Copies of models that share their tensors."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def private_copy(model: _Module) -> _Module:
    """A model of the same class and the very same tensors, whose modules, config and hooks are its own.

    What is done to it (hooks, another implementation of attention, frozen weights, eval mode) does not touch the
    original, which may forecast in another thread meanwhile.

    Examples
    --------
    >>> model = nn.Linear(2, 2)
    >>> other = private_copy(model).requires_grad_(False)
    >>> other.weight.data_ptr() == model.weight.data_ptr(), model.weight.requires_grad
    (True, True)
    """
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)
