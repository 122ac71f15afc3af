"""Planes in which queries and keys turn with their places, and the ways to make such layers smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowrank.anatomy import Attention

_SLOW = (0.5, 1.5, 4.0)  # radians over the tokens in use: planes that turn less are merged
_STILL = (1.0, 0.5, 0.25)  # shares of the other planes that still turn; the rest of them is dropped
_RANKS = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75)  # of what a head's width is

Kind = Literal["planes", "merged", "factors"]


def turn(features: Tensor, angles: Tensor, planes: int) -> Tensor:
    """Turn features (…, L, w), the first coordinates of the planes first, by angles (L, planes) or (h, L, planes)."""
    first, second, rest = features[..., :planes], features[..., planes : 2 * planes], features[..., 2 * planes :]
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines, rest], dim=-1)


@dataclass(frozen=True)
class Choice:
    """One way to make queries and keys of a layer smaller.

    Attributes
    ----------
    kind
        "planes": some planes are kept; "merged": some turn, the others are one block that does not; "factors".
    planes
        How many planes of each head turn.
    rank
        Of the block, or of the factors.
    cost
        Parameters of W_Q and W_K.
    apart
        How many planes of each head, the fastest, are not merged; some of them are dropped.
    """

    kind: Kind
    planes: int
    rank: int
    cost: int
    apart: int = 0


def choices(site: Attention, tokens: int) -> list[Choice]:
    """Ways to make queries and keys of a layer smaller, the cheapest first, for series of so many tokens."""
    width, planes = site.d_qk, planes_of(site)
    flat, a_feature = width - 2 * planes, 2 * site.d_model * site.heads
    found = {Choice("merged", 0, 0, 0)}
    for share in _RANKS:
        kept = round(share * planes)
        if 0 < kept < planes:
            found.add(Choice("planes", kept, flat, (2 * kept + flat) * a_feature))
        rank = int(share * width * a_feature / 2 / (site.d_model + site.heads * width))
        if 0 < rank < min(site.d_model, site.heads * width):
            found.add(Choice("factors", planes, rank, 2 * rank * (site.d_model + site.heads * width)))
    fast = (frequencies_of(site)[:, None] * tokens > torch.tensor(_SLOW)[:, None]).sum(dim=2).amax(dim=0)
    for apart in set(fast.tolist()):
        for turning in {round(share * apart) for share in _STILL}:
            for share in _RANKS:
                rank = round(share * width) - 2 * turning
                if 0 < rank < width - 2 * apart:
                    found.add(Choice("merged", turning, rank, (2 * turning + rank) * a_feature, apart))
    whole = cost_of(site)
    return sorted((one for one in found if one.cost < whole), key=lambda one: (one.cost, one.kind, one.planes))


def planes_of(site: Attention) -> int:
    """How many planes of each head turn."""
    return len(site.planes[0]) if site.planes else len(site.positions.frequencies)


def cost_of(site: Attention) -> int:
    """Parameters of W_Q and W_K as they are."""
    modules = {id(one.module): one.module for one in (site.query, site.key)}
    return sum(parameter.numel() for module in modules.values() for parameter in module.parameters())


def frequencies_of(site: Attention) -> Tensor:
    """Radians a token by which the planes of each head turn, shape (h, planes)."""
    every = torch.tensor(site.positions.frequencies, dtype=torch.float32)
    planes = site.planes or (tuple(range(len(every))),) * site.heads
    return every[torch.tensor(planes, dtype=torch.long).view(site.heads, -1)]
