"""Queries and keys that turn with their places, in some or all planes of a head.

Plane p of a head of width w turns by θ_p = base^(−2p / w) radians a token. Its coordinates are the features p and
w / 2 + p of a stock head; a smaller head has the first coordinates of its planes, then the second ones, then features
that do not turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def frequencies(config: Any) -> Tensor:
    """Radians a token by which each plane of a stock head turns, rising plane numbers turning slower; fp32."""
    powers = torch.arange(0, config.d_kv, 2, dtype=torch.int64, device="cpu").float() / config.d_kv
    return 1.0 / (config.rope_theta**powers)


def columns_of(planes: Sequence[int], d_kv: int) -> list[int]:
    """Features of a stock head that are the coordinates of some planes, as a smaller head has them.

    Examples
    --------
    >>> columns_of((0, 3), d_kv=8)
    [0, 3, 4, 7]
    """
    return [*planes, *(d_kv // 2 + plane for plane in planes)]


def turned(features: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn features (…, w) by the angles of their planes (…, P), P ≤ w / 2; features from 2 P on stay."""
    planes = cosines.shape[-1]
    first, second, rest = features[..., :planes], features[..., planes : 2 * planes], features[..., 2 * planes :]
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines, rest], dim=-1)
