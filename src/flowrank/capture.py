"""Hooks that stream second moments out of any attention layer, in O(d²) memory however many series pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.families import AttentionSite, Family
from flowrank.linalg import SecondMoment

BATCH_BYTES = 256 * 2**20
"""Attention weights of one calibration batch, over all layers, stay below this."""


@dataclass
class HeadMoments:
    """Second moments inside each head of one site, shapes (h, d_kv, d_kv).

    Attributes
    ----------
    queries, keys
        Of the query and key features; with curvature, each pair of tokens counts by the squared sensitivity of the
        forecast to its attention score, and keys are centred on what the query attends to (a shift of all scores of
        one query changes nothing).
    outputs
        Of the head's output, before W_O.
    gradients
        Of the probe's gradient at the head's output; without curvature, of the rows of W_O.
    """

    queries: SecondMoment
    keys: SecondMoment
    outputs: SecondMoment
    gradients: SecondMoment

    @classmethod
    def empty(cls, site: AttentionSite) -> HeadMoments:
        """Zero moments for a site."""
        return cls(*(SecondMoment(site.d_kv, site.heads) for _ in range(4)))


@dataclass
class InputMoments:
    """Second moments of what enters the projections of one site: d × d, and (h d_kv) × (h d_kv) for W_O.

    ``sensitivity`` holds the mean squared probe gradient at the output of each projection.
    """

    inputs: dict[str, SecondMoment]
    sensitivity: dict[str, float] = field(default_factory=dict)


def batches(
    family: Family, contexts: Iterable[Tensor], *, batch_bytes: int = BATCH_BYTES
) -> Iterator[list[Tensor]]:
    """Group series so that the attention weights of a batch fit in ``batch_bytes``; neighbours stay neighbours."""
    sites = family.sites
    heads = max(site.heads for site in sites)
    batch: list[Tensor] = []
    longest = 0
    for context in contexts:
        longest = max(longest, family.context_tokens(len(context)))
        if batch and (len(batch) + 1) * longest**2 * heads * 4 * len(sites) > batch_bytes:
            yield batch
            batch, longest = [], family.context_tokens(len(context))
        batch.append(context)
        if len(batch) == 64:
            yield batch
            batch, longest = [], 0
    if batch:
        yield batch


def head_moments(
    family: Family,
    contexts: Iterable[Tensor],
    *,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, HeadMoments]:
    """Curvature-weighted moments of every head of every site, from one forward and one backward pass a batch.

    Parameters
    ----------
    family
        View of the model.
    contexts
        Series, 1-D tensors; consumed once, a batch at a time.
    seed
        Of the probe's random directions.
    on_batch
        Called with the number of series of each finished batch.

    Returns
    -------
    dict
        Site name to moments, float64 on the CPU.
    """
    moments = {site.name: HeadMoments.empty(site) for site in family.sites}

    def observe(site: AttentionSite, state: _HeadState, score_gradient: Tensor) -> None:
        _add_scores(moments[site.name], state, score_gradient)

    def observe_output(site: AttentionSite, output: Tensor, gradient: Tensor) -> None:
        heads, rows = site.heads, float(output[..., 0].numel())
        for moment, value in ((moments[site.name].outputs, output), (moments[site.name].gradients, gradient)):
            split = value.detach().reshape(-1, heads, site.d_kv).transpose(0, 1)
            moment.add(split.transpose(1, 2) @ split, torch.tensor(rows))

    _sweep(family, contexts, observe, observe_output, seed, on_batch)
    return moments


def component_sensitivity(
    family: Family,
    contexts: Iterable[Tensor],
    bases: dict[str, HeadBases],
    *,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, tuple[Float[Tensor, "h n"], Float[Tensor, "h n"]]]:
    """What removing each rank-1 component of each head would cost, measured: E over series of (∂probe/∂component)².

    Unlike the singular values this takes in how the effects on different tokens add up or cancel.

    Returns
    -------
    dict
        Site name to (query-key, value-output) sensitivities, shape (h, d_kv) each, in units of the family's loss.
    """
    zero = {site.name: torch.zeros(2, site.heads, site.d_kv, dtype=torch.float64) for site in family.sites}
    count = 0

    def tally(batch: int) -> None:
        nonlocal count
        count += batch
        if on_batch is not None:
            on_batch(batch)

    def observe(site: AttentionSite, state: _HeadState, score_gradient: Tensor) -> None:
        basis = bases[site.name]
        query = state.query @ basis.query.to(state.query)
        key = score_gradient @ (state.key @ basis.key.to(state.key))
        zero[site.name][0] += (query * key).sum(dim=2).double().square().sum(dim=0).cpu()

    def observe_output(site: AttentionSite, output: Tensor, gradient: Tensor) -> None:
        basis = bases[site.name]
        shape = (*output.shape[:2], site.heads, site.d_kv)
        out, grad = (t.detach().reshape(shape).transpose(1, 2) for t in (output, gradient))
        product = (out @ basis.output.to(out)) * (grad @ basis.gradient.to(grad))
        zero[site.name][1] += product.sum(dim=2).double().square().sum(dim=0).cpu()

    _sweep(family, contexts, observe, observe_output, seed, tally)
    return {name: (total[0] / max(1, count), total[1] / max(1, count)) for name, total in zero.items()}


@dataclass(frozen=True)
class HeadBases:
    """For each head of a site, the d_kv × d_kv maps from its features to components, shapes (h, d_kv, d_kv)."""

    query: Tensor
    key: Tensor
    output: Tensor
    gradient: Tensor


@dataclass
class _HeadState:
    """Features of one site in one forward pass: query and key (B, h, L, d_kv), weights (B, h, L_q, L_k)."""

    query: Tensor
    key: Tensor
    weights: Tensor


def _add_scores(moments: HeadMoments, state: _HeadState, score_gradient: Tensor) -> None:
    importance = score_gradient.square()
    by_query, by_key = importance.sum(dim=-1), importance.sum(dim=-2)
    total = by_query.sum(dim=(0, 2))
    query, key = state.query, state.key
    moments.queries.add(torch.einsum("bhl,bhli,bhlj->hij", by_query, query, query), total)
    centre = state.weights @ key
    cross = torch.einsum("bhli,bhlj->hij", importance @ key, centre)
    gram = torch.einsum("bhl,bhli,bhlj->hij", by_key, key, key)
    gram = gram - cross - cross.transpose(1, 2)
    moments.keys.add(gram + torch.einsum("bhl,bhli,bhlj->hij", by_query, centre, centre), total)


def _sweep(
    family: Family,
    contexts: Iterable[Tensor],
    observe: Callable[[AttentionSite, _HeadState, Tensor], None],
    observe_output: Callable[[AttentionSite, Tensor, Tensor], None],
    seed: int,
    on_batch: Callable[[int], None] | None,
) -> None:
    """Forward and backward over all batches; hand each site's features and gradients to the observers."""
    generator = torch.Generator().manual_seed(seed)
    with family.instrumented(gradients=True), ExitStack() as stack:
        for site in family.sites:
            for handle in _hooks(site, observe, observe_output):
                stack.callback(handle.remove)
        for batch in batches(family, contexts):
            family.probe(batch, generator).backward()
            if on_batch is not None:
                on_batch(len(batch))


