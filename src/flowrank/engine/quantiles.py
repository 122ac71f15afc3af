"""`flowrank.graphs.quantiles` on tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowrank.graphs import quantiles


def extended(values: Tensor, levels: Sequence[float], wanted: Sequence[float]) -> Tensor:
    """Quantiles at any levels, from those at a few: (…, levels) to (…, wanted), see `quantiles.extended`.

    Examples
    --------
    >>> extended(torch.tensor([-1.0, 0.0, 1.0]), [0.25, 0.5, 0.75], [0.5, 0.99]).round(decimals=2).tolist()
    [0.0, 3.450000047683716]
    """
    return torch.tensor(quantiles.extended(values.numpy(force=True), levels, wanted), device=values.device)


def mixture(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles after an uncertain past: (batch, paths, levels, time) to (batch, levels, time).

    See `quantiles.mixture`.

    Examples
    --------
    >>> mixture(torch.zeros(1, 3, 3, 2), [0.1, 0.5, 0.9]).shape
    torch.Size([1, 3, 2])
    """
    return torch.tensor(quantiles.mixture(values.numpy(force=True), levels), device=values.device)
