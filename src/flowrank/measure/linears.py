"""Second moments of linear layers: of their inputs, and of the probe's gradient at their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.family import Context, Family
from flowrank.linalg import SecondMoment
from flowrank.measure.sweeping import OnBatch, Tap, batches

SeeLinear = Callable[[Tensor, Tensor], None]
"""Takes inputs (B, L, m) of a layer, or ids (B, L) of an embedding, and the gradient (B, L, n) at its outputs."""


class LinearMoments:
    """Second moments on both sides of a linear layer.

    Parameters
    ----------
    inputs, outputs
        m and n.
    constant
        Whether to add a constant input 1, for layers whose bias can compensate for removed neurons.
    one_hot
        Whether inputs are ids of an embedding of m rows.

    Attributes
    ----------
    inputs
        Σ w x xᵀ: each token counts by the squared length w of the probe's gradient at the output.
    gradients
        Σ g gᵀ there.
    """

    def __init__(self, inputs: int, outputs: int, *, constant: bool = False, one_hot: bool = False) -> None:
        self.constant, self.one_hot = constant, one_hot
        self.inputs = torch.zeros((inputs,) if one_hot else (inputs + constant,) * 2, dtype=torch.float64)
        self.gradients = torch.zeros(outputs, outputs, dtype=torch.float64)

    def update(self, x: Tensor, gradient: Tensor) -> None:
        """Add a batch."""
        g = gradient.detach().flatten(0, -2).double()
        self.gradients += (g.T @ g).cpu()
        importance = g.square().sum(dim=1)
        if self.one_hot:
            self.inputs.index_add_(0, x.flatten().cpu(), importance.cpu())
            return
        rows = x.flatten(0, -2).double()
        if self.constant:
            rows = with_constant(rows)
        self.inputs += (rows.T @ (rows * importance[:, None])).cpu()


def with_constant(rows: Tensor) -> Tensor:
    """Rows with a last column of ones."""
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], dim=-1)


def linear_tap(module: nn.Module, observe: SeeLinear) -> Tap:
    """Hand a layer's inputs and the gradient at its outputs to ``observe``, once a call of the layer.

    Parameters
    ----------
    module
        A linear layer, of two factors too, or an embedding.
    """

    def after(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        output.requires_grad_(True)
        output.register_hook(lambda gradient: observe(x, gradient))

    return lambda: [module.register_forward_hook(after)]


@dataclass
class InputMoments:
    """Second moments of the inputs of each projection of one site, by projection name.

    ``sensitivity`` holds the sum of the squared probe gradient at the projection's output.
    """

    inputs: dict[str, SecondMoment]
    sensitivity: dict[str, float] = field(default_factory=dict)


def input_moments(
    family: Family, contexts: Iterable[Context], *, seed: int = 0, on_batch: OnBatch | None = None
) -> dict[str, InputMoments]:
    """Moments of the inputs of W_Q, W_K, W_V, W_O of every site (O(d²) each), and how sensitive their outputs are."""
    moments: dict[str, InputMoments] = {}
    generator = torch.Generator().manual_seed(seed)
    with family.instrumented(gradients=True), ExitStack() as stack:
        for site in family.sites:
            query = SecondMoment(site.d_model)
            source = query if site.kind != "cross" else SecondMoment(site.d_model)
            output = SecondMoment(sum(site.value_widths))
            record = InputMoments({"q": query, "k": source, "v": source, "o": output})
            moments[site.name] = record
            first = {id(moment): name for name, moment in reversed(record.inputs.items())}
            for name, moment in record.inputs.items():
                hook = _input_hook(record, name, counts=first[id(moment)] == name)
                stack.callback(site.projections[name].module.register_forward_hook(hook).remove)
        for batch in batches(family, contexts):
            family.probe(batch, generator).backward()
            if on_batch is not None:
                on_batch(len(batch))
    return moments


def _input_hook(record: InputMoments, name: str, *, counts: bool) -> Callable[..., None]:
    def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if counts:
            record.inputs[name].update(inputs[0])

        def backward(gradient: Tensor) -> None:
            record.sensitivity[name] = record.sensitivity.get(name, 0.0) + float(gradient.square().sum())

        if output.requires_grad:
            output.register_hook(backward)

    return hook
