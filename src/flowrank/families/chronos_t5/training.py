"""How Chronos-T5 models are trained: tokens in, cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from chronos import ChronosConfig
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.families._growth import grow
from flowrank.families._t5_stack.training import T5StackTraining
from flowrank.family import Objective, token_objective

SPECIAL_TOKENS = 2  # padding, end of sequence
_DRAWN = 20  # of the bins one in so many can be drawn: the 50 likeliest of 4 096 are too few (docs/pretraining.md)
_LEAST_DRAWN = 50


class T5Training(T5StackTraining):
    """Training of Chronos-T5 models."""

    key = "t5"
    agreeing = ("prediction_length", "tokenizer_class", "tokenizer_kwargs", "n_tokens", "use_eos_token")
    batch = 16
    horizons = (12, 24)
    rates = (3e-3, 5e-3)
    adamw_rate = 1e-2  # few token embeddings get a gradient at a step
    has_tokens = True
    label = "labels"

    def config(self, recipe: Any) -> PreTrainedConfig:
        """Config of the dense model of a recipe."""
        return self.t5_config(recipe, recipe.n_tokens, settings_of(recipe), "ChronosPipeline")

    @torch.no_grad()
    def initialise(self, model: PreTrainedModel, recipe: Any) -> None:
        """Shrink the token embedding, which is what forecasts are read off too."""
        model.get_parameter("shared.weight").mul_(recipe.output_scale)

    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Those of T5 stacks, and the vocabulary."""
        chronos = config.chronos_config
        tokens = {"n_tokens": chronos["n_tokens"], "use_eos_token": chronos["use_eos_token"]}
        tokens["tokenizer_limit"] = float(chronos["tokenizer_kwargs"]["high_limit"])
        return super().fields(config) | tokens

    def tensors(self, recipe: Any, context: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Tokens; a target shorter than the model's own does not end the sequence."""
        tokenizer = _tokenizer(tuple((name, getattr(recipe, name)) for name in _READ))
        input_ids, attention_mask, scale = tokenizer.context_input_transform(context)
        whole, horizon = recipe.prediction_length, target.shape[-1]
        padded = nn.functional.pad(target, (0, whole - horizon), value=torch.nan)
        labels, labels_mask = tokenizer.label_input_transform(padded, scale)
        labels = labels.masked_fill(~labels_mask, -100)
        if horizon < whole:
            labels = labels[:, :horizon].contiguous()
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

    def grow(self, model: PreTrainedModel, donor: PreTrainedModel) -> None:
        """Overwrite the weights of a model so that it computes what a smaller one does, whose bins may be coarser."""
        tokens, theirs = (one.config.vocab_size for one in (model, donor))
        if theirs > tokens:
            raise FlowrankError("grown_from", expected=f"a model with n_tokens ≤ {tokens}", found=theirs)
        grow(model, donor, vocabulary=lambda rows: between_bins(rows, tokens))

    def objective(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> Objective:
        """Divergence from the parent's tokens, and cross-entropy of the true ones."""
        return TokenObjective(parent, distillation=distillation, truth=truth)

    def translate(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Those of chronos-forecasting and of TSFM-Compression."""
        from flowrank.families.chronos_t5.training_configs import translate

        return translate(raw, defaults)

    @torch.no_grad()
    def reuse_embedding(self, model: PreTrainedModel, donor: PreTrainedModel, source: str) -> None:
        """Take the token embedding of another model."""
        layer: Any = donor.get_input_embeddings()
        theirs = layer(torch.arange(layer.num_embeddings))
        ours = model.get_input_embeddings().get_parameter("weight")
        if theirs.shape != ours.shape:
            raise FlowrankError(
                "token_embedding",
                expected=f"a model with n_tokens × d_model = {tuple(ours.shape)}",
                found=f"{source!r}, whose embedding is {tuple(theirs.shape)}",
            )
        ours.copy_(theirs)


_READ = ("context_length", "prediction_length", "n_tokens", "use_eos_token", "tokenizer_limit")


def between_bins(embedding: Float[Tensor, "n d"], tokens: int) -> Float[Tensor, "m d"]:
    """Token embedding of a finer vocabulary over the same range: between the rows of the two nearest bins.

    Special tokens, and the token that none of the bins uses, keep their rows.

    Examples
    --------
    >>> between_bins(torch.tensor([[9.0], [8.0], [7.0], [0.0], [1.0]]), 6).flatten().tolist()
    [9.0, 8.0, 7.0, 0.0, 0.5, 1.0]
    """
    special, bins = embedding[: SPECIAL_TOKENS + 1], embedding[SPECIAL_TOKENS + 1 :]
    at = torch.linspace(0, len(bins) - 1, tokens - len(special), dtype=torch.float64).to(embedding)
    below = at.floor().long().clamp(max=len(bins) - 2)
    between = torch.lerp(bins[below], bins[below + 1], (at - below)[:, None])
    return torch.cat([special, between])


class FixedFields:
    """Some fields of a recipe."""

    def __init__(self, fields: tuple[tuple[str, Any], ...]) -> None:
        vars(self).update(fields)


@cache
def _tokenizer(fields: tuple[tuple[str, Any], ...]) -> Any:
    return ChronosConfig(**settings_of(FixedFields(fields))).create_tokenizer()


def settings_of(recipe: Any) -> dict[str, Any]:
    """What chronos-forecasting keeps in the config of a Chronos-T5 model: its tokenizer and how it samples."""
    return {
        "tokenizer_class": "MeanScaleUniformBins",
        "tokenizer_kwargs": {"low_limit": -recipe.tokenizer_limit, "high_limit": recipe.tokenizer_limit},
        "context_length": recipe.context_length,
        "prediction_length": recipe.prediction_length,
        "n_tokens": recipe.n_tokens,
        "n_special_tokens": SPECIAL_TOKENS,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "use_eos_token": recipe.use_eos_token,
        "model_type": "seq2seq",
        "num_samples": 20,
        "temperature": 1.0,
        "top_k": max(_LEAST_DRAWN, recipe.n_tokens // _DRAWN),
        "top_p": 1.0,
    }


class TokenObjective:
    """Chronos-T5: Kullback-Leibler divergence from the parent's tokens, and cross-entropy of the true ones.

    Parameters
    ----------
    parent
        The model whose forecasts are the aim.
    distillation, truth
        Weights of the two terms.
    """

    def __init__(self, parent: PreTrainedModel, *, distillation: float, truth: float) -> None:
        self.parent, self.distillation, self.truth = parent, distillation, truth

    def __call__(self, child: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Loss of a batch with ``input_ids`` and ``attention_mask`` (B, L) and ``labels`` (B, H)."""
        labels = batch["labels"]
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        given["decoder_input_ids"] = child.prepare_decoder_input_ids_from_labels(labels=labels)
        with torch.no_grad():
            taught = self.parent(**given).logits
        found = child(**given).logits
        return token_objective(found, taught, labels, distillation=self.distillation, truth=self.truth)
