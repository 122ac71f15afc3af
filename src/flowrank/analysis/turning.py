"""How much each plane of queries and keys that turn says about which token to attend to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.measure.planes import frequencies_of, planes_of, turn


class TurningStreams:
    """What is measured of the queries and keys of one layer, while series pass through it.

    Scores are sums of terms, one a plane: Re(conj(q_p) e^{iθ_p(i−j)} k_p), and one of the features that do not turn.

    Attributes
    ----------
    energy
        Shape (h, planes + 1): mean of |q_p|² |k_p|² over pairs of tokens, summed over series; last, of the features
        that do not turn, mean of their squared product.
    variance
        The same shape: variance of each term over the keys of a query, mean over queries, summed over series. What is
        the same for all keys of a query changes no attention weight, and does not count.
    tokens
        Longest run of tokens, from the first that counts to the last.
    series
        How many passed.
    """

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.planes = planes_of(attention)
        self.frequencies = frequencies_of(attention)
        shape = (len(attention.query_widths), self.planes + 1)
        self.energy, self.variance = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.tokens = self.series = 0

    def add(self, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Add features (series, tokens, all heads) before they turn; ``mask`` (series, tokens) says which count."""
        query, key = query.detach().float(), key.detach().float()
        seen = query.new_ones(query.shape[:2]) if mask is None else mask.to(query)
        share = seen / seen.sum(dim=1, keepdim=True).clamp_min(1)
        places = torch.arange(query.shape[1], device=query.device, dtype=torch.float32)
        widths = list(self.attention.query_widths)
        for head, (q, k) in enumerate(zip(query.split(widths, dim=-1), key.split(widths, dim=-1), strict=True)):
            angles = places[:, None] * self.frequencies[head].to(places)
            for index, energy, variance in self._terms(
                turn(q, angles, self.planes), turn(k, angles, self.planes), share
            ):
                self.energy[head, index] += energy.double().cpu()
                self.variance[head, index] += variance.double().cpu()
        self.series += len(query)
        last = torch.where(seen > 0, places, -1.0).amax(dim=1)
        first = torch.where(seen > 0, places, float("inf")).amin(dim=1)
        self.tokens = max(self.tokens, int((last - first).max()) + 1 if bool((last >= first).any()) else 0)

    def _terms(self, query: Tensor, key: Tensor, share: Tensor) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Energies and variances of the planes, and of what does not turn, summed over series; features are turned."""
        centred = key - (share[..., None] * key).sum(dim=1, keepdim=True)
        turning = 2 * self.planes

        def planes(features: Tensor) -> Tensor:
            return features[..., :turning].unflatten(-1, (2, self.planes))

        q, k = planes(query), planes(key)
        energy = ((share[..., None, None] * one.square()).sum(dim=(1, 2)) for one in (q, k))
        left, right = (torch.einsum("bl,blap,blcp->bacp", share, one, one) for one in (q, planes(centred)))
        first, second = energy
        yield slice(self.planes), (first * second).sum(dim=0), (left * right).sum(dim=(0, 1, 2))
        flat = [one[..., turning:] for one in (query, key, centred)]
        left, whole, right = (torch.einsum("bl,bla,blc->bac", share, one, one) for one in flat)
        yield self.planes, (left * whole).sum(), (left * right).sum()


def watched(found: TurningStreams, mask_of: Any) -> list[Any]:
    """Hooks on a layer's queries and keys; ``mask_of`` gives the tokens that count in (series, tokens), or None."""
    seen: dict[str, Tensor] = {}
    attention = found.attention

    def keep(name: str, part: int, parts: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            seen[name] = output.chunk(parts, dim=-1)[part]
            if len(seen) == 2:
                found.add(seen["query"], seen["key"], mask_of(*output.shape[:2]))
                seen.clear()

        return hook

    return [
        one.module.register_forward_hook(keep(name, one.part, one.parts))
        for name, one in (("query", attention.query), ("key", attention.key))
    ]
