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
from flowrank.inference.layers import Encoder, FeedForward, Heads, Matrices, add_projection, product, project
from flowrank.inference.packing import Packed, by_length


class BoltEngine:
    """Exact fast forecasts of one Chronos-Bolt model, dense or compressed."""

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        self.model = model
        self.encoder = Encoder(model.encoder)
        blocks: Any = model.decoder.block
        self.layers = [_DecoderLayer.of(block.layer) for block in blocks]

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
            Shape (series, quantiles, prediction length), fp32.
        """
        model = self.model
        config = model.chronos_config
        context = context[:, -config.context_length :]
        order = by_length(self._observed(context))
        result = context.new_empty(len(context), len(config.quantiles), config.prediction_length)
        tokens = self._observed(context[order]).sum(dim=1).tolist()
        costs = [self._bytes_a_series(count + 1) for count in tokens]
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
                query = layer.query(x).expand(series, -1, -1)
                x = x.expand(series, -1).contiguous()
                layer.add_read(x, self._read(query, encoded, packed))
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
        config, size = self.model.config, self.model.dtype.itemsize
        widest = max((h.count * (2 * h.d_qk + 2 * h.d_vo) for _, h, _ in self.encoder.layers if h), default=0)
        patch = self.model.chronos_config.input_patch_size
        embedding = max(config.d_ff + 4 * patch, 2 * config.d_model + widest)
        return tokens * (size * (config.d_model + embedding) + 16 * patch)


@dataclass(frozen=True)
class _DecoderLayer:
    """One decoder layer for a single token.

    Attributes
    ----------
    own
        Self-attention as one map: W_V W_O, merged where that is smaller.
    cross
        The heads of cross-attention.
    key, value
        Their key and value weights by head, (h, width, d).
    """

    own_norm: torch.nn.Module
    own: Matrices
    cross_norm: torch.nn.Module
    cross: Heads | None
    key: Tensor
    value: Tensor
    feed_forward: FeedForward

    @classmethod
    def of(cls, parts: Any) -> _DecoderLayer:
        own, cross, feed_forward = parts
        own_heads, cross_heads = Heads.of(own.SelfAttention), Heads.of(cross.EncDecAttention)
        key = value = cross.layer_norm.weight.new_empty(0)
        if cross_heads is not None:
            key, value = cross_heads.key_by_head(), cross_heads.value_by_head()
        return cls(
            own.layer_norm,
            () if own_heads is None else _smaller((*own_heads.value, *own_heads.output)),
            cross.layer_norm,
            cross_heads,
            key,
            value,
            FeedForward(feed_forward),
        )

    def add_self(self, x: Tensor) -> None:
        """Add to tokens (n, d) what each reads from itself."""
        if self.own:
            add_projection(x, self.own_norm(x), self.own)

    def query(self, x: Tensor) -> Tensor:
        """Queries of tokens (n, d) in the encoder's space, (n, h, d): W_K takes them there."""
        assert self.cross is not None
        heads = project(self.cross_norm(x), self.cross.query).view(len(x), self.cross.count, -1)
        return (heads.transpose(0, 1) @ self.key).transpose(0, 1)

    def add_read(self, x: Tensor, read: Tensor) -> None:
        """Add to tokens (n, d) what their heads read in the encoder's space, (n, h, d)."""
        assert self.cross is not None
        values = read.transpose(0, 1) @ self.value.transpose(1, 2)
        add_projection(x, values.transpose(0, 1).flatten(1), self.cross.output)


def _smaller(matrices: Matrices) -> Matrices:
    """The maps as they are or multiplied out, whichever has fewer entries."""
    rows, columns = matrices[-1].shape[0], matrices[0].shape[1]
    return matrices if sum(m.numel() for m in matrices) <= rows * columns else (product(matrices),)
