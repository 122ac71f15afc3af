"""Second moments inside each attention head, and the loss of truncating one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.family import Context, Family
from flowrank.linalg import SecondMoment
from flowrank.measure.activations import HeadActivations
from flowrank.measure.sweeping import OnBatch, Tap, sweep
from flowrank.measure.turning import Turning, TurningMoments

SCORES = 1 << 20
"""Attention scores that a truncated head is run on at once on a CPU: they then stay in its cache."""


Observe = Callable[[Attention, HeadActivations], None]


@dataclass
class HeadMoments:
    """Second moments inside each head of one site, shape (h, width, width) each.

    Attributes
    ----------
    queries, keys
        Of the query and key features. Each pair of tokens counts by the squared sensitivity of the forecast to its
        score, and keys are centred on what the query attends to (a shift of all scores of one query changes nothing).
    outputs
        Of the head's output, before W_O.
    gradients
        Of the probe's gradient at the head's output.
    turning
        What is measured of queries and keys that turn with their places; None for others.
    """

    queries: SecondMoment
    keys: SecondMoment
    outputs: SecondMoment
    gradients: SecondMoment
    turning: TurningMoments | None = None


@dataclass(frozen=True)
class HeadBases:
    """Maps from the features of each head of a site to its components, shape (h, width, width) each, float64."""

    query: Tensor
    key: Tensor
    output: Tensor
    gradient: Tensor


def head_taps(family: Family, observe: Observe) -> list[Tap]:
    """A tap for every attention layer, which hands its activations to ``observe`` once a batch."""
    return [lambda site=site: _tap(family, site, observe) for site in family.sites]  # type: ignore[misc]


def _tap(family: Family, site: Attention, observe: Observe) -> list[Any]:
    """Hooks that gather one site's activations and pass them on when its gradient arrives."""
    recorded: dict[str, Any] = {}

    def heads(name: str, features: Tensor) -> Tensor:
        width = site.d_qk if name in ("query", "key") else site.d_vo
        return features.detach().unflatten(-1, (site.heads, width)).transpose(1, 2)

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, features: recorded.__setitem__(name, heads(name, features))

    def before_output(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        # Detached: a hook that held its own tensor would never let the graph go.
        output = heads("output", inputs[0])

        def backward(gradient: Tensor) -> None:
            for name in ("query", "key"):  # of a layer that makes none, as there is one key
                recorded.setdefault(name, output[..., :0])
            observe(site, HeadActivations(output=output, gradient=heads("gradient", gradient), **recorded))
            recorded.clear()

        inputs[0].register_hook(backward)

    def after(_module: Any, _inputs: Any, kwargs: dict[str, Any], result: Any) -> None:
        recorded["weights"], recorded["bias"] = family.observed(site, kwargs, result)

    return [
        site.query.module.register_forward_hook(keep("query")),
        site.key.module.register_forward_hook(keep("key")),
        site.value.module.register_forward_hook(keep("value")),
        site.output.module.register_forward_pre_hook(before_output),
        site.module.register_forward_hook(after, with_kwargs=True),
    ]


def head_moments(
    family: Family,
    contexts: Iterable[Context],
    *,
    also: Sequence[Tap] = (),
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, HeadMoments]:
    """Moments of every head of every site, by site name; ``also``: further taps; other parameters as in `sweep`."""
    moments = {
        site.name: HeadMoments(
            queries=SecondMoment(site.d_qk, site.heads),
            keys=SecondMoment(site.d_qk, site.heads),
            outputs=SecondMoment(site.d_vo, site.heads),
            gradients=SecondMoment(site.d_vo, site.heads),
            turning=TurningMoments(site) if site.turns else None,
        )
        for site in family.sites
    }

    def observe(site: Attention, recorded: HeadActivations) -> None:
        mine = moments[site.name]
        rows = torch.tensor(float(recorded.output.shape[0] * recorded.output.shape[2]))
        mine.outputs.add(_gram(recorded.output), rows)
        mine.gradients.add(_gram(recorded.gradient), rows)
        if site.joint or mine.turning is not None:
            _add_scores(mine, recorded)
        if mine.turning is not None:
            mine.turning.update(recorded)

    sweep(family, contexts, [*head_taps(family, observe), *also], seed=seed, on_batch=on_batch)
    return moments


def _gram(rows: Float[Tensor, "batch heads length n"]) -> Float[Tensor, "heads n n"]:
    rows = rows.double()
    return torch.einsum("bhli,bhlj->hij", rows, rows)


def _add_scores(moments: HeadMoments, recorded: HeadActivations) -> None:
    importance = recorded.score_gradient().double().square()
    by_query, by_key = importance.sum(dim=-1), importance.sum(dim=-2)
    total = by_query.sum(dim=(0, 2))
    moments.queries.add(_gram(recorded.query * by_query.sqrt()[..., None]), total)
    # Sum over pairs of importance · (k_j − c_i)(k_j − c_i)ᵀ, c_i being what query i attends to.
    key = recorded.key.double()
    centre = recorded.weights.double() @ key
    cross = torch.einsum("bhli,bhlj->hij", importance @ key, centre)
    gram = _gram(key * by_key.sqrt()[..., None]) - cross - cross.transpose(1, 2)
    moments.keys.add(gram + _gram(centre * by_query.sqrt()[..., None]), total)


def rank_losses(
    family: Family,
    contexts: Iterable[Context],
    bases: dict[str, HeadBases],
    *,
    turning: Mapping[str, Turning] | None = None,
    also: Sequence[Tap] = (),
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, dict[str, Float[Tensor, "heads ranks"]]]:
    """Measured loss of truncating one head to each rank, while the rest of the model is whole.

    The truncated head is computed, softmax included (a linearisation is wrong where attention is sharp), and the change
    of its output is multiplied by the probe's gradient. So a loss is a Gauss-Newton estimate, in units of the family's
    training loss a series. ``also``: further taps; ``turning``: choices for queries and keys that turn, by site, whose
    losses are measured as well.

    Returns
    -------
    dict
        Site name to {"QK", "VO"} to losses at ranks 0 … d, shape (h, d + 1) with d = d_qk or d_vo.
    """
    turning = turning or {}
    losses = {
        site.name: {
            part: torch.zeros(site.heads, width + 1, dtype=torch.float64)
            for part, width in (("QK", site.d_qk), ("VO", site.d_vo))
            if part == "VO" or site.joint
        }
        for site in family.sites
    }

    def observe(site: Attention, recorded: HeadActivations) -> None:
        basis, mine = bases[site.name], losses[site.name]
        output, gradient = recorded.output, recorded.gradient
        effects = (output @ basis.output.to(output)) * (gradient @ basis.gradient.to(output))
        tails = effects.sum(dim=2).flip(-1).cumsum(-1).flip(-1)
        mine["VO"][:, :-1] += tails.square().sum(dim=0).double().cpu()
        if site.name in turning:
            turning[site.name].observe(recorded, _at_once(recorded))
        if not site.joint:
            return
        query, key = recorded.query @ basis.query.to(recorded.query), recorded.key @ basis.key.to(recorded.key)
        query = query if site.scale == 1 else query * site.scale
        bias = recorded.added(site.scale).expand(len(query), -1, -1, -1)
        at_once = _at_once(recorded)
        for some in (slice(i, i + at_once) for i in range(0, len(query), at_once)):
            before = (recorded.output[some] * recorded.gradient[some]).sum(dim=(2, 3))
            for rank in rank_grid(site.d_qk):
                scores = query[some, ..., :rank] @ key[some, ..., :rank].transpose(-1, -2)
                scores += bias[some]
                read = scores.softmax(dim=-1) @ recorded.value[some]
                effect = (read * recorded.gradient[some]).sum(dim=(2, 3)) - before
                mine["QK"][:, rank] += effect.square().sum(dim=0).double().cpu()

    count = sweep(family, contexts, [*head_taps(family, observe), *also], seed=seed, on_batch=on_batch)
    for site in family.sites:
        for part, loss in losses[site.name].items():
            grid = rank_grid(site.d_qk) if part == "QK" else range(site.d_vo + 1)
            losses[site.name][part] = interpolated(loss, grid) / max(1, count)
        if site.name in turning:
            losses[site.name]["QK"] = turning[site.name].table(count)
    return losses


def _at_once(recorded: HeadActivations) -> int:
    """Series of which truncated heads are run together."""
    on_cpu = recorded.query.device.type == "cpu"
    return max(1, SCORES // recorded.weights[0].numel()) if on_cpu else len(recorded.query)


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


def interpolated(losses: Tensor, grid: Iterable[int]) -> Tensor:
    """Fill losses between measured ranks linearly (the loss at full rank is 0)."""
    known = [*grid, losses.shape[1] - 1]
    for low, high in pairwise(known):
        for rank in range(low + 1, high):
            share = (rank - low) / (high - low)
            losses[:, rank] = (1 - share) * losses[:, low] + share * losses[:, high]
    return losses
