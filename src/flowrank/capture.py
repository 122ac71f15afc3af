"""Hooks that stream statistics out of any attention layer, in O(d²) memory however many series pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.families import AttentionSite, Family
from flowrank.linalg import SecondMoment

BATCH_BYTES = 512 * 2**20
"""Activations of one calibration batch, over all layers, stay near or below this."""

BATCH_SERIES = 64
"""Most series in one calibration batch."""

OnBatch = Callable[[int], None]
"""Called with the number of series of each finished batch."""


@dataclass
class HeadActivations:
    """What one site saw and did in one forward and backward pass over a batch.

    Attributes
    ----------
    query, key, value
        Features of each head, shape (B, h, L, d_kv).
    output, gradient
        The heads' output before W_O and the probe's gradient there, shape (B, h, L_q, d_kv).
    weights
        Attention weights, shape (B, h, L_q, L_k).
    bias
        Position bias plus mask: what is added to the scores, broadcastable to the weights.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    gradient: Tensor
    weights: Tensor
    bias: Tensor

    def score_gradient(self) -> Float[Tensor, "batch heads queries keys"]:
        """The probe's gradient at the attention scores."""
        at_weights = self.weights * (self.gradient @ self.value.transpose(-1, -2))
        return at_weights - self.weights * at_weights.sum(dim=-1, keepdim=True)


Observe = Callable[[AttentionSite, HeadActivations], None]


@dataclass
class HeadMoments:
    """Second moments inside each head of one site, shape (h, d_kv, d_kv) each.

    Attributes
    ----------
    queries, keys
        Of the query and key features. Each pair of tokens counts by the squared sensitivity of the forecast to its
        score, and keys are centred on what the query attends to (a shift of all scores of one query changes nothing).
    outputs
        Of the head's output, before W_O.
    gradients
        Of the probe's gradient at the head's output.
    """

    queries: SecondMoment
    keys: SecondMoment
    outputs: SecondMoment
    gradients: SecondMoment


@dataclass(frozen=True)
class HeadBases:
    """Maps from the features of each head of a site to its components, shape (h, d_kv, d_kv) each, float64."""

    query: Tensor
    key: Tensor
    output: Tensor
    gradient: Tensor


@dataclass
class InputMoments:
    """Second moments of what enters each projection of one site, by projection name.

    ``sensitivity`` holds the sum of the squared probe gradient at the projection's output.
    """

    inputs: dict[str, SecondMoment]
    sensitivity: dict[str, float] = field(default_factory=dict)


