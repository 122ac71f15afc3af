"""Chronos-T5's language model with layers of their own widths, and a vocabulary that may be two factors."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from flowrank.families._t5_stack.config import NarrowT5Config
from flowrank.families._t5_stack.model import NarrowT5Model
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear, draw, linear
from flowrank.nn.narrowed import is_real

EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


@strict
class NarrowChronosT5Config(NarrowT5Config):
    """Config of a `NarrowChronosT5`."""

    model_type = "flowrank_chronos_t5"
    family = "chronos-t5"


class NarrowChronosT5(NarrowT5Model, T5ForConditionalGeneration):
    """Chronos-T5's language model with layers of their own widths."""

    config_class = NarrowChronosT5Config

    def narrow_vocabulary(self, ranks: dict[str, int]) -> None:
        """Replace the embedding and the head, by factored ones where a rank is given; they share nothing then."""
        config = self.config
        lm_head = linear(config.d_model, config.vocab_size, ranks.get("head"))
        rank = ranks.get("embedding")
        if rank is not None:
            shared = FactoredEmbedding(config.vocab_size, config.d_model, rank)
            if is_real(shared):
                draw(shared, config.initializer_factor)
            for name in EMBEDDINGS:
                self._swap(name, shared)
        if is_real(lm_head):
            draw(lm_head, config.initializer_factor)
        self._swap("lm_head", lm_head)
        weights = ("weight",) if rank is None else ("codes.weight", "basis.weight")
        self._tied_weights_keys = {
            f"{one}.{weight}": f"shared.{weight}" for one in EMBEDDINGS[1:] for weight in weights
        }

    def _init_weights(self, module: nn.Module) -> None:
        factored = isinstance(self.shared, FactoredEmbedding) or isinstance(self.lm_head, FactoredLinear)
        if module is not self or not factored:
            super()._init_weights(module)


for _auto in (AutoModel, AutoModelForSeq2SeqLM):
    _auto.register(NarrowChronosT5Config, NarrowChronosT5)
