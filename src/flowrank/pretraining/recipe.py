"""Everything that decides a training run, as one value that a YAML file or the command line fills."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError, check_count
from flowrank.pretraining.schedule import Schedule, Widths, schedule_from, schedule_to
from flowrank.synthetic.mixture import SHARES, Mixture

_RATE_BESIDE_MUON = {"bolt": 2e-3, "t5": 1e-2}  # few of T5's token embeddings get a gradient at a step
BOLT_QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Recipe:
    """Model, data and optimisation of one training run.

    Where chronos-forecasting's training configs have a key for it, the name here is theirs.

    Attributes
    ----------
    family
        ``"bolt"`` (patches, quantile loss) or ``"t5"`` (tokens, cross-entropy).
    d_model, d_kv, d_ff, num_heads
        Width; head width; feed-forward width; heads.
    num_layers, num_decoder_layers
        Encoder layers; decoder layers (None: as many).
    relative_attention_num_buckets, relative_attention_max_distance, dropout_rate
        Buckets of distances that T5's position bias tells apart; distance beyond which it tells none apart; dropout.
    context_length, prediction_length
        Values that the model sees at most; values that it forecasts at once.
    input_patch_size, quantiles
        Bolt: values a token; the levels it forecasts.
    n_tokens, use_eos_token
        T5: size of the vocabulary, with the two special tokens; whether sequences end with one.
    tokenizer_limit
        T5: the bins span ± this many mean absolute values.
    initializer_factor, output_scale
        Scale of the initial weights as in T5; that of Bolt's output block, or of T5's token embedding (its output
        too), times the former.
    patch_spread
        Bolt: standard deviation of the initial weights of its patch blocks, times ``initializer_factor``. With
        the class's own, smaller ones, seasons are learnt much later (docs/pretraining.md).
    schedule
        Head width of every attention layer: `FlowOfRanks`, `Uniform`, `Widths`, or None for ``d_kv`` everywhere.
    initial_model
        Model to start from: its architecture and weights, in place of those keys here; None starts from random weights.
    grown_from
        Narrower dense model of the same heads, layers and patches: training starts with its forecasts, see
        `flowrank.pretraining.growth.grow`.
    token_embedding, freeze_token_embedding
        T5: model whose token embedding is reused; whether the embedding is kept as it is.
    training_data_paths, probability
        Files of real series; the share of the series drawn from each, the rest being synthetic. No path: synthetic
        series only. No share: equal ones, and nothing synthetic. The tsmixup share of them is mixed with one another.
    shares
        Share of each synthetic family, see `Mixture`.
    easy_share, easy_steps
        Curriculum: this share of the synthetic series is one clean season at first, but no less than the mixture's
        own, to which it falls linearly at this step.
    lengths
        Context lengths; each batch has one of them, drawn in proportion to ``1 / length ** length_exponent``.
    length_exponent
        0: every length as often; 1: every length as many values.
    horizons
        Target lengths; each batch has one of them, all as often. None given: ``prediction_length``. Short ones make a
        T5 look at its context instead of at the target so far (docs/pretraining.md).
    max_missing_prop
        Series with a greater share of missing values are not used.
    max_steps, minutes
        Steps, after which training ends; minutes over all runs of it, likewise. What comes first counts; one may be
        None.
    per_device_train_batch_size, gradient_accumulation_steps
        Series in one forward pass; passes a step.
    optim
        ``"muon"`` (torch.optim.Muon for the block matrices, AdamW for the rest) or ``"adamw"``.
    learning_rate, muon_learning_rate, weight_decay, max_grad_norm
        Peak rates: of AdamW (None: 0.01 for what Muon leaves of a T5, 0.002 for that of a Bolt, 0.001 for whole
        models), and of Muon; decoupled weight decay; norm that gradients are clipped to.
    lr_scheduler_type
        ``"wsd"`` (warm up, stay, fall linearly to 0 at the end), ``"linear"``, ``"cosine"`` or ``"constant"``, over
        the share of steps or of minutes that is used up.
    warmup_ratio, cooldown_ratio
        Share of the steps in which rates rise; share in which those of wsd fall.
    precision
        ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 where the device computes in it natively.
    torch_compile
        Compile the model.
    dataloader_num_workers
        Processes that make series; 0 makes them in the training process.
    seed
        Of weights and data.
    save_steps, log_steps, eval_steps, eval_series
        Steps between checkpoints; between log lines; between validations; synthetic series held out for validation, in
        whole batches of 64.

    Raises
    ------
    FlowrankError
        If a value is not what it says here.

    Examples
    --------
    >>> recipe = Recipe(d_model=64, d_kv=16, schedule=FlowOfRanks(d0=3, alpha=0.4), max_steps=100)
    >>> Recipe.from_dict(recipe.to_dict()) == recipe
    True
    """

    family: Literal["bolt", "t5"] = "bolt"
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
    quantiles: tuple[float, ...] = BOLT_QUANTILES
    n_tokens: int = 4096
    use_eos_token: bool = True
    tokenizer_limit: float = 15.0
    initializer_factor: float = 1.0
    output_scale: float = 0.1
    patch_spread: float = 1.0
    schedule: Schedule | None = None
    initial_model: str | None = None
    grown_from: str | None = None
    token_embedding: str | None = None
    freeze_token_embedding: bool = False
    training_data_paths: tuple[str, ...] = ()
    probability: tuple[float, ...] = ()
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    easy_share: float = 0.6
    easy_steps: int = 4000
    lengths: tuple[int, ...] = (32, 64, 96, 128, 192, 256, 384, 512)
    length_exponent: float = 0.25
    horizons: tuple[int, ...] = ()
    max_missing_prop: float = 0.9
    max_steps: int | None = None
    minutes: float | None = None
    per_device_train_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    optim: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = None
    muon_learning_rate: float = 4e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: Literal["wsd", "linear", "cosine", "constant"] = "wsd"
    warmup_ratio: float = 0.01
    cooldown_ratio: float = 0.3
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    torch_compile: bool = False
    dataloader_num_workers: int = 0
    seed: int = 0
    save_steps: int = 500
    log_steps: int = 50
    eval_steps: int = 1000
    eval_series: int = 512

    def __post_init__(self) -> None:
        for name in (
            *("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "context_length", "prediction_length"),
            *("input_patch_size", "per_device_train_batch_size", "gradient_accumulation_steps"),
            *("relative_attention_num_buckets", "relative_attention_max_distance", "eval_series"),
            *("save_steps", "log_steps", "eval_steps"),
        ):
            check_count(getattr(self, name), name)
        for name in ("easy_steps", "dataloader_num_workers", "seed"):
            check_count(getattr(self, name), name, 0)
        for name in ("num_decoder_layers", "max_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        for name, options in (
            ("family", ("bolt", "t5")),
            ("optim", ("muon", "adamw")),
            ("lr_scheduler_type", ("wsd", "linear", "cosine", "constant")),
            ("precision", ("auto", "float32", "bfloat16")),
        ):
            _check(self, name, f"one of {options}", getattr(self, name) in options)
        for name in ("easy_share", "max_missing_prop", "warmup_ratio", "cooldown_ratio", "dropout_rate"):
            _check(self, name, "a number between 0 and 1", _is_number(getattr(self, name), 0, 1))
        for name in (
            *(
                "muon_learning_rate",
                "initializer_factor",
                "output_scale",
                "patch_spread",
                "max_grad_norm",
            ),
            "tokenizer_limit",
        ):
            _check(self, name, "a positive number", _is_number(getattr(self, name), 1e-30))
        for name in ("weight_decay", "length_exponent"):
            _check(self, name, "a number ≥ 0", _is_number(getattr(self, name), 0))
        for name in ("minutes", "learning_rate"):
            value = getattr(self, name)
            _check(self, name, "a positive number", value is None or _is_number(value, 1e-30))
        _check(self, "max_steps", "a number of steps, of minutes, or both", bool(self.max_steps or self.minutes))
        sound = bool(self.lengths) and all(type(n) is int and 4 <= n <= self.context_length for n in self.lengths)
        _check(self, "lengths", f"context lengths from 4 to context_length={self.context_length}", sound)
        sound = all(type(n) is int and 1 <= n <= self.prediction_length for n in self.horizons)
        _check(self, "horizons", f"target lengths from 1 to prediction_length={self.prediction_length}", sound)
        shares = all(_is_number(p, 0, 1) for p in self.probability) and sum(self.probability) <= 1 + 1e-9
        sound = shares and len(self.probability) in (0, len(self.training_data_paths))
        _check(self, "probability", "for each of training_data_paths a share, 1 at most in all", sound)
        _check(self, "n_tokens", "a whole number ≥ 8", type(self.n_tokens) is int and self.n_tokens >= 8)
        known = isinstance(self.schedule, FlowOfRanks | Uniform | Widths) or self.schedule is None
        _check(self, "schedule", "FlowOfRanks, Uniform, Widths or None", known)
        tokens = self.family == "t5" or self.initial_model is not None
        frozen = self.freeze_token_embedding or self.token_embedding is not None
        _check(self, "token_embedding", "nothing for Bolt, which has no tokens", tokens or not frozen)
        starts = ("initial_model", "grown_from", "token_embedding")
        given = [name for name in starts if getattr(self, name) is not None]
        _check(self, (given or starts)[-1], f"one of {', '.join(starts)}", len(given) < 2)
        random = self.initial_model is None and self.grown_from is None
        _check(self, "schedule", "none for a start from another model", random or self.schedule is None)
        levels = bool(self.quantiles) and all(_is_number(q, 1e-9, 1 - 1e-9) for q in self.quantiles)
        rising = list(self.quantiles) == sorted(set(self.quantiles))
        _check(self, "quantiles", "rising levels between 0 and 1", levels and rising)
        _check(self, "seed", "a whole number below 2^32", self.seed < 2**32)
        Mixture(self.shares)

    @property
    def decoder_layers(self) -> int:
        """Decoder layers, as many as in the encoder unless said."""
        return self.num_decoder_layers or self.num_layers

    @property
    def adamw_learning_rate(self) -> float:
        """Peak rate of AdamW: as given, or what suits the parameters that it gets.

        Examples
        --------
        >>> [Recipe(family=family, max_steps=1).adamw_learning_rate for family in ("bolt", "t5")]
        [0.002, 0.01]
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.optim == "adamw" else _RATE_BESIDE_MUON[self.family]

    def data_shares(self) -> tuple[float, ...]:
        """Share of each of ``training_data_paths``: as given, or equal shares that leave no synthetic series."""
        paths = len(self.training_data_paths)
        shares = self.probability or (1 / paths,) * paths if paths else ()
        total = max(1.0, sum(shares))
        return tuple(share / total for share in shares)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        plain["schedule"] = schedule_to(self.schedule)
        plain["shares"] = dict(self.shares)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Recipe:
        """Read plain values.

        Raises
        ------
        FlowrankError
            If a key is unknown or a value of the wrong kind.
        """
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(raw) - known)
        if unknown:
            import difflib

            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise FlowrankError(
                "recipe",
                expected="keys that a recipe has",
                found=", ".join(map(repr, unknown)),
                todo=f"did you mean {near[0]!r}?" if near else "see `flowrank pretrain --help`",
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
        }
        if "schedule" in values:
            values["schedule"] = schedule_from(values["schedule"])
        try:
            return cls(**values)
        except TypeError as error:
            raise FlowrankError("recipe", expected="values of the kinds a recipe has", found=str(error)) from error


def _is_number(value: Any, least: float, most: float = math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _check(recipe: Recipe, name: str, expected: str, sound: bool) -> None:
    if not sound:
        raise FlowrankError(name, expected=expected, found=repr(getattr(recipe, name)))
