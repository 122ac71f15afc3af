"""What training of models made of T5 stacks has in common."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, T5Config

from flowrank.families._growth import grow
from flowrank.family import Training

_SHAPE = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers")


class T5StackTraining(Training):
    """Training of models made of T5 stacks."""

    def t5_config(self, recipe: Any, vocabulary: int, chronos: dict[str, Any], pipeline: str) -> PreTrainedConfig:
        """T5's config of a recipe."""
        t5: Any = T5Config
        config = t5(
            d_model=recipe.d_model,
            d_kv=recipe.d_kv,
            d_ff=recipe.d_ff,
            num_heads=recipe.num_heads,
            num_layers=recipe.num_layers,
            num_decoder_layers=recipe.decoder_layers,
            relative_attention_num_buckets=recipe.relative_attention_num_buckets,
            relative_attention_max_distance=recipe.relative_attention_max_distance,
            dropout_rate=recipe.dropout_rate,
            initializer_factor=recipe.initializer_factor,
            vocab_size=vocabulary,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
        config.chronos_config = chronos
        config.chronos_pipeline_class = pipeline
        return config

    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Widths, layers, dropout, and lengths of context and horizon."""
        given: Any = config
        lengths = {name: int(given.chronos_config[name]) for name in ("context_length", "prediction_length")}
        shape = {name: int(getattr(given, name)) for name in _SHAPE}
        return {**lengths, **shape, "dropout_rate": float(given.dropout_rate)}

    def grow(self, model: PreTrainedModel, donor: PreTrainedModel) -> None:
        """Overwrite the weights of a model so that it computes what a narrower one does."""
        grow(model, donor)
