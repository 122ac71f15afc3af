"""Chronos-T5: sample paths from the same weights, without the work that changes nothing.

The encoder runs once a series on its visible tokens. Cross-attention keys and values are made once a series, and the S
paths are S queries to them. The first token is decoded once for all paths. Self-attention writes into a cache of its
final size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from flowrank.inference.chunks import budget_on, even_chunks
from flowrank.inference.cross import CrossCache, cross_caches
from flowrank.inference.layers import Encoder, FeedForward, Heads, add_projection, project
from flowrank.inference.packing import Packed, by_length
from flowrank.inference.sampling import Sampling, uniforms


class T5Engine:
    """Exact fast generation for one Chronos-T5 model, dense or compressed."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.model = model
        self.encoder = Encoder(model.encoder)
        blocks: Any = model.decoder.block
        self.layers = [_DecoderLayer.of(block.layer) for block in blocks]
        self.position = blocks[0].layer[0].SelfAttention
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0

    def sample(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        steps: int,
        paths: int,
        sampling: Sampling,
        seed: int,
        memory_budget: int | None = None,
        cross_cache: str = "auto",
    ) -> Tensor:
        """Draw ``paths`` continuations of every series.

        Parameters
        ----------
        tokens, mask
            Shape (series, length): token ids, and which of them are seen. Every series needs one.
        steps, paths
            H and S.
        seed
            Of the noise, ≥ 0. A series' paths depend on it and on the series, not on its neighbours.
        memory_budget
            Bytes for activations and caches; the series go through in chunks that fit.
        cross_cache
            What cross-attention keeps of a context: "keys" (and values, of every layer), "latent" (the encoder's
            output, once for all layers), or "auto": for each layer what takes less time by operations and bytes.

        Returns
        -------
        Tensor
            Token ids, shape (series, paths, steps).
        """
        mask = mask.bool()
        order = by_length(mask)
        drawn = torch.empty(len(tokens), paths, steps, dtype=torch.long, device=tokens.device)
        a_token, a_series = self._bytes_a_token(), self._bytes_a_series(paths, steps)
        costs = [length * a_token + a_series for length in mask[order].sum(dim=1).tolist()]
        for chunk in even_chunks(costs, budget_on(tokens.device, memory_budget)):
            rows = order[chunk]
            drawn[rows] = self._sample_chunk(tokens[rows], mask[rows], steps, paths, sampling, seed, cross_cache)
        return drawn

    def _sample_chunk(
        self, tokens: Tensor, mask: Tensor, steps: int, paths: int, sampling: Sampling, seed: int, cross_cache: str
    ) -> Tensor:
        first = mask.int().argmax(dim=1).tolist()
        contexts = [row[start:] for row, start in zip(tokens.cpu(), first, strict=True)]
        noise = uniforms(contexts, seed, steps, paths).to(tokens.device)
        decoder = self.decoder(tokens, mask, paths=paths, steps=steps, cross_cache=cross_cache)
        start = torch.full((len(tokens),), self.model.config.decoder_start_token_id, device=tokens.device)
        drawn = torch.empty(len(tokens), paths, steps, dtype=torch.long, device=tokens.device)
        drawn[:, :, 0] = sampling.draw(decoder.first(start), noise[:, 0])
        for step in range(1, steps):
            logits = decoder.next(drawn[:, :, step - 1].reshape(-1))
            drawn[:, :, step] = sampling.draw(logits, noise[:, step].reshape(-1, 1)).view(-1, paths)
        return drawn

    def decoder(self, tokens: Tensor, mask: Tensor, *, paths: int, steps: int, cross_cache: str = "auto") -> Decoder:
        """Encode series and return a decoder for ``steps`` tokens of ``paths`` paths each."""
        packed = Packed.of(mask)
        encoded = self.encoder(self.model.encoder.embed_tokens(tokens[packed.rows, packed.positions]), packed)
        return Decoder(self, encoded, packed, paths, steps, cross_cache)

    def _widths(self) -> tuple[int, int]:
        """Cached features a token over all layers: of self-attention, of cross-attention."""
        own = sum(_cached(layer.own) for layer in self.layers)
        cross = sum(_cached(layer.cross) for layer in self.layers)
        return own, cross

    def _bytes_a_token(self) -> int:
        """Peak bytes a context token: its cross-attention cache, or what the encoder holds for it."""
        config, size = self.model.config, self.model.dtype.itemsize
        widest = max((h.count * (2 * h.d_qk + 2 * h.d_vo) for _, h, _ in self.encoder.layers if h), default=0)
        return size * (3 * config.d_model + max(self._widths()[1] + config.d_model, widest))

    def _bytes_a_series(self, paths: int, steps: int) -> int:
        config, size = self.model.config, self.model.dtype.itemsize
        return paths * (size * (steps * self._widths()[0] + 2 * config.d_ff) + 12 * config.vocab_size)


