"""Chronos-Bolt as a graph: the exact engine's work on padded batches, in one function that exporters can trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowrank.engine.graphs import GraphEngine
from flowrank.engine.heads import Heads
from flowrank.engine.products import Weight
from flowrank.engine.tracing import (
    Chain,
    FeedForwardGraph,
    ModelGraph,
    Norm,
    standardised,
)
from flowrank.errors import FlowrankError
from flowrank.families._patch_block import PatchBlockGraph
from flowrank.families._t5_stack.engine import DecoderLayer, Encoder
from flowrank.families._t5_stack.graph import EncoderGraph
from flowrank.graphs import Facts
from flowrank.graphs.paths import HIDDEN


class ReadsTokens(nn.Module):
    """Cross-attention of one token: its query is taken to the encoder's space, and what it reads is taken back."""

    def __init__(self, heads: Heads, norm: Any) -> None:
        super().__init__()
        self.heads, self.width = heads.count, heads.d_qk
        self.query, self.output = Chain(heads.query, norm), Chain(heads.output)
        *first, key = (one.dense().detach().float() for one in heads.key)
        *before, value = (one.dense().detach().float() for one in heads.value)
        self.register_buffer("key", key.unflatten(0, (heads.count, -1)).clone())  # (h, width, d or rank)
        self.to_tokens, self.of_tokens = (
            Chain([Weight(one.t()) for one in reversed(first)]),
            Chain(list(map(Weight, before))),
        )
        self.register_buffer("value", value.unflatten(0, (heads.count, -1)).transpose(1, 2).contiguous())

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Update a token (B or 1, d) by those of the encoder (B, L, d); ``mask`` (B, L) is added to their scores."""
        query = self.query(x).reshape(x.shape[0], self.heads, 1, self.width)
        query = self.to_tokens((query @ self.key).squeeze(2))  # (B or 1, h, d)
        weights = (query @ tokens.transpose(1, 2) + mask[:, None]).softmax(-1)
        read = self.of_tokens(weights @ tokens)  # (B, h, d or rank)
        return x + self.output((read[:, :, None] @ self.value).flatten(1))


class DecoderLayerGraph(nn.Module):
    """One layer of the decoder, whose one token is the only key of its self-attention."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        itself = layer.self_attention
        self.itself = None if itself is None else Chain((*itself.value, *itself.output), layer.self_norm)
        cross = layer.cross_attention
        self.cross = None if cross is None else ReadsTokens(cross, layer.cross_norm)
        self.feed_forward = FeedForwardGraph(layer.feed_forward)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Update the token (B or 1, d)."""
        if self.itself is not None:
            x = x + self.itself(x)
        if self.cross is not None:
            x = self.cross(x, tokens, mask)
        return self.feed_forward(x)


class BoltGraph(ModelGraph):
    """Contexts (series, time) to quantiles (series, quantiles, horizon)."""

    register_token: Tensor
    start: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.chronos_config
        self.patch, self.horizon = config.input_patch_size, config.prediction_length
        self.context_length, self.levels = config.context_length, tuple(config.quantiles)
        self.least = model.instance_norm.eps
        tokens = -(-self.context_length // self.patch) + int(config.use_reg_token)
        self.first, self.last = (
            PatchBlockGraph(block) for block in (model.input_patch_embedding, model.output_patch_embedding)
        )
        self.has_register = bool(config.use_reg_token)
        if self.has_register:
            self.register_buffer(
                "register_token", model.shared.weight[model.config.reg_token_id].detach().float().clone()
            )
        encoder = Encoder(model.encoder)
        self.encoder = EncoderGraph(encoder, tokens)
        heads = max((one.count for _, one, _ in encoder.layers if one is not None), default=0)
        self.numbers = (encoder.numbers_a_token(0) + max(one.width for _, _, one in encoder.layers), 3 * heads)
        decoder = model.decoder
        self.layers = nn.ModuleList(DecoderLayerGraph(layer) for layer in DecoderLayer.of_stack(decoder))
        start = decoder.embed_tokens.weight[model.config.decoder_start_token_id]
        self.register_buffer("start", start.detach().float()[None].clone())
        self.norm = Norm(decoder.final_layer_norm)

    @classmethod
    def of(cls, model: Any) -> BoltGraph:
        """The graph of a Chronos-Bolt model, dense or compressed.

        Raises
        ------
        FlowrankError
            If its patches overlap.
        """
        config = model.chronos_config
        if config.input_patch_stride != config.input_patch_size:
            raise FlowrankError(
                "model",
                expected="patches side by side, for a graph",
                found=f"patches of {config.input_patch_size} values every {config.input_patch_stride}",
                todo='use engine="exact"',
            )
        return cls(model)

    @property
    def facts(self) -> Facts:
        """What has to be known to forecast with it."""
        return Facts("series", self.patch, self.context_length, self.horizon, self.levels, self.numbers)

    def example(self) -> dict[str, Tensor]:
        """Two series of three patches."""
        return {"context": torch.linspace(0.0, 9.0, 6 * self.patch).view(2, -1).sin()}

    def axes(self) -> dict[str, dict[int, Any]]:
        """Any number of series, of any number of patches."""
        most = -(-self.context_length // self.patch)
        patches = torch.export.Dim("patches", min=1, max=max(4, most))
        return {"context": {0: torch.export.Dim("series", min=1), 1: self.patch * patches}}

    def forward(self, context: Tensor) -> Tensor:
        """Quantiles of contexts (series, time), whose length is a multiple of the patch; NaN = not observed."""
        series = context.shape[0]
        seen = context.isnan().logical_not()
        scaled, level, spread = standardised(context, seen, self.least)
        observed = seen.to(context.dtype).reshape(series, -1, self.patch)
        x = self.first(torch.cat([scaled.reshape(series, -1, self.patch), observed], -1))
        visible = observed.amax(-1)
        if self.has_register:
            x = torch.cat([x, self.register_token.expand(series, 1, -1)], 1)
            visible = torch.cat([visible, torch.ones(series, 1)], 1)
        mask = (1.0 - visible) * HIDDEN
        tokens = self.encoder(x, mask)
        x = self.start
        for layer in self.layers:
            x = layer(x, tokens, mask)
        quantiles = (self.last(self.norm(x)) * spread + level).reshape(-1, len(self.levels), self.horizon)
        return quantiles.expand(series, -1, -1)


class BoltGraphEngine(GraphEngine):
    """Forecasts of a Chronos-Bolt model by a graph runtime."""

    graph_class = BoltGraph

    def quantiles(self, context: Tensor, *, memory_budget: int | None = None) -> Tensor:
        """Forecast one block: (series, time) to (series, quantiles, horizon), fp32."""
        return torch.from_numpy(self.driver.block(context.numpy(), memory_budget=memory_budget))
