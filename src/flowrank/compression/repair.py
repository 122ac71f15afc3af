"""Sequential repair: layer by layer, the last matrix is fitted so that the stream after it is the parent's.

Truncation errors add up on the way through a model. Here every layer of the child sees what the layers before it,
already repaired, really give, and its output matrix makes up by least squares for what it can. No gradients, no rates:
one forward pass and one linear system a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention, T5LayerFF, T5LayerSelfAttention

from flowrank.capture import OnBatch, batches
from flowrank.families import Family
from flowrank.models.layers import FactoredLinear

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Relative ridges that compete; the one that leaves least on series that were not fitted wins."""


class _Enough(Exception):
    """What was looked for has been seen."""


@dataclass(frozen=True)
class _Place:
    """A layer by its dotted name, and the linear layers that it ends in."""

    name: str
    ends: tuple[str, ...]

    @property
    def decodes(self) -> bool:
        """Whether it comes after the encoder."""
        return self.name.startswith(("decoder", "output"))


@dataclass
class _Batch:
    """Series that are run together.

    Attributes
    ----------
    encoded
        What the child's encoder, fitted by now, and the parent's make of them; None: the encoder is not done.
    """

    series: list[Tensor]
    encoded: tuple[Tensor, Tensor] | None = None


def repair(child: Family, parent: Family, contexts: Sequence[Tensor], on_batch: OnBatch | None = None) -> None:
    """Fit the output matrices of a child, in place.

    Parameters
    ----------
    child
        View of the model; what is fitted no longer shares memory with the parent.
    parent
        View of the model whose stream is the aim.
    contexts
        Series; every third one chooses the ridge and is not fitted. What both encoders make of them is kept.
    on_batch
        Called with the number of series of each batch and layer.
    """
    fitted = [_Batch(batch) for batch in batches(child, [one for i, one in enumerate(contexts) if i % 3])]
    chosen = [_Batch(batch) for batch in batches(child, contexts[::3])]
    for place in _places(child.model):
        if place.decodes:
            for batch in (*fitted, *chosen):
                batch.encoded = batch.encoded or (_encoded(child, batch.series), _encoded(parent, batch.series))
        ends = [_last(child.model.get_submodule(f"{place.name}.{end}")) for end in place.ends]
        if not any(end.in_features for end in ends):
            continue
        system = _System(child, parent, place, ends)
        gram, cross, _ = system.sums(fitted, on_batch)
        held = system.sums(chosen, on_batch)
        system.apply(_best(gram, cross, held))


def _places(model: nn.Module) -> Iterator[_Place]:
    """Every layer that ends in a linear one, in the order of computation."""
    first = [("input_patch_embedding", ("output_layer", "residual_layer"))]
    last = [("output_patch_embedding", ("output_layer", "residual_layer"))]
    inner = []
    for name, module in model.named_modules():
        if isinstance(module, T5LayerSelfAttention):
            inner.append((name, ("SelfAttention.o",)))
        elif isinstance(module, T5LayerCrossAttention):
            inner.append((name, ("EncDecAttention.o",)))
        elif isinstance(module, T5LayerFF):
            inner.append((name, ("DenseReluDense.wo",)))
    blocks = hasattr(model, "input_patch_embedding")
    for name, ends in [*(first if blocks else []), *inner, *(last if blocks else [])]:
        yield _Place(name, ends)


def layers_to_fit(model: nn.Module) -> int:
    """How many layers `repair` goes through."""
    return len(list(_places(model)))


def _last(module: Any) -> nn.Linear:
    """The matrix that writes the output."""
    return module.up if isinstance(module, FactoredLinear) else module


Sums = tuple[Tensor, Tensor, float]
"""Σ a aᵀ, Σ a rᵀ and Σ rᵀ r of inputs a of the last matrices and what is missing r of the layer's output."""


