"""Cross-attention of the decoder: caches of the encoder's output, and how queries read them.

Keys and values are linear in the encoder's output, which all layers share. So a layer may cache its keys and
values, k + v features a token, or nothing: queries are then mapped to the encoder's space by W_K, and the result of
attention there is mapped back by W_V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flowrank.cost.counting import prefers_latent
from flowrank.engine.heads import Heads, project
from flowrank.engine.packing import Packed
from flowrank.nn.int8 import Int8Weight

CROSS_CACHES = ("auto", "keys", "latent")


class CrossCache(Protocol):
    """The cache that one layer reads."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of the cache."""

    def read(self, query: Tensor) -> Tensor:
        """Map queries (B, h, S, d_qk) to what they read, (B, h, S, d_vo)."""


@dataclass(frozen=True)
class Keys:
    """Keys (B, h, d_qk, L) and values (B, h, L, d_vo) of one layer; mask (B, 1, 1, L) to add."""

    tensors: tuple[Tensor, Tensor]
    mask: Tensor | None

    @classmethod
    def of(cls, heads: Heads, encoded: Tensor, packed: Packed, mask: Tensor | None) -> Keys:
        """Make them from encoder output (tokens, d)."""
        keys, values = (
            packed.padded(project(encoded, matrices)).unflatten(2, (heads.count, -1))
            for matrices in (heads.key, heads.value)
        )
        return cls((keys.permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous()), mask)

    def read(self, query: Tensor) -> Tensor:
        """Map queries (B, h, S, d_qk) to what they read, (B, h, S, d_vo)."""
        keys, values = self.tensors
        scores = query @ keys
        if self.mask is not None:
            scores += self.mask
        return scores.softmax(dim=-1) @ values


@dataclass(frozen=True)
class Latent:
    """Encoder output (B, L, d), one tensor for all layers, and the weights of this one."""

    tensors: tuple[Tensor]
    mask: Tensor | None
    heads: Heads

    def read(self, query: Tensor) -> Tensor:
        """Map queries (B, h, S, d_qk) to what they read, (B, h, S, d_vo)."""
        heads, paths = query.shape[1:3]
        mask = None if self.mask is None else self.mask[:, 0]
        read = read_tokens(self.heads.to_source(query).flatten(1, 2), self.tensors[0], mask)
        return self.heads.from_source(read.unflatten(1, (heads, paths)))


def read_tokens(query: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Read tokens (B, L, d) by queries (B, n, d) in their own space: (B, n, d)."""
    scores = query @ tokens.transpose(1, 2)
    if mask is not None:
        scores += mask
    return scores.softmax(dim=-1) @ tokens


def cross_caches(
    layers: list[Heads | None], encoded: Tensor, packed: Packed, paths: int, choice: str
) -> list[CrossCache | None]:
    """The cache of every layer; None where no head is left.

    Parameters
    ----------
    layers
        Weights of cross-attention.
    encoded, packed
        Encoder output (tokens, d), and where each series' tokens lie.
    paths
        S, queries a series and step.
    choice
        "keys", "latent", or "auto": the faster by its operations and bytes.
    """
    hidden = packed.padding()
    mask: Tensor | None = None
    if hidden is not None:
        mask = torch.zeros(hidden.shape, dtype=encoded.dtype).masked_fill_(hidden, -torch.inf)
        mask = mask[:, None, None].to(encoded.device)
    latent: Tensor | None = None
    caches: list[CrossCache | None] = []
    for heads in layers:
        if heads is None:
            caches.append(None)
        elif choice == "latent" or (choice == "auto" and _is_faster_latent(heads, packed, paths)):
            latent = packed.padded(encoded) if latent is None else latent
            caches.append(Latent((latent,), mask, heads))
        else:
            caches.append(Keys.of(heads, encoded, packed, mask))
    return caches


def _is_faster_latent(heads: Heads, packed: Packed, paths: int) -> bool:
    if any(isinstance(matrix, Int8Weight) for matrix in (*heads.key, *heads.value)):
        return False  # integers multiply from one side only
    d = heads.key[0].shape[1]
    return prefers_latent(d, heads.count, heads.features, tokens=packed.longest, paths=paths, series=packed.series)
