"""The plan of a smaller model, which every method of compression makes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from flowrank.nn.shapes import Shapes


@dataclass(frozen=True)
class Plan:
    """Sizes of the layers of a smaller model, and its new tensors.

    Attributes
    ----------
    shapes
        Sizes of the layers that differ from the parent's, by name.
    tensors
        New tensors by the dotted name of a linear layer or embedding, named as in its module: ``{"weight": …}``, or
        ``{"down.weight": …, "up.weight": …}`` where it becomes two factors.
    """

    shapes: Shapes = field(default_factory=Shapes)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def with_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> Plan:
        """The plan with further tensors."""
        return Plan(self.shapes, {**self.tensors, **tensors})


def factors(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Tensors of a layer whose matrix (in, out) is a product A B."""
    return {"down.weight": a.T, "up.weight": b.T}