class _System:
    """The normal equations of one layer."""

    def __init__(self, child: Family, parent: Family, place: _Place, ends: list[nn.Linear]) -> None:
        self.child, self.parent, self.place, self.ends = child, parent, place, ends
        self.bias = next((end for end in ends if end.bias is not None), None)

    def sums(self, series: Sequence[_Batch], on_batch: OnBatch | None) -> Sums:
        """Add up both models' passes over series."""
        inputs = sum(end.in_features for end in self.ends) + (self.bias is not None)
        outputs = self.ends[0].out_features
        gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        cross = torch.zeros(inputs, outputs, dtype=torch.float64)
        size = 0.0
        for batch in series:
            first, second = batch.encoded or (None, None)
            mine, parts = _pass(self.child, batch.series, self.place.name, self.ends, first)
            aim, _ = _pass(self.parent, batch.series, self.place.name, [], second)
            seen = self._counted(batch.series, mine)
            if self.bias is not None:
                parts.append(parts[0].new_ones(*parts[0].shape[:-1], 1))
            a, missing = torch.cat(parts, dim=-1)[seen].double(), (aim - mine)[seen].double()
            gram += (a.T @ a).cpu()
            cross += (a.T @ missing).cpu()
            size += float(missing.square().sum())
            if on_batch is not None:
                on_batch(len(batch.series))
        return gram, cross, size

    def _counted(self, batch: list[Tensor], output: Tensor) -> Tensor:
        """Which tokens of the output (B, L, d) are no padding."""
        if self.place.decodes:
            return torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
        return self.child.seen(batch)[:, : output.shape[1]].to(output.device)

    def apply(self, change: Tensor) -> None:
        """Add to the matrices, and to the bias."""
        start = 0
        for end in self.ends:
            rows = change[start : start + end.in_features]
            end.weight = _changed(end.weight, rows.T)
            start += end.in_features
        if self.bias is not None:
            self.bias.bias = _changed(self.bias.bias, change[start])


def _encoded(family: Family, series: list[Tensor]) -> Tensor:
    return _pass(family, series, "encoder", [], None)[0].cpu()


def _knowing(family: Family, encoded: Tensor | None) -> AbstractContextManager[None]:
    return nullcontext() if encoded is None else family.knowing(encoded.to(family.model.device))


def _pass(
    family: Family, series: list[Tensor], name: str, ends: list[nn.Linear], encoded: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Output of a module, and inputs of its last matrices; what comes after is not computed, nor what is known.

    ``encoded``, on the CPU, is what the encoder gives.
    """
    seen: dict[Any, Any] = {}

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        seen["output"] = (output if isinstance(output, Tensor) else output[0]).detach()
        raise _Enough

    def before(number: int) -> Any:
        return lambda _module, inputs: seen.__setitem__(number, inputs[0].detach())

    hooks = [family.model.get_submodule(name).register_forward_hook(after)]
    hooks += [end.register_forward_pre_hook(before(i)) for i, end in enumerate(ends)]
    try:
        with torch.no_grad(), suppress(_Enough), _knowing(family, encoded):
            family.run(series)
    finally:
        for hook in hooks:
            hook.remove()
    return seen["output"], [seen[i] for i in range(len(ends))]


def _changed(old: Tensor, change: Tensor) -> nn.Parameter:
    """A parameter of its own: a child shares those that compression left alone with its parent."""
    return nn.Parameter(old.detach() + change.to(old), requires_grad=old.requires_grad)


def _best(gram: Tensor, cross: Tensor, held: Sums) -> Tensor:
    """Change of the matrices, by the ridge that leaves least of the held-out residual; none where none helps."""
    best, least = torch.zeros_like(cross), held[2]
    scale = float(gram.diagonal().mean())
    eye = torch.eye(len(gram), dtype=torch.float64)
    for ridge in RIDGES if scale > 0 else ():
        change = torch.linalg.solve(gram + ridge * scale * eye, cross)
        left = held[2] - 2 * float((change * held[1]).sum()) + float((change * (held[0] @ change)).sum())
        if left < least:
            best, least = change, left
    return best
