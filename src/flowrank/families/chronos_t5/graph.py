"""Chronos-T5 as two graphs: one encodes contexts, the other decodes one step of all paths and draws their tokens."""

from __future__ import annotations

from typing import Any

import torch
from chronos import ChronosConfig
from torch import Tensor, nn

from flowrank.engine.graphs import GraphEngine, Parts
from flowrank.engine.heads import Embedding
from flowrank.engine.sampling import Sampling
from flowrank.engine.tracing import Chain, FeedForwardGraph, Graph, Norm, QueriesKeysValues
from flowrank.errors import FlowrankError
from flowrank.families._t5_stack.engine import DecoderLayer
from flowrank.families._t5_stack.graph import EncoderGraph
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.graphs import Facts, Tokens
from flowrank.graphs.paths import HIDDEN, cache_names

_LENGTH, _ROOM = 6, 5  # of the example that is traced


class EmbeddingGraph(nn.Module):
    """Rows of a table for tokens, which a second matrix widens where there are two."""

    table: Tensor

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.register_buffer("table", embedding.codes.weight.detach().float().clone())  # type: ignore[operator]
        self.basis = Chain(embedding.basis)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (…) to (…, d)."""
        found: Tensor = self.basis(self.table[tokens])
        return found


class EncodesTokens(Graph):
    """Tokens (series, length) to keys and values of each layer's cross-attention, with heads before tokens.

    Keys have the shape (series, heads, width, length), values (series, heads, length, width).
    """

    def __init__(self, engine: T5Engine, facts: Facts) -> None:
        super().__init__()
        assert facts.tokens is not None
        self.length = facts.context_length + (facts.tokens.end is not None)
        self.names = cache_names("cross", facts.tokens.cross)
        self.embedding, self.encoder = EmbeddingGraph(engine.read), EncoderGraph(engine.encoder, self.length)
        crosses = [one.cross_attention for one in engine.layers if one.cross_attention is not None]
        self.heads = [one.count for one in crosses]
        self.keys = nn.ModuleList(Chain(one.key) for one in crosses)
        self.values = nn.ModuleList(Chain(one.value) for one in crosses)

    def output_names(self) -> list[str]:
        """Keys and values of the layers that have heads."""
        return self.names

    def example(self) -> dict[str, Any]:
        """Two series, one of them without a first value."""
        visible = torch.ones(2, _LENGTH)
        visible[1, 0] = 0
        return {"tokens": torch.arange(2 * _LENGTH).view(2, _LENGTH) % 4, "visible": visible}

    def axes(self) -> dict[str, Any]:
        """Any number of series, of any length that the model reads."""
        series = torch.export.Dim("series", min=1)
        length = torch.export.Dim("length", min=1, max=max(self.length, _LENGTH))
        return {"tokens": {0: series, 1: length}, "visible": {0: series, 1: length}}

    def forward(self, tokens: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        """Encode token ids; ``visible`` is 1 where a token stands for something, else 0."""
        x = self.encoder(self.embedding(tokens), (1.0 - visible) * HIDDEN)
        found: list[Tensor] = []
        for heads, key, value in zip(self.heads, self.keys, self.values, strict=True):
            found.append(key(x).unflatten(2, (heads, -1)).permute(0, 2, 3, 1))
            found.append(value(x).unflatten(2, (heads, -1)).transpose(1, 2))
        return tuple(found)


class StepLayer(nn.Module):
    """One layer of the decoder for one token of every path."""

    attends: bool
    crosses: bool

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        itself, cross = layer.self_attention, layer.cross_attention
        self.attends, self.crosses = itself is not None, cross is not None
        if itself is not None:
            self.active = None if itself.active is None else list(itself.active)
            self.reads, self.writes = QueriesKeysValues(itself, layer.self_norm), Chain(itself.output)
        if cross is not None:
            self.heads = cross.count
            self.asks, self.answers = Chain(cross.query, layer.cross_norm), Chain(cross.output)
        self.feed_forward = FeedForwardGraph(layer.feed_forward)

    def back(self, x: Tensor, bias: Tensor, now: Tensor, past: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to what came before, keys and values (B, S, h, room, width), and to the token itself.

        ``bias`` (h, 1, room) and ``now`` (h, 1, 1) are added to their scores.
        Gives tokens (B, S, d), and the new key and value of each (B, S, h, 1, width).
        """
        if self.active is not None:
            bias, now = bias[self.active], now[self.active]
        rows = self.reads.each(self.reads.norm(x))
        query, key, value = (part.reshape(*x.shape[:2], self.reads.heads, 1, -1) for part in rows)
        before = query @ past[0].transpose(3, 4) + bias
        weights = torch.cat([before, (query * key).sum(-1, keepdim=True) + now], -1).softmax(-1)
        read = weights[..., :-1] @ past[1] + weights[..., -1:] * value
        return x + self.writes(read.reshape(*x.shape[:2], -1)), key, value

    def across(self, x: Tensor, cross: list[Tensor], mask: Tensor) -> Tensor:
        """Attend to the context; ``mask`` (B, 1, 1, L) is added to the scores of its tokens."""
        query = self.asks(x).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
        read = (query @ cross[0] + mask).softmax(-1) @ cross[1]
        return x + self.answers(read.transpose(1, 2).reshape(*x.shape[:2], -1))


