"""Layer-wise reconstruction: each layer's output matrix is fitted so that the stream after it is the parent's.

Truncation errors add up from layer to layer. Layers are therefore fitted in order: each reads the output of the child's
layers before it, already reconstructed, and its output matrix is the least-squares solution for the parent's stream. It
takes no gradients and no learning rate, but one linear system a layer, and passes of two or three layers each: the
streams after the last layer are kept, and layers before it are skipped where the family knows how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.anatomy import Place
from flowrank.family import Context, Family
from flowrank.measure import OnBatch, batches
from flowrank.nn.factored import FactoredLinear

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Relative ridges that compete; the one that leaves least on series that were not fitted wins."""


class _Enough(Exception):
    """Ends a forward pass once the needed activations are recorded."""


@dataclass
class _Batch:
    """Series that are run together.

    Attributes
    ----------
    encoded
        Outputs of the child's encoder, already fitted, and of the parent's; None: the encoder is still being fitted.
    child, parent
        How many places of the present stack each model need not run again, and its output of the last of them.
    """

    series: list[Context]
    encoded: tuple[Tensor, Tensor] | None = None
    child: tuple[int, Tensor | None] = (0, None)
    parent: tuple[int, Tensor | None] = (0, None)

    def enter_decoder(self, child: Family, parent: Family) -> None:
        """Keep what the encoders give, and begin the decoder."""
        if self.encoded is None:
            self.encoded = _encoded(child, self.series), _encoded(parent, self.series)
            self.child = self.parent = 0, None


@dataclass(frozen=True)
class _Start:
    """Where a pass begins: modules that are skipped, and the output of the last one; and one whose output is wanted."""

    skipped: tuple[str, ...]
    stream: Tensor | None
    wanted: str | None


def reconstruct(child: Family, parent: Family, contexts: Sequence[Context], on_batch: OnBatch | None = None) -> None:
    """Fit the output matrices of a child, in place.

    Parameters
    ----------
    child
        View of the model, which no other thread may run meanwhile; fitted tensors stop sharing memory with the
        parent's.
    parent
        View of the parent (`Family.private`), whose stream is the target.
    contexts
        Series; every third one is held out to choose the ridge. The streams after one layer, and outputs of both
        encoders, are kept in memory.
    on_batch
        Called with the number of series of each batch and layer.
    """
    fitted = [_Batch(batch) for batch in batches(child, [one for i, one in enumerate(contexts) if i % 3])]
    chosen = [_Batch(batch) for batch in batches(child, contexts[::3])]
    before: list[str] = []
    stack = "encoder"
    for place in child.anatomy.places():
        if place.stack != stack:
            before, stack = [], place.stack
            for batch in (*fitted, *chosen):
                batch.enter_decoder(child, parent)
        ends = [_last(child.model.get_submodule(writer)) for writer in place.writers]
        earlier = tuple(before)
        before.append(place.name)
        if not any(end.in_features for end in ends):
            continue
        system = _System(child, parent, place, ends, earlier)
        gram, cross, _ = system.sums(fitted, on_batch)
        held = system.sums(chosen, on_batch)
        system.apply(_best(gram, cross, held))


def _last(module: Any) -> nn.Linear:
    """The matrix that writes the output."""
    return module.up if isinstance(module, FactoredLinear) else module


Sums = tuple[Tensor, Tensor, float]
"""Σ a aᵀ, Σ a rᵀ and Σ rᵀ r of inputs a of the last matrices and what is missing r of the layer's output."""


