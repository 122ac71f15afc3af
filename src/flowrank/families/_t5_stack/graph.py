"""A T5 encoder on padded batches, as graph exporters can trace it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowrank.engine.heads import Heads
from flowrank.engine.tracing import Chain, FeedForwardGraph, Norm, QueriesKeysValues, joined
from flowrank.families._t5_stack.engine import Encoder


class EncoderLayerGraph(nn.Module):
    """Self-attention and feed-forward of one layer."""

    def __init__(self, norm: nn.Module, heads: Heads | None, feed_forward: FeedForwardGraph) -> None:
        super().__init__()
        self.feed_forward, self.active = feed_forward, None if heads is None else heads.active
        self.attends = heads is not None
        if heads is not None:
            self.reads, self.writes = QueriesKeysValues(heads, norm), Chain(heads.output)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map tokens (B, L, d) to (B, L, d); ``bias`` (B, h, L, L) is added to the scores."""
        if self.attends:
            query, key, value = self.reads(x)
            if self.active is not None:
                bias = bias[:, list(self.active)]
            scores = query @ key.transpose(2, 3) + bias
            x = x + self.writes(joined(scores.softmax(-1) @ value))
        return self.feed_forward(x)


class EncoderGraph(nn.Module):
    """All layers of a T5 encoder.

    Parameters
    ----------
    encoder
        As the exact engine reads it.
    tokens
        As many as it ever gets.
    """

    biases: Tensor

    def __init__(self, encoder: Encoder, tokens: int) -> None:
        super().__init__()
        self.tokens, self.norm = tokens, Norm(encoder.final_norm)
        self.layers = nn.ModuleList(
            EncoderLayerGraph(norm, heads, FeedForwardGraph(feed_forward))
            for norm, heads, feed_forward in encoder.layers
        )
        bias = encoder.position.compute_bias(tokens, tokens).detach().float()[0]
        self.register_buffer("biases", torch.cat([bias[:, :, 0].flip(1), bias[:, 0, 1:]], 1))  # (h, distances)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode tokens (B, L, d); ``mask`` (B, L) is added to the scores of those keys."""
        places = torch.arange(x.shape[1])
        bias = self.biases[:, places[None, :] - places[:, None] + (self.tokens - 1)]
        bias = bias[None] + mask[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)