class Step(Graph):
    """The last tokens of all paths, and what came before, to the next ones.

    Outputs are the tokens drawn (series, paths), the sum of each row of logits, which is finite if they are, the logits
    (series, rows, vocabulary), and the new keys and values of each layer's self-attention.
    """

    bias: Tensor
    allowed: Tensor

    def __init__(self, engine: T5Engine, facts: Facts) -> None:
        super().__init__()
        assert facts.tokens is not None
        self.facts_of_tokens, self.steps = facts.tokens, facts.horizon
        self.length = facts.context_length + (facts.tokens.end is not None)
        self.pasts, self.names = cache_names("past", facts.tokens.past), cache_names("cross", facts.tokens.cross)
        self.embedding = EmbeddingGraph(engine.written)
        bias = engine.position.compute_bias(self.steps, self.steps).detach().float()[0, :, -1].flip(1)
        self.register_buffer("bias", bias.contiguous())  # (h, distance)
        self.layers: Any = nn.ModuleList(map(StepLayer, engine.layers))
        self.norm, self.head = Norm(engine.model.decoder.final_layer_norm), Chain(engine.head)
        self.scale = engine.scale
        allowed = torch.ones(facts.tokens.count, dtype=torch.bool)
        forbidden = engine.model.config.chronos_config["eos_token_id"]
        if forbidden is not None:
            allowed[forbidden] = False
        self.register_buffer("allowed", allowed)

    def input_names(self) -> list[str]:
        """Of all inputs, in the order of `forward`."""
        plain = ("tokens", "position", "noise", "rows", "temperature", "ranks", "outside", "mask")
        return [*plain, *self.pasts, *self.names]

    def output_names(self) -> list[str]:
        """Of all outputs, in the order of `forward`."""
        return ["drawn", "total", "logits", *(f"new_{name}" for name in self.pasts)]

    def example(self) -> dict[str, Any]:
        """Two series of three paths, at the fourth step."""
        told = self.facts_of_tokens
        past, cross = [], []
        for heads, *widths in told.past:
            past += [torch.zeros(2, 3, heads, _ROOM, width) for width in widths if heads]
        for heads, of_keys, of_values in told.cross:
            if heads:
                cross += [torch.zeros(2, heads, of_keys, _LENGTH), torch.zeros(2, heads, _LENGTH, of_values)]
        return {
            "tokens": torch.zeros(2, 3, dtype=torch.long),
            "position": torch.tensor(3),
            "noise": torch.full((2, 4), 0.5),
            "rows": torch.tensor([0, 1, 2, 0]),
            "temperature": torch.tensor(1.0),
            "ranks": torch.arange(7),
            "outside": torch.tensor(-1.0),
            "mask": torch.zeros(2, _LENGTH),
            "past": past,
            "cross": cross,
        }

    def axes(self) -> dict[str, Any]:
        """Any number of series, paths, tokens of a context, room for keys and values, and tokens to draw from."""
        told = self.facts_of_tokens
        series, paths, draws = (torch.export.Dim(name, min=1) for name in ("series", "paths", "draws"))
        length = torch.export.Dim("length", min=1, max=max(self.length, _LENGTH))
        room = torch.export.Dim("room", min=1, max=max(self.steps, _ROOM) + 1)
        kept = torch.export.Dim("kept", min=1, max=told.count)
        nothing: dict[int, Any] = {}
        return {
            "tokens": {0: series, 1: paths},
            "position": nothing,
            "noise": {0: series, 1: draws},
            "rows": {0: draws},
            "temperature": nothing,
            "ranks": {0: kept},
            "outside": nothing,
            "mask": {0: series, 1: length},
            "past": [{0: series, 1: paths, 3: room} for _ in self.pasts],
            "cross": [{0: series, axis: length} for axis in (3, 2) * (len(self.names) // 2)],
        }

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        noise: Tensor,
        rows: Tensor,
        temperature: Tensor,
        ranks: Tensor,
        outside: Tensor,
        mask: Tensor,
        past: list[Tensor],
        cross: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Decode one step.

        Parameters
        ----------
        tokens
            Shape (series, paths): the last token of each path.
        position
            How many tokens came before.
        noise, rows
            Shape (series, draws), in [0, 1), and (draws,): from which path's logits each is drawn.
        temperature, ranks, outside
            How: ``ranks`` counts from 0 up to the tokens that are kept; of those, tokens go that lie, with all that are
            less likely, within a mass of ``outside``.
        mask
            Shape (series, length): what is added to the scores of the context's tokens.
        past, cross
            Keys and values of self-attention (series, paths, heads, room, width), and those of `EncodesTokens`.
        """
        x = self.embedding(tokens)
        made: list[Tensor] = []
        now, bias = self.bias[:, :1, None], self.bias[:, :0, None]
        if past:
            places = torch.arange(past[0].shape[3])
            bias = self.bias[:, (position - places).clamp(min=0, max=self.steps - 1)]
            bias = (bias + torch.where(places < position, 0.0, HIDDEN))[:, None]
        pasts, crosses = iter(past), iter(cross)
        for layer in self.layers:
            if layer.attends:
                x, key, value = layer.back(x, bias, now, [next(pasts), next(pasts)])
                made += [key, value]
            if layer.crosses:
                x = layer.across(x, [next(crosses), next(crosses)], mask[:, None, None])
            x = layer.feed_forward(x)
        logits = self.head(self.norm(x) * self.scale)
        scores = torch.where(self.allowed, logits, -torch.inf) / temperature
        drawn = self._drawn(scores, noise, rows, ranks, outside)
        return (drawn, logits.sum(-1), logits, *made)

    @staticmethod
    def _drawn(scores: Tensor, noise: Tensor, rows: Tensor, ranks: Tensor, outside: Tensor) -> Tensor:
        """Tokens by inverting the distribution function, which runs over tokens in the order of their values."""
        values, places = scores.topk(ranks.shape[0], dim=-1)
        tail = values.softmax(-1).flip(-1).cumsum(-1).flip(-1)  # the mass of a token and all that are less likely
        values = torch.where((tail > outside) | (ranks == 0), values, -torch.inf)
        places, order = places.sort(dim=-1)
        mass = values.gather(-1, order).softmax(-1).cumsum(-1)
        mass, places = mass[:, rows], places[:, rows]  # (series, draws, kept)
        below = (mass <= noise[..., None] * mass[..., -1:]).sum(-1, keepdim=True)
        return places.gather(-1, below.clamp(max=ranks.shape[0] - 1)).squeeze(-1)


class T5GraphEngine(GraphEngine):
    """Sample paths of a Chronos-T5 model by a graph runtime."""

    @classmethod
    def traced(cls, model: Any) -> Parts:
        """The graphs of a Chronos-T5 model, dense or compressed.

        Raises
        ------
        FlowrankError
            If its tokens are not bins of the mean magnitude.
        """
        engine, config = T5Engine(model), ChronosConfig(**model.config.chronos_config)
        if config.tokenizer_class != "MeanScaleUniformBins":
            raise FlowrankError(
                "model",
                expected="tokens of the class MeanScaleUniformBins, for a graph",
                found=config.tokenizer_class,
                todo='use engine="exact"',
            )
        bins: Any = config.tokenizer_kwargs
        tokens = Tokens(
            low=float(bins["low_limit"]),
            high=float(bins["high_limit"]),
            count=int(engine.head[-1].shape[0]),
            special=config.n_special_tokens,
            pad=config.pad_token_id,
            end=config.eos_token_id if config.use_eos_token else None,
            start=engine.start_token,
            samples=config.num_samples,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            past=_widths(engine, "self_attention"),
            cross=_widths(engine, "cross_attention"),
        )
        encoder = engine.encoder
        heads = max((one.count for _, one, _ in encoder.layers if one is not None), default=0)
        numbers = (encoder.numbers_a_token(0) + max(one.width for _, _, one in encoder.layers), 3 * heads)
        facts = Facts("paths", 1, config.context_length, config.prediction_length, (), numbers, tokens=tokens)
        return Parts({"encoder": EncodesTokens(engine, facts), "step": Step(engine, facts)}, facts)

    def sample(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        steps: int,
        paths: int,
        sampling: Sampling,
        keys: list[int],
        memory_budget: int | None = None,
        cross_cache: str = "keys",
    ) -> Tensor:
        """Draw ``paths`` continuations of every series, as `T5Engine.sample`; keys and values are always kept."""
        del cross_cache
        drawn = self.driver.sample(
            tokens.numpy(),
            mask.bool().numpy(),
            steps=steps,
            paths=paths,
            draws=sampling,
            keys=keys,
            memory_budget=memory_budget,
        )
        return torch.from_numpy(drawn)


def _widths(engine: T5Engine, kind: str) -> tuple[tuple[int, int, int], ...]:
    """Heads of each decoder layer and their widths; zeros where none is left."""
    each = (getattr(layer, kind) for layer in engine.layers)
    return tuple((0, 0, 0) if one is None else (one.count, one.d_qk, one.d_vo) for one in each)
