"""T5 and its like in transformers, for analysis; the Chronos models made of T5 stacks have families of their own."""

from __future__ import annotations

from torch import nn
from transformers.models.t5.modeling_t5 import T5Block

from flowrank.anatomy import Anatomy
from flowrank.families._t5_stack.anatomy import t5_blocks
from flowrank.families._t5_stack.family import T5StackFamily


class T5(T5StackFamily):
    """Models made of T5 stacks."""

    name = "t5"

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether one of its modules is a block of T5."""
        return any(isinstance(module, T5Block) for module in model.modules())

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of the model."""
        return Anatomy(t5_blocks(model))
