"""A stock model in which some layers are replaced by smaller ones, as its config says."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.nn.int8 import Int8Linear, Int8Weight
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes

_RESTORE = "restore config.json from the machine that compressed the model"


class NarrowModel(PreTrainedModel):
    """Part of a model class that swaps layers by name; a family says by what.

    Its config is one with a ``flowrank`` field (`flowrank.nn.config.NarrowConfig`).
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        shapes = Shapes.of(config)
        for name, shape in shapes.attention.items():
            self._swap(name, self.narrow_attention(self._stock(name, "attention"), shape, name))
        for name, mlp in shapes.mlp.items():
            self._swap(name, self.narrow_mlp(self._stock(name, "mlp"), mlp, name))
        if shapes.vocabulary:
            self.narrow_vocabulary(shapes.vocabulary)
        self.post_init()
        for name in shapes.int8:
            layer = self._stock(name, "int8")
            if type(layer) is not nn.Linear:
                raise self._unknown(name, "int8")
            self._swap(name, Int8Linear(Int8Weight.of(layer.weight), layer.bias))

    def narrow_attention(self, layer: nn.Module, shape: AttentionShape, name: str) -> nn.Module:
        """Make the attention layer that stands in for a stock one."""
        raise self._unknown(name, "attention")

    def narrow_mlp(self, layer: nn.Module, shape: MlpShape, name: str) -> nn.Module:
        """Make the feed-forward layer or residual block that stands in for a stock one."""
        raise self._unknown(name, "mlp")

    def narrow_vocabulary(self, ranks: dict[str, int]) -> None:
        """Replace the embedding and the head by factored ones."""
        raise FlowrankError(
            "config.json flowrank.vocabulary",
            expected=f"none, as {type(self).__name__} has no vocabulary",
            found=repr(ranks),
        )

    def _stock(self, name: str, key: str) -> nn.Module:
        try:
            return self.get_submodule(name)
        except AttributeError:
            raise self._unknown(name, key) from None

    def _unknown(self, name: str, key: str) -> FlowrankError:
        return FlowrankError(
            f"config.json flowrank.{key}",
            expected="names of layers of the model, of a kind that can be made smaller",
            found=f"{name!r}, which is none of {type(self).__name__}",
            todo=_RESTORE,
        )

    def _swap(self, name: str, layer: nn.Module) -> None:
        """Put a layer in its place, where transformers shall not draw its weights again.

        It lets the stock class do so, at the config's one width.
        """
        parent, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(parent), attribute, layer)
        for module in layer.modules():
            if is_real(layer) or not module._parameters:  # what a file lacks is still drawn, matrix by matrix
                vars(module)["_is_hf_initialized"] = True


def is_real(layer: nn.Module) -> bool:
    """Whether a layer's weights are in memory, and not on the meta device while a model is loaded."""
    return next(layer.parameters()).device.type != "meta"