def _cached(heads: Heads | None) -> int:
    return 0 if heads is None else heads.count * (heads.d_qk + heads.d_vo)


@dataclass(frozen=True)
class _DecoderLayer:
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


class Decoder:
    """Decodes the paths of one chunk of series, one token a call: `first`, then `next` for every further one.

    Parameters
    ----------
    engine
        Whose weights.
    encoded, packed
        Encoder output (tokens, d), and where each series' tokens lie.
    paths, steps
        S a series, and how many tokens will be decoded at most.
    cross_cache
        What cross-attention keeps, see `cross_caches`.
    """

    def __init__(
        self, engine: T5Engine, encoded: Tensor, packed: Packed, paths: int, steps: int, cross_cache: str
    ) -> None:
        self.engine, self.paths = engine, paths
        self.series = packed.series
        self.position = 0
        position = engine.position
        self.bias = position.compute_bias(steps, steps, device=encoded.device).detach().to(encoded.dtype)
        self.cross = cross_caches([layer.cross for layer in engine.layers], encoded, packed, paths, cross_cache)
        self.own = [self._own_cache(layer.own, encoded, steps) for layer in engine.layers]

    def _own_cache(self, heads: Heads | None, like: Tensor, steps: int) -> tuple[Tensor, Tensor] | None:
        """Room for keys and values, (B · S, h, H, width) each."""
        if heads is None:
            return None
        rows = self.series * self.paths
        return tuple(like.new_empty(rows, heads.count, steps, width) for width in (heads.d_qk, heads.d_vo))  # type: ignore[return-value]

    def first(self, tokens: Tensor) -> Tensor:
        """Logits (B, vocabulary) after the start tokens (B,): all paths of a series still agree."""
        return self._decode(tokens, 1)

    def next(self, tokens: Tensor) -> Tensor:
        """Logits (B · S, vocabulary) after one more token of every path (B · S,)."""
        return self._decode(tokens, self.paths)

    def _decode(self, tokens: Tensor, paths: int) -> Tensor:
        model = self.engine.model
        x = model.decoder.embed_tokens(tokens)
        for layer, own, cross in zip(self.engine.layers, self.own, self.cross, strict=True):
            if layer.own is not None and own is not None:
                add_projection(x, self._look_back(layer.own_norm(x), layer.own, own, paths), layer.own.output)
            if layer.cross is not None and cross is not None:
                add_projection(x, self._look_across(layer.cross_norm(x), layer.cross, cross, paths), layer.cross.output)
            layer.feed_forward.add(x)
        self.position += 1
        x = model.decoder.final_layer_norm(x)
        return model.lm_head(x * self.engine.scale if self.engine.scale != 1 else x)

    def _look_back(self, x: Tensor, heads: Heads, cache: tuple[Tensor, Tensor], paths: int) -> Tensor:
        """Self-attention of one token a row over those before it: (rows, h · d_vo)."""
        now = self.position
        keys, values = cache
        key, value = (project(x, matrices).view(len(x), heads.count, -1) for matrices in (heads.key, heads.value))
        if paths != self.paths:  # one row stands for all paths of its series
            keys.view(self.series, self.paths, *keys.shape[1:])[:, :, :, now] = key[:, None]
            values.view(self.series, self.paths, *values.shape[1:])[:, :, :, now] = value[:, None]
        else:
            keys[:, :, now] = key
            values[:, :, now] = value
        if now == 0:  # a single key has all the weight
            return value.flatten(1)
        query = project(x, heads.query).view(len(x), heads.count, 1, -1)
        scores = query @ keys[:, :, : now + 1].transpose(2, 3)
        scores += heads.biased(self.bias)[:, :, now : now + 1, : now + 1]
        return (scores.softmax(dim=-1) @ values[:, :, : now + 1]).flatten(1)

    def _look_across(self, x: Tensor, heads: Heads, cache: CrossCache, paths: int) -> Tensor:
        """Cross-attention of all paths of a series to what it keeps of its context: (rows, h · d_vo)."""
        query = project(x, heads.query).view(self.series, paths, heads.count, -1).transpose(1, 2)
        return cache.read(query).transpose(1, 2).reshape(len(x), -1)