def batches(family: Family, contexts: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group series, in order, so that what a forward pass keeps for the backward pass fits in `BATCH_BYTES`.

    A token keeps about 8 vectors of the model's width a layer, a pair of tokens one attention weight a head.
    """
    sites = family.sites
    bytes_a_token = 4 * len(sites) * 8 * sites[0].d_model
    bytes_a_pair = 4 * len(sites) * max(site.heads for site in sites)
    batch: list[Tensor] = []
    longest = 0
    for context in contexts:
        tokens = max(longest, family.context_tokens(len(context)))
        needed = (len(batch) + 1) * tokens * (bytes_a_token + tokens * bytes_a_pair)
        if batch and (needed > BATCH_BYTES or len(batch) == BATCH_SERIES):
            yield batch
            batch, tokens = [], family.context_tokens(len(context))
        batch.append(context)
        longest = tokens
    if batch:
        yield batch


def sweep(
    family: Family,
    contexts: Iterable[Tensor],
    observe: Observe,
    *,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> int:
    """Forward and backward over all series, a batch at a time; hand every site's activations to ``observe``.

    Parameters
    ----------
    family
        View of the model.
    contexts
        Series, 1-D tensors; consumed once.
    observe
        Called once a batch and site.
    seed
        Of the probe's random directions.
    on_batch
        Called with the number of series of each finished batch.

    Returns
    -------
    int
        Number of series seen.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 0
    with family.instrumented(gradients=True), ExitStack() as stack:
        for site in family.sites:
            for handle in _tap(site, observe):
                stack.callback(handle.remove)
        for batch in batches(family, contexts):
            family.probe(batch, generator).backward()
            count += len(batch)
            if on_batch is not None:
                on_batch(len(batch))
    return count


def _tap(site: AttentionSite, observe: Observe) -> list[Any]:
    """Hooks that gather one site's activations and pass them on when its gradient arrives."""
    module = site.module
    seen: dict[str, Any] = {}

    def heads(features: Tensor) -> Tensor:
        return features.detach().unflatten(-1, (site.heads, site.d_kv)).transpose(1, 2)

    def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen["mask"] = kwargs.get("mask")

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, features: seen.__setitem__(name, heads(features))

    def before_output(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        output = heads(inputs[0])  # detached: a hook that held its own tensor would keep the graph alive for ever

        def backward(gradient: Tensor) -> None:
            observe(site, HeadActivations(output=output, gradient=heads(gradient), **seen))
            seen.clear()

        inputs[0].register_hook(backward)

    def after(_module: Any, _inputs: Any, result: tuple[Tensor, Tensor, Tensor]) -> None:
        mask = seen.pop("mask")
        seen["bias"] = result[1].detach() if mask is None else result[1].detach() + mask
        seen["weights"] = result[2].detach()

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.q.register_forward_hook(keep("query")),
        module.k.register_forward_hook(keep("key")),
        module.v.register_forward_hook(keep("value")),
        module.o.register_forward_pre_hook(before_output),
        module.register_forward_hook(after),
    ]


def head_moments(
    family: Family, contexts: Iterable[Tensor], *, seed: int = 0, on_batch: OnBatch | None = None
) -> dict[str, HeadMoments]:
    """Moments of every head of every site, by site name; parameters as of `sweep`."""
    moments = {
        site.name: HeadMoments(*(SecondMoment(site.d_kv, site.heads) for _ in range(4))) for site in family.sites
    }

    def observe(site: AttentionSite, seen: HeadActivations) -> None:
        mine = moments[site.name]
        rows = torch.tensor(float(seen.output.shape[0] * seen.output.shape[2]))
        mine.outputs.add(_gram(seen.output), rows)
        mine.gradients.add(_gram(seen.gradient), rows)
        if not site.single_key:
            _add_scores(mine, seen)

    sweep(family, contexts, observe, seed=seed, on_batch=on_batch)
    return moments


def _gram(rows: Float[Tensor, "batch heads length n"]) -> Float[Tensor, "heads n n"]:
    rows = rows.double()
    return torch.einsum("bhli,bhlj->hij", rows, rows)


def _add_scores(moments: HeadMoments, seen: HeadActivations) -> None:
    importance = seen.score_gradient().double().square()
    by_query, by_key = importance.sum(dim=-1), importance.sum(dim=-2)
    total = by_query.sum(dim=(0, 2))
    moments.queries.add(_gram(seen.query * by_query.sqrt()[..., None]), total)
    # Sum over pairs of importance · (k_j − c_i)(k_j − c_i)ᵀ, c_i being what query i attends to.
    key = seen.key.double()
    centre = seen.weights.double() @ key
    cross = torch.einsum("bhli,bhlj->hij", importance @ key, centre)
    gram = _gram(key * by_key.sqrt()[..., None]) - cross - cross.transpose(1, 2)
    moments.keys.add(gram + _gram(centre * by_query.sqrt()[..., None]), total)


def rank_losses(
    family: Family,
    contexts: Iterable[Tensor],
    bases: dict[str, HeadBases],
    *,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, dict[str, Float[Tensor, "heads ranks"]]]:
    """What truncating one head to each rank costs, measured, with everything else intact.

    The truncated head is run for real (its softmax too, which a linearisation gets wrong where attention is sharp);
    the change of its output is carried to the loss by the probe's gradient. So a loss is a Gauss-Newton estimate, in
    units of the family's own loss a series.

    Returns
    -------
    dict
        Site name to {"QK", "VO"} to losses at ranks 0 … d_kv, shape (h, d_kv + 1).
    """
    losses = {
        site.name: {
            part: torch.zeros(site.heads, site.d_kv + 1, dtype=torch.float64)
            for part in (("VO",) if site.single_key else ("QK", "VO"))
        }
        for site in family.sites
    }

    def observe(site: AttentionSite, seen: HeadActivations) -> None:
        basis, mine = bases[site.name], losses[site.name]
        effects = (seen.output @ basis.output.to(seen.output)) * (seen.gradient @ basis.gradient.to(seen.output))
        tails = effects.sum(dim=2).flip(-1).cumsum(-1).flip(-1)
        mine["VO"][:, :-1] += tails.square().sum(dim=0).double().cpu()
        if site.single_key:
            return
        query, key = seen.query @ basis.query.to(seen.query), seen.key @ basis.key.to(seen.key)
        measured = rank_grid(site.d_kv)
        for rank in measured:
            scores = query[..., :rank] @ key[..., :rank].transpose(-1, -2) + seen.bias
            change = scores.softmax(dim=-1) @ seen.value - seen.output
            effect = (change * seen.gradient).sum(dim=(2, 3))
            mine["QK"][:, rank] += effect.square().sum(dim=0).double().cpu()

    count = sweep(family, contexts, observe, seed=seed, on_batch=on_batch)
    for site in family.sites:
        for part, loss in losses[site.name].items():
            grid = rank_grid(site.d_kv) if part == "QK" else range(site.d_kv + 1)
            losses[site.name][part] = _interpolated(loss, grid) / max(1, count)
    return losses


def rank_grid(full: int) -> list[int]:
    """Ranks at which query-key truncation is measured: all up to 4, then about four a doubling, without ``full``.

    Examples
    --------
    >>> rank_grid(32)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28]
    """
    ranks, step = list(range(min(full, 4))), 1
    rank = 4
    while rank < full:
        ranks.append(rank)
        if rank >= 8 * step:
            step *= 2
        rank += step
    return ranks


def _interpolated(losses: Tensor, grid: Iterable[int]) -> Tensor:
    """Fill losses between measured ranks linearly (the loss at full rank is 0)."""
    known = [*grid, losses.shape[1] - 1]
    for low, high in pairwise(known):
        for rank in range(low + 1, high):
            share = (rank - low) / (high - low)
            losses[:, rank] = (1 - share) * losses[:, low] + share * losses[:, high]
    return losses


def input_moments(
    family: Family, contexts: Iterable[Tensor], *, seed: int = 0, on_batch: OnBatch | None = None
) -> dict[str, InputMoments]:
    """Moments of the inputs of W_Q, W_K, W_V, W_O of every site (O(d²) each), and how sensitive their outputs are."""
    moments: dict[str, InputMoments] = {}
    generator = torch.Generator().manual_seed(seed)
    with family.instrumented(gradients=True), ExitStack() as stack:
        for site in family.sites:
            query = SecondMoment(site.d_model)
            source = query if site.kind == "self" else SecondMoment(site.d_model)
            output = SecondMoment(site.heads * site.d_kv)
            record = InputMoments({"q": query, "k": source, "v": source, "o": output})
            moments[site.name] = record
            first = {id(moment): name for name, moment in reversed(record.inputs.items())}
            for name, moment in record.inputs.items():
                hook = _input_hook(record, name, counts=first[id(moment)] == name)
                stack.callback(getattr(site.module, name).register_forward_hook(hook).remove)
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
