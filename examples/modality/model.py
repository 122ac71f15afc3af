"""One causal trunk for every modality; only what turns a token into a vector, and a vector into a forecast, differs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss
from transformers import GPT2Config, GPT2Model

INITIAL = 0.02
"""Standard deviation of the coordinates of every embedding before training: GPT-2's."""


class PatchEmbedding(nn.Module):
    """φ(x) = W₃ x + W₂ relu(W₁ x) with biases: Chronos-Bolt's residual block.

    Weights start with a standard deviation of one over the root of their inputs, as there, and the result is scaled to
    coordinates of `INITIAL`, so that it meets the trunk as the rows of a table do.

    Examples
    --------
    >>> PatchEmbedding(16, 128)(torch.zeros(2, 64, 16)).shape
    torch.Size([2, 64, 128])
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(patch, width)
        self.output = nn.Linear(width, width)
        self.residual = nn.Linear(patch, width)
        for layer, scale in ((self.hidden, 1.0), (self.output, INITIAL), (self.residual, INITIAL)):
            nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches, (..., k) → (..., d)."""
        return self.residual(patches) + self.output(self.hidden(patches).relu())


class SequenceModel(nn.Module):
    """Embedding, GPT-2 trunk and a linear head that predicts the next token of each position.

    Parameters
    ----------
    patch
        k, values in a token.
    vocabulary
        Number of different tokens, or None for patches of numbers.
    width, layers, heads, tokens
        d, blocks, heads of each, and the longest sequence.
    """

    def __init__(self, patch: int, vocabulary: int | None, *, width: int, layers: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        if vocabulary is None:
            self.embedding: nn.Module = PatchEmbedding(patch, width)
        else:
            self.embedding = nn.Embedding(vocabulary, width)
            nn.init.normal_(self.embedding.weight, std=INITIAL)
        config = GPT2Config(
            vocab_size=1,  # tokens come embedded
            n_positions=tokens,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            initializer_range=INITIAL,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
        self.trunk = GPT2Model(config)
        self.head = nn.Linear(width, vocabulary or patch)
        nn.init.normal_(self.head.weight, std=INITIAL)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequences: Tensor) -> Tensor:
        """Mean loss of predicting each next token: cross-entropy in nats, or Huber's loss of each value."""
        hidden = self.trunk(inputs_embeds=self.embedding(sequences), use_cache=False).last_hidden_state
        return token_loss(self.head(hidden[:, :-1]), sequences[:, 1:])


def token_loss(predicted: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of indices, Huber's loss of numbers; the mean over all."""
    if tokens.is_floating_point():
        return huber_loss(predicted, tokens)
    return cross_entropy(predicted.flatten(0, -2), tokens.flatten())


def new_model(seed: int, patch: int, vocabulary: int | None, **shape: int) -> SequenceModel:
    """A model as it is before training; the seed decides all weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SequenceModel(patch, vocabulary, **shape)
