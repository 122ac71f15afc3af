"""Linear layers and embeddings that may be two factors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import initialization as init


class FactoredLinear(nn.Module):
    """A linear layer kept as two factors: x → (x A) B + b, with r (m + n) instead of m n parameters.

    Parameters
    ----------
    in_features, out_features
        m and n.
    rank
        r, the inner width.
    bias
        Whether there is a b; it is that of ``up``.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., m) to (..., n)."""
        return self.up(self.down(x))


class FactoredEmbedding(nn.Module):
    """An embedding kept as two factors: a code of r numbers a token, and what they stand for.

    Parameters
    ----------
    num_embeddings, embedding_dim
        Tokens V, and features d of each.
    rank
        r.

    Examples
    --------
    >>> layer = FactoredEmbedding(100, 16, 4)
    >>> layer(torch.tensor([[3, 5]])).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([1, 2, 16]), 464)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, rank: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.codes = nn.Embedding(num_embeddings, rank)
        self.basis = nn.Linear(rank, embedding_dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (...) to (..., d)."""
        return self.basis(self.codes(tokens))


class Unchanged(nn.Identity):
    """What stands for a linear layer whose matrix is the identity.

    Parameters
    ----------
    features
        That it reads and writes.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.in_features = self.out_features = features


def linear(in_features: int, out_features: int, rank: int | None = None, *, bias: bool = False) -> nn.Module:
    """Make a linear layer, of two factors where a rank is given; any of the numbers may be 0."""
    with warnings.catch_warnings():  # a width of 0 is what we mean
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        if rank is not None:
            return FactoredLinear(in_features, out_features, rank, bias)
        return nn.Linear(in_features, out_features, bias=bias)


def replace_linears(
    module: nn.Module, ranks: Mapping[str, int], sizes: Mapping[str, tuple[int, int]], *, bias: bool = False
) -> None:
    """Give a module linear layers of these features in and out, of two factors where there is a rank, by name."""
    for name, (inputs, outputs) in sizes.items():
        setattr(module, name, linear(inputs, outputs, ranks.get(name), bias=bias))


@torch.no_grad()
def draw(layer: nn.Module, spread: float) -> None:
    """Random weights of a linear layer or an embedding, and no bias.

    The spread of a product of two factors equals that of the dense matrix it stands for.
    """
    if isinstance(layer, FactoredLinear | FactoredEmbedding):
        spread = (spread / max(1, layer.rank) ** 0.5) ** 0.5
    for module in layer.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.numel():
            init.normal_(module.weight, mean=0.0, std=spread)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Number type of what a linear layer reads."""
    return next(one.dtype for one in layer.parameters() if one.is_floating_point())