def _hooks(
    site: AttentionSite,
    observe: Callable[[AttentionSite, _HeadState, Tensor], None],
    observe_output: Callable[[AttentionSite, Tensor, Tensor], None],
) -> list[Any]:
    module = site.module
    seen: dict[str, Tensor] = {}

    def heads(features: Tensor) -> Tensor:
        return features.detach().unflatten(-1, (site.heads, site.d_kv)).transpose(1, 2)

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.__setitem__(name, heads(output))

    def before_output(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0]
        value.register_hook(lambda gradient: observe_output(site, value.detach(), gradient))

    def after(_module: Any, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        weights = output[2]
        if site.single_key:
            return
        state = _HeadState(seen.pop("q"), seen.pop("k"), weights.detach())

        def backward(gradient: Tensor) -> None:
            scaled = gradient * state.weights
            observe(site, state, scaled - state.weights * scaled.sum(dim=-1, keepdim=True))

        weights.register_hook(backward)

    return [
        module.q.register_forward_hook(keep("q")),
        module.k.register_forward_hook(keep("k")),
        module.o.register_forward_pre_hook(before_output),
        module.register_forward_hook(after),
    ]


def input_moments(
    family: Family,
    contexts: Iterable[Tensor],
    *,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, InputMoments]:
    """Second moments of the inputs of W_Q, W_K, W_V and W_O of every site, and the sensitivity of their outputs."""
    moments: dict[str, InputMoments] = {}
    generator = torch.Generator().manual_seed(seed)
    with family.instrumented(gradients=True), ExitStack() as stack:
        for site in family.sites:
            moments[site.name] = record = InputMoments({})
            shared: dict[str, SecondMoment] = {"q": SecondMoment(site.d_model)}
            shared["k"] = shared["q"] if site.kind == "self" else SecondMoment(site.d_model)
            shared["v"], shared["o"] = shared["k"], SecondMoment(site.heads * site.d_kv)
            record.inputs.update(shared)
            for name in ("q", "k", "v", "o"):
                hook = _input_hook(record, name, counts=name in ("q", "o") or (name == "k" and site.kind == "cross"))
                stack.callback(getattr(site.module, name).register_forward_hook(hook).remove)
        for batch in batches(family, contexts):
            family.probe(batch, generator).backward()
            if on_batch is not None:
                on_batch(len(batch))
    return moments


def _input_hook(record: InputMoments, name: str, *, counts: bool) -> Callable[..., None]:
    def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].detach()
        if counts:
            record.inputs[name].update(rows)

        def backward(gradient: Tensor) -> None:
            record.sensitivity[name] = record.sensitivity.get(name, 0.0) + float(gradient.square().sum())

        output.register_hook(backward)

    return hook


def as_contexts(targets: Sequence[Any], longest: int) -> list[Tensor]:
    """1-D float32 tensors of at most ``longest`` last points."""
    return [torch.as_tensor(target, dtype=torch.float32)[-longest:] for target in targets]
