"""Chronos-Bolt: quantiles from the same weights, without the work that changes nothing.

The encoder runs on the patches that hold an observation. The decoder sees one token, so its self-attention is one
linear map of it, the same for every series in the first layer; and with a single query, cross-attention keys and values
need not be made: the query is taken to the encoder's space instead, and what it reads is taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor

from flowrank.inference.chunks import budget_on, even_chunks
from flowrank.inference.cross import look
from flowrank.inference.layers import Encoder, FeedForward, Heads, add_projection, project
from flowrank.inference.packing import Packed, by_length


class BoltEngine:
    """Exact fast forecasts of one Chronos-Bolt model, dense or compressed."""

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        self.model = model
        self.encoder = Encoder(model.encoder)
        blocks: Any = model.decoder.block
        self.layers = [_DecoderLayer.of(block.layer) for block in blocks]

    @torch.inference_mode()
    def quantiles(self, context: Tensor, *, memory_budget: int | None = None) -> Tensor:
        """Forecast one block.

        Parameters
        ----------
        context
            Shape (series, time), fp32; NaN where nothing was observed.
        memory_budget
            Bytes for activations; the series go through in chunks that fit.

        Returns
        -------
        Tensor
            Shape (series, quantiles, prediction length), fp32; NaN for a series without an observation, if the model
            has no register token to look at.
        """
        model = self.model
        config = model.chronos_config
        context = context[:, -config.context_length :]
        observed = self._observed(context)
        order = by_length(observed)
        if not config.use_reg_token:
            order = order[observed[order].any(dim=1)]
        result = context.new_full((len(context), len(config.quantiles), config.prediction_length), torch.nan)
        costs = [self._bytes_a_series(count + 1) for count in observed[order].sum(dim=1).tolist()]
        for chunk in even_chunks(costs, budget_on(context.device, memory_budget)):
            rows = order[chunk]
            result[rows] = self._quantiles_of_chunk(context[rows])
        return result

    def _observed(self, context: Tensor) -> Tensor:
        """Mask (series, patches) of the patches with an observation."""
        return self.model.patch(context).isnan().logical_not().any(dim=-1)

    def _quantiles_of_chunk(self, context: Tensor) -> Tensor:
        model = self.model
        seen = self._observed(context)
        first = int(seen.any(dim=0).int().argmax())  # patches before it are empty in all series
        scaled, loc_scale = model.instance_norm(context)
        patches = model.patch(scaled)[:, first:].to(model.dtype)
        seen = seen[:, first:]
        if model.chronos_config.use_reg_token:
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        packed = Packed.of(seen)
        x = self._embedded(patches, packed)
        decoded = self._decode(self.encoder(x, packed), packed)
        quantiles = model.output_patch_embedding(decoded)
        return model.instance_norm.inverse(quantiles, loc_scale).unflatten(1, (model.num_quantiles, -1))

    def _embedded(self, patches: Tensor, packed: Packed) -> Tensor:
        """Embed the kept patches and the register tokens (tokens, d)."""
        model = self.model
        observed = packed.positions < patches.shape[1]
        kept = patches[packed.rows[observed], packed.positions[observed]]
        holes = kept.isnan()
        features = torch.cat([kept.masked_fill(holes, 0.0), holes.logical_not().to(kept.dtype)], dim=1)
        embedded = model.input_patch_embedding(features)
        if not model.chronos_config.use_reg_token:
            return embedded
        x = embedded.new_empty(len(packed.positions), embedded.shape[1])
        x[observed] = embedded
        x[~observed] = model.shared.weight[model.config.reg_token_id].detach()
        return x

    def _decode(self, encoded: Tensor, packed: Packed) -> Tensor:
        """The decoder's one token of every series, (series, d)."""
        model = self.model
        series = packed.series
        x = model.decoder.embed_tokens.weight[model.config.decoder_start_token_id].detach()[None].clone()
        for layer in self.layers:
            layer.add_self(x)
            if layer.cross is not None:
                query = layer.query(x, layer.cross).expand(series, -1, -1)
                x = x.expand(series, -1).contiguous()
                layer.add_read(x, self._read(query, encoded, packed), layer.cross)
            layer.feed_forward.add(x)
        return model.decoder.final_layer_norm(x).expand(series, -1)

    @staticmethod
    def _read(query: Tensor, encoded: Tensor, packed: Packed) -> Tensor:
        """What queries (series, h, d) read from their series' tokens: (series, h, d)."""
        read = torch.empty_like(query, memory_format=torch.contiguous_format)
        for run, tokens in packed.by_run(encoded):
            of_run = slice(run.first, run.first + run.count)
            read[of_run] = look(query[of_run], tokens)
        return read

    def _bytes_a_series(self, tokens: int) -> int:
        """Peak bytes of one series: its context, its tokens in the encoder, or its one token in the decoder."""
        config, patching = self.model.config, self.model.chronos_config
        embedded = 2 * config.d_ff + 2 * config.d_model + 4 * patching.input_patch_size
        in_encoder = tokens * max(embedded, self.encoder.numbers_a_token(tokens))
        outputs = len(patching.quantiles) * patching.prediction_length
        heads = max((layer.cross.count for layer in self.layers if layer.cross is not None), default=0)
        in_decoder = tokens * config.d_model + (4 * heads + 3) * config.d_model + 2 * config.d_ff + 3 * outputs
        context = 20 * tokens * patching.input_patch_size
        return context + self.model.dtype.itemsize * max(in_encoder, in_decoder)


@dataclass(frozen=True)
class _DecoderLayer:
    """One decoder layer for a single token."""

    own_norm: torch.nn.Module
    own: Heads | None
    cross_norm: torch.nn.Module
    cross: Heads | None
    feed_forward: FeedForward

    @classmethod
    def of(cls, parts: Any) -> _DecoderLayer:
        own, cross, feed_forward = parts
        return cls(
            own.layer_norm,
            Heads.of(own.SelfAttention),
            cross.layer_norm,
            Heads.of(cross.EncDecAttention),
            FeedForward(feed_forward),
        )

    def add_self(self, x: Tensor) -> None:
        """Add to tokens (n, d) what each reads from itself, the only key it has."""
        if self.own is not None:
            add_projection(x, project(self.own_norm(x), self.own.value), self.own.output)

    def query(self, x: Tensor, heads: Heads) -> Tensor:
        """Queries of tokens (n, d) in the encoder's space, (n, h, d)."""
        query = project(self.cross_norm(x), heads.query).view(len(x), heads.count, -1)
        return heads.to_source(query.transpose(0, 1)).transpose(0, 1)

    @staticmethod
    def add_read(x: Tensor, read: Tensor, heads: Heads) -> None:
        """Add to tokens (n, d) what their heads read in the encoder's space, (n, h, d)."""
        values = heads.from_source(read.transpose(0, 1)).transpose(0, 1)
        add_projection(x, values.flatten(1), heads.output)