class _System:
    """The normal equations of one layer."""

    def __init__(
        self, child: Family, parent: Family, place: Place, ends: list[nn.Linear], before: tuple[str, ...]
    ) -> None:
        self.child, self.parent, self.place, self.ends, self.before = child, parent, place, ends, before
        self.bias = next((end for end in ends if end.bias is not None), None)

    def sums(self, series: Sequence[_Batch], on_batch: OnBatch | None) -> Sums:
        """Add up both models' passes over series."""
        inputs = sum(end.in_features for end in self.ends) + (self.bias is not None)
        outputs = self.ends[0].out_features
        gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        cross = torch.zeros(inputs, outputs, dtype=torch.float64)
        size = 0.0
        for batch in series:
            mine, parts, aim = self._run(batch)
            parts = [part.transpose(0, 1) for part in parts] if self.place.by_place else parts
            recorded = self._counted(batch.series, mine)
            if self.bias is not None:
                parts.append(parts[0].new_ones(*parts[0].shape[:-1], 1))
            a, missing = torch.cat(parts, dim=-1)[recorded].double(), (aim - mine)[recorded].double()
            gram += (a.T @ a).cpu()
            cross += (a.T @ missing).cpu()
            size += float(missing.square().sum())
            if on_batch is not None:
                on_batch(len(batch.series))
        return gram, cross, size

    def _run(self, batch: _Batch) -> tuple[Tensor, list[Tensor], Tensor]:
        """The child's output and the inputs of its last matrices, and the parent's output; the batch goes on."""
        first, second = batch.encoded or (None, None)
        done = len(self.before)
        wanted = self.before[-1] if done > batch.child[0] else None  # it was fitted since it ran last
        start = _Start(self.before[: batch.child[0]], batch.child[1], wanted)
        mine, parts, fitted = _pass(self.child, batch.series, self.place.name, self.ends, first, start)
        if fitted is not None:
            batch.child = done, fitted.cpu()
        start = _Start(self.before[: batch.parent[0]], batch.parent[1], None)
        aim, _, _ = _pass(self.parent, batch.series, self.place.name, [], second, start)
        batch.parent = done + 1, aim.cpu()
        return mine, parts, aim

    def _counted(self, batch: list[Context], output: Tensor) -> Tensor:
        """Which tokens of the output (B, L, d) are no padding."""
        if self.place.stack == "decoder":
            return torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
        return self.child.attention_mask(batch)[:, : output.shape[1]].to(output.device)

    def apply(self, change: Tensor) -> None:
        """Add to the matrices, and to the bias."""
        start = 0
        for end in self.ends:
            rows = change[start : start + end.in_features]
            end.weight = _changed(end.weight, rows.T)
            start += end.in_features
        if self.bias is not None:
            self.bias.bias = _changed(self.bias.bias, change[start])


def _encoded(family: Family, series: list[Context]) -> Tensor:
    return _pass(family, series, "encoder", [], None, _Start((), None, None))[0].cpu()


def _pass(
    family: Family, series: list[Context], name: str, ends: list[nn.Linear], encoded: Tensor | None, start: _Start
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Output of a module, inputs of its last matrices and the output of the module that is wanted besides.

    Neither later layers run, nor an encoder whose output ``encoded`` is known (on the CPU), nor skipped layers.
    """
    recorded: dict[Any, Any] = {}

    def kept(output: Any) -> Tensor:
        return (output if isinstance(output, Tensor) else output[0]).detach()

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        recorded["output"] = kept(output)
        raise _Enough

    def before(number: int) -> Any:
        return lambda _module, inputs: recorded.__setitem__(number, inputs[0].detach())

    hooks = [family.model.get_submodule(name).register_forward_hook(after)]
    hooks += [end.register_forward_pre_hook(before(i)) for i, end in enumerate(ends)]
    if start.wanted is not None:
        wanted = family.model.get_submodule(start.wanted)
        hooks.append(wanted.register_forward_hook(lambda _m, _i, output: recorded.__setitem__("wanted", kept(output))))
    device = family.model.device
    try:
        with torch.no_grad(), _skipping(family, start), suppress(_Enough):
            family.run(series, None if encoded is None else encoded.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return recorded["output"], [recorded[i] for i in range(len(ends))], recorded.get("wanted")


@contextmanager
def _skipping(family: Family, start: _Start) -> Iterator[None]:
    """Within the block the skipped modules give the known stream, except those that the family has to run."""
    if start.stream is None:
        yield
        return
    modules = [family.model.get_submodule(name) for name in start.skipped]
    stream = start.stream.to(family.model.device)

    def instead(module: nn.Module) -> Any:
        run = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = family.skipped(module, stream, kwargs)
            return run(*args, **kwargs) if result is None else result

        return forward

    try:
        for module in modules:
            module.forward = instead(module)
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def _changed(old: Tensor, change: Tensor) -> nn.Parameter:
    """A new parameter with another value; the child's present one may be shared with its parent."""
    return nn.Parameter(old.detach() + change.to(old), requires_grad=old.requires_grad)


def _best(gram: Tensor, cross: Tensor, held: Sums) -> Tensor:
    """Change of the matrices, with the ridge of the smallest held-out residual; zero where no ridge lowers it."""
    best, least = torch.zeros_like(cross), held[2]
    scale = float(gram.diagonal().mean())
    eye = torch.eye(len(gram), dtype=torch.float64)
    for ridge in RIDGES if scale > 0 else ():
        change = torch.linalg.solve(gram + ridge * scale * eye, cross)
        left = held[2] - 2 * float((change * held[1]).sum()) + float((change * (held[0] @ change)).sum())
        if left < least:
            best, least = change, left
    return best
