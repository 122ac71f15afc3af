"""Chronos-T5: sample paths from the same weights, without the work that changes nothing.

The encoder runs once a series on its visible tokens. Cross-attention keys and values are made once a series, and the S
paths are S queries to them. The first token is decoded once for all paths. Self-attention writes into a cache of its
final size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from flowrank.engine.chunks import budget_on, even_chunks
from flowrank.engine.cross import CrossCache, cross_caches
from flowrank.engine.feed_forward import normalised
from flowrank.engine.heads import Embedding, Heads, add_projection, matrices_of, project
from flowrank.engine.packing import Packed, by_length
from flowrank.engine.paths import Engine
from flowrank.engine.sampling import Sampling
from flowrank.families._t5_stack.engine import COMPUTED, DecoderLayer, Encoder
from flowrank.graphs.noise import uniforms

_PLAIN_GENERATION = frozenset(  # settings that change no draw, or that every forecast sets itself
    (
        *("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache"),
        *("output_attentions", "output_hidden_states", "transformers_version"),
        *("do_sample", "temperature", "top_k", "top_p", "min_new_tokens", "max_new_tokens", "num_return_sequences"),
    )
)


class T5Engine(Engine):
    """Exact fast generation for one Chronos-T5 model, dense or compressed."""

    computed = COMPUTED

    @classmethod
    def knows(cls, model: Any) -> bool:
        """Whether it computes all that the model does; it has no rule of generation beyond those of `Sampling`."""
        config = model.generation_config
        changed = {} if config is None else config.to_diff_dict()
        return {key for key in changed if not key.startswith("_")} <= _PLAIN_GENERATION and super().knows(model)

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.model = model
        self.encoder = Encoder(model.encoder)
        self.layers = DecoderLayer.of_stack(model.decoder)
        self.read, self.written = Embedding(model.encoder.embed_tokens), Embedding(model.decoder.embed_tokens)
        first: Any = model.decoder.block[0]
        self.position = first.layer[0].SelfAttention
        start = model.generation_config.decoder_start_token_id if model.generation_config is not None else None
        self.start_token = int(model.config.decoder_start_token_id if start is None else start)
        self.head = matrices_of(model.lm_head)
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0

    @torch.inference_mode()
    def sample(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        steps: int,
        paths: int,
        sampling: Sampling,
        keys: Sequence[int],
        memory_budget: int | None = None,
        cross_cache: str = "auto",
    ) -> Tensor:
        """Draw ``paths`` continuations of every series.

        Parameters
        ----------
        tokens, mask
            Shape (series, length): token ids, and the attention mask. Every series needs one.
        steps, paths
            H and S.
        keys
            One a series (`flowrank.graphs.noise.series_keys`): its paths depend on its key and its tokens, not on its
            neighbours.
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
        everywhere = not sampling.top_k
        counts = mask[order].sum(dim=1).tolist()
        each = {count: self._bytes_a_series(count, paths, steps, everywhere) for count in set(counts)}
        costs = [each[count] for count in counts]
        for chunk in even_chunks(costs, budget_on(tokens.device, memory_budget)):
            rows = order[chunk]
            noise = torch.from_numpy(uniforms([keys[row] for row in rows.tolist()], steps, paths)).to(tokens.device)
            drawn[rows] = self._drawn(tokens[rows], mask[rows], noise, sampling, cross_cache)
        return drawn

    def _drawn(self, tokens: Tensor, mask: Tensor, noise: Tensor, sampling: Sampling, cross_cache: str) -> Tensor:
        """Decode a chunk by noise (series, steps, paths): tokens (series, paths, steps)."""
        series, steps, paths = noise.shape
        decoder = self.decoder(tokens, mask, paths=paths, steps=steps, cross_cache=cross_cache)
        start = torch.full((series,), self.start_token, device=noise.device)
        drawn = torch.empty(series, paths, steps, dtype=torch.long, device=noise.device)
        drawn[:, :, 0] = sampling.draw(decoder.first(start), noise[:, 0])
        for step in range(1, steps):
            logits = decoder.next(drawn[:, :, step - 1].reshape(-1))
            drawn[:, :, step] = sampling.draw(logits, noise[:, step].reshape(-1, 1)).view(series, paths)
        return drawn

    def decoder(self, tokens: Tensor, mask: Tensor, *, paths: int, steps: int, cross_cache: str = "auto") -> Decoder:
        """Encode series and return a decoder for ``steps`` tokens of ``paths`` paths each."""
        packed = Packed.of(mask)
        return Decoder(self, self._packed(tokens, packed), packed, paths, steps, cross_cache)

    @torch.inference_mode()
    def logits(self, tokens: Tensor, mask: Tensor, forced: Tensor) -> Tensor:
        """Logits (series, steps + 1, vocabulary) after the start and after each of the tokens (series, steps)."""
        decoder = self.decoder(tokens, mask.bool(), paths=1, steps=forced.shape[1] + 1)
        start = torch.full((len(tokens),), self.start_token, device=tokens.device)
        return torch.stack([decoder.first(start), *(decoder.next(column) for column in forced.T)], dim=1)

    @torch.inference_mode()
    def encoded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """What the encoder makes of a padded batch, (series, length, d); 0 where the mask is."""
        packed = Packed.of(mask.bool())
        found = self._packed(tokens, packed)
        padded = found.new_zeros(*tokens.shape, found.shape[1])
        padded[packed.rows, packed.positions] = found
        return padded

    def _packed(self, tokens: Tensor, packed: Packed) -> Tensor:
        return self.encoder(self.read(tokens[packed.rows, packed.positions]), packed)

    def _bytes_a_series(self, tokens: int, paths: int, steps: int, everywhere: bool) -> int:
        """Peak bytes of one series: its tokens in the encoder, or its caches and one step of its paths.

        ``everywhere``: whether tokens are drawn from the whole vocabulary, which is sorted then.
        """
        config = self.model.config
        past = sum(layer.self_attention.features for layer in self.layers if layer.self_attention is not None)
        cross = sum(layer.cross_attention.features for layer in self.layers if layer.cross_attention is not None)
        heads = max(
            (layer.cross_attention.count for layer in self.layers if layer.cross_attention is not None), default=0
        )
        widest = max(layer.feed_forward.width for layer in self.layers)
        in_encoder = tokens * self.encoder.numbers_a_token(tokens)
        a_path = steps * past + 2 * heads * max(tokens, steps) + 3 * config.d_model + widest
        in_decoder = tokens * (cross + config.d_model) + paths * a_path
        vocabulary = paths * config.vocab_size * (48 if everywhere else 12)
        return self.model.dtype.itemsize * max(in_encoder, in_decoder) + vocabulary


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
        self.cross = cross_caches(
            [layer.cross_attention for layer in engine.layers], encoded, packed, paths, cross_cache
        )
        self.past = [self._past_cache(layer.self_attention, encoded, steps) for layer in engine.layers]

    def _past_cache(self, heads: Heads | None, like: Tensor, steps: int) -> tuple[Tensor, Tensor] | None:
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
        x = self.engine.written(tokens)
        for layer, past, cross in zip(self.engine.layers, self.past, self.cross, strict=True):
            heads = layer.self_attention
            if heads is not None and past is not None:
                add_projection(x, self._attend_back(normalised(x, layer.self_norm), heads, past, paths), heads.output)
            heads = layer.cross_attention
            if heads is not None and cross is not None:
                add_projection(
                    x, self._attend_across(normalised(x, layer.cross_norm), heads, cross, paths), heads.output
                )
            layer.feed_forward.add(x)
        self.position += 1
        x = normalised(x, model.decoder.final_layer_norm)
        return project(x * self.engine.scale if self.engine.scale != 1 else x, self.engine.head)

    def _attend_back(self, x: Tensor, heads: Heads, cache: tuple[Tensor, Tensor], paths: int) -> Tensor:
        """Self-attention of one token a row over those before it: (rows, h · d_vo)."""
        now = self.position
        keys, values = cache
        query, key, value = (part.view(len(x), heads.count, -1) for part in heads.of_rows(x))
        if paths != self.paths:  # one row stands for all paths of its series
            keys.view(self.series, self.paths, *keys.shape[1:])[:, :, :, now] = key[:, None]
            values.view(self.series, self.paths, *values.shape[1:])[:, :, :, now] = value[:, None]
        else:
            keys[:, :, now] = key
            values[:, :, now] = value
        if now == 0:  # a single key has all the weight
            return value.flatten(1)
        query = query[:, :, None]
        scores = query @ keys[:, :, : now + 1].transpose(2, 3)
        scores += heads.biased(self.bias[:, :, now : now + 1, : now + 1])
        return (scores.softmax(dim=-1) @ values[:, :, : now + 1]).flatten(1)

    def _attend_across(self, x: Tensor, heads: Heads, cache: CrossCache, paths: int) -> Tensor:
        """Cross-attention of all paths of a series to what it keeps of its context: (rows, h · d_vo)."""
        query = project(x, heads.query).view(self.series, paths, heads.count, -1).transpose(1, 2)
        return cache.read(query).transpose(1, 2).reshape(len(x), -1)
