"""Chronos-T5: one quantised token a point, sample paths drawn token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from flowrank.anatomy import Anatomy, Ends, Vocabulary
from flowrank.cost import Pass, Workload
from flowrank.families._t5_stack.anatomy import t5_blocks
from flowrank.families._t5_stack.family import T5StackFamily
from flowrank.families.chronos_t5.cost import passes
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.families.chronos_t5.model import EMBEDDINGS, NarrowChronosT5, NarrowChronosT5Config
from flowrank.families.chronos_t5.pipeline import FlowrankT5Pipeline
from flowrank.families.chronos_t5.training import T5Training
from flowrank.family import pad_left
from flowrank.nn.shapes import KEY


class ChronosT5(T5StackFamily):
    """View of a Chronos-T5 pipeline."""

    name = "chronos-t5"
    config_class = NarrowChronosT5Config
    stock_config_class = T5Config
    pipeline_class = FlowrankT5Pipeline
    engine_class = T5Engine
    training = T5Training()

    @classmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether it is a T5 that its config says is a Chronos."""
        return isinstance(model, T5ForConditionalGeneration) and hasattr(model.config, "chronos_config")

    @classmethod
    def owns(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a config is of a Chronos-T5 model: T5's, with the settings of a tokenizer."""
        chronos = raw.get("chronos_config")
        plain = isinstance(chronos, Mapping) and chronos.get("model_type") == "seq2seq"
        known = raw.get("chronos_pipeline_class", "ChronosPipeline") in ("ChronosPipeline", "FlowrankT5Pipeline")
        named = isinstance(raw.get(KEY), Mapping) and "family" in raw[KEY]
        return super().owns(raw) or (plain and known and not named and raw.get("model_type") in cls.model_types)

    @classmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of a Chronos-T5 model."""
        blocks = t5_blocks(model)
        layers = Anatomy(blocks)
        embedding, head = model.get_submodule(EMBEDDINGS[0]), model.get_submodule("lm_head")
        tied = getattr(embedding, "weight", None) is getattr(head, "weight", model)
        decoder = layers.layers("decoder")
        depth = layers.layers("encoder") + decoder
        vocabulary = Vocabulary("lm_head", EMBEDDINGS, depth, decoder, embedding, head, tied)
        return Anatomy(blocks, Ends(vocabulary=vocabulary))

    @classmethod
    def model_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The stock class where no layer has a width of its own."""
        return NarrowChronosT5 if isinstance(config, NarrowChronosT5Config) else T5ForConditionalGeneration

    @classmethod
    def pipeline_of(cls, model: PreTrainedModel) -> FlowrankT5Pipeline:
        """Pipeline for a model in memory, with the tokenizer that its config names."""
        return FlowrankT5Pipeline.around(model)

    @classmethod
    def passes(
        cls, config: PreTrainedConfig, workload: Workload, *, exact: bool, itemsize: int, cross_cache: str = "auto"
    ) -> Iterator[Pass]:
        """What a forecast of sample paths passes through."""
        return passes(config, workload, exact=exact, itemsize=itemsize, cross_cache=cross_cache)

    @property
    def input_step(self) -> float | None:
        """The distance of two bins."""
        centers = getattr(self.pipeline.tokenizer, "centers", None)
        return None if centers is None else float(centers[1] - centers[0])

    @property
    def sample_paths(self) -> int:
        """As the model's config says."""
        return int(self.pipeline.model.config.num_samples)

    def sources(self) -> list[nn.Module]:
        """The token embedding, as the encoder and as the decoder see it."""
        return [self.model.encoder.embed_tokens, self.model.decoder.embed_tokens]

    def context_tokens(self, points: int) -> int:
        """One token a point, and EOS."""
        config = self.pipeline.model.config
        return min(points, config.context_length) + int(config.use_eos_token)

    def decoder_tokens(self, points: int) -> int:
        """The values that `run` scores."""
        return max(1, min(int(self.pipeline.model.config.prediction_length), points // 3))

    def probe(self, contexts: Sequence[Tensor], generator: torch.Generator) -> Float[Tensor, ""]:
        """Negative log-likelihood of tokens drawn from the model's own forecast, given the true past tokens.

        The gradient's second moment is then the Fisher information, which is the curvature of the divergence between
        the parent's and the child's forecast.
        """
        logits = self.run(contexts)
        horizon = logits.shape[1]
        with torch.no_grad():
            noise = torch.rand(logits.shape, generator=generator).clamp_min(1e-20).to(logits.device)
            drawn = (logits - (-noise.log()).log()).argmax(dim=-1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="sum")
        return loss / horizon**0.5

    def run(
        self, contexts: Sequence[Tensor], encoded: Float[Tensor, "batch tokens d"] | None = None
    ) -> Float[Tensor, "batch horizon vocabulary"]:
        """Score the last values of the series, a third of the shortest, given those before them."""
        past, future = self._split(contexts)
        return self._scored(past, future, encoded)

    @torch.inference_mode()
    def step_quantiles(
        self, contexts: Sequence[Tensor], futures: Float[Tensor, "batch horizon"], levels: Sequence[float]
    ) -> Float[Tensor, "batch horizon levels"]:
        """Quantiles of every next token, given the true values before it; within a bin values are spread evenly."""
        batch = pad_left(contexts, torch.device("cpu"))
        tokens, mask, scale = self.pipeline.tokenizer.context_input_transform(batch)
        engine = self.pipeline.inference.engine_for(self.model)
        encoded = None if engine is None else engine.encoded(tokens.to(self.model.device), mask.to(self.model.device))
        logits = self._scored((tokens, mask, scale), futures, encoded)
        scores, drawable = self.pipeline.sampling().candidates(logits.flatten(0, 1))
        chances = scores.double().softmax(dim=1)
        reached = chances.cumsum(dim=1)
        asked = torch.as_tensor(levels, dtype=torch.float64, device=reached.device).expand(len(reached), -1)
        place = torch.searchsorted(reached, asked.contiguous()).clamp_(max=reached.shape[1] - 1)
        chance = chances.gather(1, place)
        share = (asked - reached.gather(1, place) + chance) / chance.clamp_min(1e-300)
        chosen = (place if drawable is None else drawable.gather(1, place)).cpu()
        centres = self.pipeline.tokenizer.output_transform(chosen[None], torch.ones(1))[0].double()
        values = centres + (share.cpu().clamp(0, 1) - 0.5) * (self.input_step or 0.0)
        return values.unflatten(0, (len(contexts), -1)) * scale[:, None, None]

    def _scored(
        self, past: tuple[Tensor, Tensor, Tensor], future: Tensor, encoded: Tensor | None
    ) -> Float[Tensor, "batch horizon vocabulary"]:
        """Logits of every value of the future (B, H), given the past and the values before it."""
        model = self.model
        tokens, mask, scale = past
        following, _, _ = self.pipeline.tokenizer._input_transform(future, scale)
        start = torch.full((len(tokens), 1), model.config.decoder_start_token_id)
        given = {"input_ids": tokens.to(model.device)} if encoded is None else {}
        return model(
            **given,
            encoder_outputs=None if encoded is None else BaseModelOutput(last_hidden_state=encoded),
            attention_mask=mask.to(model.device),
            decoder_input_ids=torch.cat([start, following[:, :-1]], dim=1).to(model.device),
            use_cache=False,
        ).logits.float()

    def attention_mask(self, contexts: Sequence[Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Values of the past that were observed, and EOS."""
        return self._split(contexts)[0][1].bool()

    def _split(self, contexts: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Tokens, mask and scale of the past, and the values of the future (B, H)."""
        batch = pad_left(contexts, torch.device("cpu"))
        horizon = self.decoder_tokens(min(map(len, contexts)))
        return self.pipeline.tokenizer.context_input_transform(batch[:, :-horizon]), batch[:, -horizon:]
