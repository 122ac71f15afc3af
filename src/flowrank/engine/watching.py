"""Whether a model is still what it was when something was made from it."""

from __future__ import annotations

import copy
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

_COMPARED = 64  # numbers of each weight whose values are compared, beside its address and version
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Watch:
    """Numbers the states that a model is found in: the number changes when the model does.

    What is compared: its modules, their modes and hooks, its config, autocast, and of each weight the tensor, its
    address, its version and some of its values. A weight that is written to through ``weight.data``, which has no
    version, is noticed if one of those values changes.

    Examples
    --------
    >>> model, watch = nn.Linear(2, 2), Watch()
    >>> watch.number(model), watch.number(model)
    (1, 1)
    >>> _ = nn.init.zeros_(model.weight)
    >>> watch.number(model)
    2
    """

    def __init__(self) -> None:
        self._number = 0
        self._state: _State | None = None

    def number(self, model: nn.Module) -> int:
        """The number of the state that the model is in."""
        if self._state is None or not self._state.holds(model):
            self._state = _State(model)
            self._number += 1
        return self._number


class _State:
    """What a model was. Looked at before every forecast, so loops over modules and weights are those of builtins."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = list(model.modules())
        held = [one.__dict__ for one in self.modules]
        self.held = held
        self.parts = [one[name].values() for one in held for name in ("_modules", "_parameters", "_buffers")]
        self.hooks = [one[name] for one in held for name in _HOOKS]
        self.tensors = [one for one in chain.from_iterable(self.parts) if isinstance(one, Tensor)]
        self.versioned = [one for one in self.tensors if not one.is_inference()]
        self.views = _views(self.tensors)
        self.device = self.tensors[0].device.type if self.tensors else "cpu"
        self.ids = self._ids()
        self.values = self._values()
        self.settings = copy.deepcopy(_settings(model))
        self.structure = self._structure()

    def holds(self, model: nn.Module) -> bool:
        """Whether the model is that still."""
        return (
            model is self.model
            and self._ids() == self.ids
            and self._structure() == self.structure
            and _settings(model) == self.settings
            and all(map(torch.equal, self._values(), self.values))
        )

    def _ids(self) -> list[int]:
        """Which modules and weights there are: as long as this state holds them, no others get their numbers."""
        return list(map(id, chain.from_iterable(self.parts)))

    def _structure(self) -> tuple[Any, ...]:
        """Classes, modes and hooks of modules, whether a ``forward`` was put beside them; of weights where they are."""
        return (
            list(map(type, self.modules)),
            list(map(_mode, self.modules)),
            list(map(len, self.held)),
            list(map(len, self.hooks)),
            torch.is_autocast_enabled(self.device),
            list(map(Tensor.data_ptr, self.tensors)),
            list(map(_version, self.versioned)),
        )

    def _values(self) -> list[Tensor]:
        return [torch.cat(some) for some in self.views]


_mode = attrgetter("training")
_version = attrgetter("_version")


def _views(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Some values of each tensor, as views of it, by number type and device."""
    found: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() and tensor.is_contiguous():
            step = max(1, tensor.numel() // _COMPARED) | 1  # odd, so that they are of many rows and columns
            found.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach().view(-1)[::step])
    return list(found.values())


def _settings(model: Any) -> tuple[dict[str, Any], ...]:
    """Its config, and the rules by which it generates."""
    found = (getattr(model, name, None) for name in ("config", "generation_config"))
    return tuple(vars(one) for one in found if one is not None)
