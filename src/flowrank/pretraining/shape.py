"""What is trained: the shape of the model, and the weights that training starts with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError, is_number
from flowrank.families import TRAINED
from flowrank.family import SIZES, training_keys, training_of
from flowrank.pretraining.checks import check, counts, one_of, positive, shares
from flowrank.pretraining.schedule import Schedule, Widths


@dataclass(frozen=True)
class ModelShape:
    """Architecture of the model, and how its random weights are drawn.

    Attributes
    ----------
    family
        ``"bolt"`` (patches, quantile loss), ``"t5"`` (tokens, cross-entropy) or ``"chronos2"`` (patches, quantile
        loss, groups of series and covariates).
    d_model, d_kv, d_ff, num_heads
        Width of the model; width of each attention head; width of the feed-forward layers; attention heads.
    num_layers, num_decoder_layers
        Encoder layers; decoder layers (not given: as many as encoder layers).
    relative_attention_num_buckets, relative_attention_max_distance, dropout_rate
        Groups of distances that the position bias distinguishes; distance from which on it treats all alike; dropout.
    context_length, prediction_length
        Largest number of past values that the model reads; number of values that it forecasts at once.
    input_patch_size, quantiles
        Bolt, Chronos-2: values in one patch; quantile levels that it forecasts (not given: nine from 0.1 to 0.9, or
        21 from 0.01 to 0.99 for Chronos-2).
    n_tokens, use_eos_token
        T5: size of the vocabulary, with the two special tokens; whether sequences end with an end-of-sequence token.
    tokenizer_limit
        T5: the bins cover ± this many mean absolute values.
    initializer_factor, output_scale
        Scale of the initial weights as in T5; scale of the initial output weights (T5: token embedding, others: output
        block), times initializer_factor.
    patch_spread
        Bolt, Chronos-2: standard deviation of the initial weights of its patch blocks (Chronos-2: of the one that reads
        patches), times ``initializer_factor``.
        With the class's own, smaller ones, seasons are learnt much later (docs/pretraining.md).
    schedule
        Head width of every attention layer: `FlowOfRanks`, `Uniform`, `Widths`, or None for ``d_kv`` everywhere.

    Raises
    ------
    FlowrankError
        If a value is not what it says here.

    Examples
    --------
    >>> ModelShape(num_layers=6).decoder_layers
    6
    """

    family: str = TRAINED[0]
    d_model: int = 256
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 4
    num_layers: int = 4
    num_decoder_layers: int | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.0
    context_length: int = 512
    prediction_length: int = 64
    input_patch_size: int = 16
    quantiles: tuple[float, ...] | None = None
    n_tokens: int = 4096
    use_eos_token: bool = True
    tokenizer_limit: float = 15.0
    initializer_factor: float = 1.0
    output_scale: float = 0.1
    patch_spread: float = 1.0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        one_of(self, "family", training_keys())
        counts(self, "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "context_length", "prediction_length")
        counts(self, "relative_attention_num_buckets", "relative_attention_max_distance", "input_patch_size")
        if self.num_decoder_layers is not None:
            counts(self, "num_decoder_layers")
        shares(self, "dropout_rate")
        positive(self, "initializer_factor", "output_scale", "patch_spread", "tokenizer_limit")
        check(self, "n_tokens", "a whole number ≥ 8", type(self.n_tokens) is int and self.n_tokens >= 8)
        if self.quantiles is None:
            object.__setattr__(self, "quantiles", training_of(self.family).levels)
        check(self, "quantiles", "rising levels between 0 and 1", _rises_within_1(self.quantiles))
        known = self.schedule is None or isinstance(self.schedule, FlowOfRanks | Uniform | Widths)
        check(self, "schedule", "FlowOfRanks, Uniform, Widths or None", known)

    @classmethod
    def of_size(cls, size: str, **changes: Any) -> ModelShape:
        """Give the shape of a published size, with other fields changed.

        Raises
        ------
        FlowrankError
            If there is no such size, or a value is not what the class says.

        Examples
        --------
        >>> ModelShape.of_size("small", family="t5").num_layers
        6
        """
        if size not in SIZES:
            raise FlowrankError("size", expected=f"one of {', '.join(SIZES)}", found=repr(size))
        return cls(**{**SIZES[size], **changes})

    @property
    def decoder_layers(self) -> int:
        """Decoder layers, as many as in the encoder unless said."""
        return self.num_decoder_layers or self.num_layers


def _rises_within_1(levels: tuple[float, ...] | None) -> bool:
    """Whether there are levels, each greater than the one before it, between 0 and 1."""
    if not levels or not all(is_number(level, 1e-9, 1 - 1e-9) for level in levels):
        return False
    return list(levels) == sorted(set(levels))


@dataclass(frozen=True)
class Start:
    """Weights of other models that training starts with; without any, all weights are random.

    Attributes
    ----------
    initial_model
        Model to train further: its architecture and weights replace those described by the other settings.
    grown_from
        Smaller dense model with as many heads, layers and values in a patch: the new, wider model starts with its
        forecasts (docs/pretraining.md). A Chronos-2 takes what fits of the encoder of a Chronos-Bolt instead.
    token_embedding, freeze_token_embedding
        T5: model whose token embedding is copied; whether the token embedding stays fixed.

    Raises
    ------
    FlowrankError
        If more than one model is named.

    Examples
    --------
    >>> Start(grown_from="seed-bolt").initial_model is None
    True
    """

    initial_model: str | None = None
    grown_from: str | None = None
    token_embedding: str | None = None
    freeze_token_embedding: bool = False

    def __post_init__(self) -> None:
        names = ("initial_model", "grown_from", "token_embedding")
        given = [name for name in names if getattr(self, name) is not None]
        check(self, (given or names)[-1], f"one of {', '.join(names)}", len(given) < 2)
