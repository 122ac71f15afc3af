"""Chronos-T5: one quantised token a point, sample paths drawn token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowrank.families.base import Family, VocabularySite, pad_left


class ChronosT5(Family):
    """View of a Chronos-T5 pipeline."""

    @property
    def embedding(self) -> nn.Module:
        """The token embedding as the encoder sees it."""
        return self.model.encoder.embed_tokens

    @property
    def vocabulary(self) -> VocabularySite:
        """Bins of values."""
        model = self.model
        config = model.config
        embedding, head = model.get_input_embeddings(), model.lm_head
        tied = getattr(embedding, "weight", None) is getattr(head, "weight", self)
        depth = config.num_layers + config.num_decoder_layers
        return VocabularySite("lm_head", depth, config.num_decoder_layers, embedding, head, tied)

    def context_tokens(self, points: int) -> int:
        """One token a point, and EOS."""
        config = self.pipeline.model.config
        return min(points, config.context_length) + int(config.use_eos_token)

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

    def run(self, contexts: Sequence[Tensor]) -> Float[Tensor, "batch horizon vocabulary"]:
        """Score the last values of the series, a third of the shortest, given those before them."""
        model = self.model
        (tokens, mask, scale), future = self._split(contexts)
        future, _, _ = self.pipeline.tokenizer._input_transform(future, scale)
        start = torch.full((len(contexts), 1), model.config.decoder_start_token_id)
        return model(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            decoder_input_ids=torch.cat([start, future[:, :-1]], dim=1).to(model.device),
            use_cache=False,
        ).logits.float()

    def seen(self, contexts: Sequence[Tensor]) -> Bool[Tensor, "batch tokens"]:
        """Values of the past that were observed, and EOS."""
        return self._split(contexts)[0][1].bool()

    def _split(self, contexts: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Tokens, mask and scale of the past, and the values of the future (B, H)."""
        batch = pad_left(contexts, torch.device("cpu"))
        horizon = max(1, min(self.pipeline.model.config.prediction_length, min(map(len, contexts)) // 3))
        return self.pipeline.tokenizer.context_input_transform(batch[:, :-horizon]), batch[:, -horizon:]
