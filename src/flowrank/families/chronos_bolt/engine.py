"""Chronos-Bolt: quantiles from the same weights, without the work that changes nothing.

The encoder runs on the patches that hold an observation. The decoder has one token, so its self-attention is one
linear map of it, the same for every series in the first layer; and with a single query, cross-attention keys and values
need not be made: the query is taken to the encoder's space instead, and what it reads is taken back.
"""

from __future__ import annotations

from functools import cached_property

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting, InstanceNorm, Patch, ResidualBlock
from torch import Tensor

from flowrank.engine.chunks import budget_on, even_chunks
from flowrank.engine.cross import read_tokens
from flowrank.engine.feed_forward import normalised
from flowrank.engine.heads import add_projection, project
from flowrank.engine.packing import Packed, by_length
from flowrank.engine.paths import Engine
from flowrank.families._patch_block import patch_block
from flowrank.families._t5_stack.engine import COMPUTED, DecoderLayer, Encoder
from flowrank.families.chronos_bolt.block import NarrowResidualBlock


class BoltEngine(Engine):
    """Exact fast forecasts of one Chronos-Bolt model, dense or compressed."""

    computed = (*COMPUTED, ResidualBlock, NarrowResidualBlock, Patch, InstanceNorm)
    with_biases = (ResidualBlock, NarrowResidualBlock)

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        self.model = model
        self.encoder = Encoder(model.encoder)
        self.layers = DecoderLayer.of_stack(model.decoder)
        self.reads, self.writes = patch_block(model.input_patch_embedding), patch_block(model.output_patch_embedding)

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
            has no register token to attend to.
        """
        model = self.model
        config = model.chronos_config
        context = context[:, -config.context_length :]
        observed = self._observed(context)
        order = by_length(observed) if len(observed) > 1 else torch.zeros(1, dtype=torch.long, device=context.device)
        if not config.use_reg_token:
            order = order[observed[order].any(dim=1)]
        result = context.new_full((len(context), len(config.quantiles), config.prediction_length), torch.nan)
        counts = observed[order].sum(dim=1).tolist()
        each = {count: self._bytes_a_series(count + 1) for count in set(counts)}
        costs = [each[count] for count in counts]
        for chunk in even_chunks(costs, budget_on(context.device, memory_budget)):
            rows = order[chunk]
            result[rows] = self._quantiles_of_chunk(context[rows])
        return result

    def _observed(self, context: Tensor) -> Tensor:
        """Mask (series, patches) of the patches with an observation."""
        return self.model.patch(context).isnan().logical_not().any(dim=-1)

    def _quantiles_of_chunk(self, context: Tensor) -> Tensor:
        model = self.model
        visible = self._observed(context)
        first = int(visible.any(dim=0).int().argmax())  # patches before it are empty in all series
        scaled, loc_scale = model.instance_norm(context)
        patches = model.patch(scaled)[:, first:].to(model.dtype)
        visible = visible[:, first:]
        if model.chronos_config.use_reg_token:
            visible = torch.cat([visible, visible.new_ones(len(visible), 1)], dim=1)
        packed = Packed.of(visible)
        x = self._embedded(patches, packed)
        decoded = self._decode(self.encoder(x, packed), packed)
        quantiles = self.writes(decoded).float()  # chronos-forecasting 2.3.1 keeps the type
        return model.instance_norm.inverse(quantiles, loc_scale).unflatten(1, (model.num_quantiles, -1))

    def _embedded(self, patches: Tensor, packed: Packed) -> Tensor:
        """Embed the kept patches and the register tokens (tokens, d)."""
        model = self.model
        past = patches.shape[1]
        every = len(packed.positions) == packed.series * (past + model.chronos_config.use_reg_token)
        if every:
            kept = patches.flatten(0, 1)
        else:
            observed = packed.positions < past
            kept = patches[packed.rows[observed], packed.positions[observed]]
        holes = kept.isnan()
        features = torch.cat([kept.masked_fill(holes, 0.0), holes.logical_not().to(kept.dtype)], dim=1)
        embedded = self.reads(features)
        if not model.chronos_config.use_reg_token:
            return embedded
        register = model.shared.weight[model.config.reg_token_id].detach()
        if every:
            embedded = embedded.unflatten(0, (-1, past))
            return torch.cat([embedded, register.expand(len(embedded), 1, -1)], dim=1).flatten(0, 1)
        x = embedded.new_empty(len(packed.positions), embedded.shape[1])
        x[observed] = embedded
        x[~observed] = register
        return x

    def _decode(self, encoded: Tensor, packed: Packed) -> Tensor:
        """The decoder's one token of every series, (series, d)."""
        series = packed.series
        x = torch.empty(0)
        for number, layer in enumerate(self.layers):
            if number == 0:
                x, asked = self._start[0].clone(), self._start[1]
            else:
                asked = self._asked(layer, x)
            heads = layer.cross_attention
            if heads is not None and asked is not None:
                read = self._read(asked.expand(series, -1, -1), encoded, packed)
                x = x.expand(series, -1).contiguous()
                add_projection(x, heads.from_source(read.transpose(0, 1)).transpose(0, 1).flatten(1), heads.output)
            layer.feed_forward.add(x)
        return normalised(x, self.model.decoder.final_layer_norm).expand(series, -1)

    @cached_property
    def _start(self) -> tuple[Tensor, Tensor | None]:
        """The decoder's token (1, d) and what it asks in the first layer (1, h, d): the same for every series."""
        model = self.model
        x = model.decoder.embed_tokens.weight[model.config.decoder_start_token_id].detach()[None].clone()
        return x, self._asked(self.layers[0], x)

    @staticmethod
    def _asked(layer: DecoderLayer, x: Tensor) -> Tensor | None:
        """Update tokens ``x`` (n, d) by self-attention, in place, and make their queries, (n, h, d), to the encoder."""
        if layer.self_attention is not None:  # the token itself is the only key, so it reads its own value
            read = project(normalised(x, layer.self_norm), layer.self_attention.value)
            add_projection(x, read, layer.self_attention.output)
        heads = layer.cross_attention
        if heads is None:
            return None
        query = project(normalised(x, layer.cross_norm), heads.query).view(len(x), heads.count, -1)
        return heads.to_source(query.transpose(0, 1)).transpose(0, 1)

    @staticmethod
    def _read(query: Tensor, encoded: Tensor, packed: Packed) -> Tensor:
        """What queries (series, h, d) read from their series' tokens: (series, h, d)."""
        read = torch.empty_like(query, memory_format=torch.contiguous_format)
        for run, tokens in packed.by_run(encoded):
            of_run = slice(run.first, run.first + run.count)
            read[of_run] = read_tokens(query[of_run], tokens)
        return read

    def _bytes_a_series(self, tokens: int) -> int:
        """Peak bytes of one series: its context, its tokens in the encoder, or its one token in the decoder."""
        config, patching = self.model.config, self.model.chronos_config
        embedded = 2 * self.reads.width + 2 * config.d_model + 4 * patching.input_patch_size
        in_encoder = tokens * max(embedded, self.encoder.numbers_a_token(tokens))
        outputs = len(patching.quantiles) * patching.prediction_length
        heads = max(
            (layer.cross_attention.count for layer in self.layers if layer.cross_attention is not None), default=0
        )
        widest = max(self.writes.width, *(layer.feed_forward.width for layer in self.layers))
        in_decoder = tokens * config.d_model + (4 * heads + 3) * config.d_model + 2 * widest + 3 * outputs
        context = 20 * tokens * patching.input_patch_size
        return context + self.model.dtype.itemsize * max(in_encoder, in_decoder)
