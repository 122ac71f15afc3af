"""Samples tokens as transformers does, with noise that depends on the series and not on its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowrank.errors import FlowrankError
from flowrank.graphs import Draws

_GROUPS_EACH = 8  # for each of the largest that are looked for: fewer are found faster, and leave more to search


@dataclass(frozen=True)
class Sampling(Draws):
    """Options of sampling from logits: temperature, then the k likeliest tokens, then the nucleus of mass top_p.

    The distribution function runs over tokens in the order of the values that they represent. So two models with almost
    equal forecasts draw almost equal values from the same noise.

    Attributes
    ----------
    temperature
        Divides the logits, > 0.
    top_k
        Number of tokens, and those that tie with the last; 0 or None: all.
    top_p
        Smallest set of likeliest tokens whose probability exceeds this, one token at least; ≥ 1 or None: all.
    forbidden
        Token that is never drawn.
    """

    forbidden: int | None = None

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Draw tokens by inverting the distribution function.

        Parameters
        ----------
        logits
            Shape (rows, vocabulary); may be overwritten.
        uniforms
            Shape (rows, draws), in [0, 1).

        Returns
        -------
        Tensor
            Tokens (rows, draws).

        Raises
        ------
        FlowrankError
            If a row holds NaN, or no token that may be drawn.
        """
        scores, tokens = self.candidates(logits)
        if not torch.isfinite(scores.amax(dim=1)).all():
            raise FlowrankError(
                "model",
                expected="finite logits",
                found="NaN or infinity",
                todo="check the model's weights and the type they are computed in",
            )
        cumulative = scores.softmax(dim=1).cumsum(dim=1)
        wanted = (uniforms * cumulative[:, -1:]).contiguous()
        chosen = torch.searchsorted(cumulative, wanted, right=True).clamp_(max=scores.shape[1] - 1)
        return chosen if tokens is None else tokens.gather(1, chosen)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (rows, n), in fp32, −inf where not to be drawn, and their tokens, rising; None: column is token."""
        logits = logits.float()
        if self.forbidden is not None:
            logits[:, self.forbidden] = -torch.inf
        if self.temperature != 1:
            logits = logits / self.temperature
        tokens: Tensor | None = None
        scores = logits
        if self.top_k and self.top_k < logits.shape[1]:
            values, places = _largest(logits, self.top_k + 1)
            least = values.topk(2, dim=1, largest=False)
            threshold = least.values[:, 1:]
            if (least.values[:, :1] == threshold).any():  # transformers keeps all that tie with the k-th
                scores = logits.masked_fill(logits < threshold, -torch.inf)
            else:
                scores, tokens = values.scatter(1, least.indices[:, :1], -torch.inf), places
        if self.top_p is not None and self.top_p < 1:
            scores, order = scores.sort(dim=1, descending=True)
            tokens = order if tokens is None else tokens.gather(1, order)
            # The mass of a token and all that are less likely.
            tail = scores.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)
            outside = tail <= 1 - self.top_p
            outside[:, 0] = False
            scores = scores.masked_fill(outside, -torch.inf)
        if tokens is not None:
            tokens, order = tokens.sort(dim=1)
            scores = scores.gather(1, order)
        return scores, tokens


def _power_of_two(most: int) -> int:
    return 1 << max(0, most.bit_length() - 1)


def _largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, in any order, and where they are.

    They lie in the ``count`` groups whose largest entries are largest, so only those are searched. A group takes every
    n-th entry, n groups in all: its maximum is then a maximum of contiguous vectors.
    """
    size = _power_of_two(rows.shape[1] // (_GROUPS_EACH * count))
    groups, rest = divmod(rows.shape[1], size)
    if size < 4 or rest:  # a gain no longer
        return rows.topk(count, dim=1, sorted=False)
    split = rows.unflatten(1, (size, groups))
    chosen = split.amax(dim=1).topk(count, dim=1, sorted=False).indices
    few = split.gather(2, chosen[:, None].expand(-1, size, -1)).flatten(1)
    values, places = few.topk(count, dim=1, sorted=False)
    return values, chosen.gather(1, places % count) + places // count * groups
