"""How a model is trained: the series, the optimisation, and the run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from flowrank.errors import is_number
from flowrank.pretraining.checks import check, counts, one_of, positive, shares
from flowrank.synthetic.mixture import SHARES, Mixture
from flowrank.synthetic.tasks import SHARES as TASK_SHARES
from flowrank.synthetic.tasks import TaskMixture

Optimizer = Literal["muon", "adamw"]
RateSchedule = Literal["wsd", "linear", "cosine", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Data:
    """Series that the model is trained on.

    Attributes
    ----------
    training_data_paths
        Files of real series, of which the tsmixup share is mixed with one another. Not given: all series are
        synthetic.
    probability
        Share of the series (Chronos-2: of the groups, of one series each if from a file) that is drawn from each file,
        the rest being synthetic. Not given: equal shares, and
        nothing synthetic.
    shares
        Share of each family of synthetic series; ``flowrank datasheet`` draws some of all.
    task_shares
        Chronos-2: share of each kind of synthetic group of series, see `flowrank.synthetic.synthetic_tasks`.
    easy_share, easy_steps
        Share of the synthetic series that is one clean season at first, but no less than the mixture's own; step at
        which easy_share has fallen, linearly, to the mixture's own.
    lengths
        Context lengths; each batch has one of them, drawn in proportion to ``1 / length ** length_exponent``.
    length_exponent
        0: every length is drawn equally often; 1: every length contributes equally many values.
    horizons
        Target lengths; each batch has one of them, all equally often. None given: ``prediction_length``, for Chronos-2
        any number of patches up to it. Short ones make a T5 read its context instead of the target so far
        (docs/pretraining.md).
    max_missing_prop
        Series with a greater share of missing values are not used.

    Raises
    ------
    FlowrankError
        If a value is not what it says here.

    Examples
    --------
    >>> Data(training_data_paths=("a.csv", "b.csv")).data_shares()
    (0.5, 0.5)
    """

    training_data_paths: tuple[str, ...] = ()
    probability: tuple[float, ...] = ()
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    task_shares: Mapping[str, float] = field(default_factory=lambda: dict(TASK_SHARES))
    easy_share: float = 0.6
    easy_steps: int = 4000
    lengths: tuple[int, ...] = (32, 64, 96, 128, 192, 256, 384, 512)
    length_exponent: float = 0.25
    horizons: tuple[int, ...] = ()
    max_missing_prop: float = 0.9

    def __post_init__(self) -> None:
        counts(self, "easy_steps", least=0)
        shares(self, "easy_share", "max_missing_prop")
        check(self, "length_exponent", "a number ≥ 0", is_number(self.length_exponent, 0))
        sound = bool(self.lengths) and all(type(n) is int and n >= 4 for n in self.lengths)
        check(self, "lengths", "context lengths of 4 or more", sound)
        sound = all(type(n) is int and n >= 1 for n in self.horizons)
        check(self, "horizons", "target lengths of 1 or more", sound)
        whole = all(is_number(p, 0, 1) for p in self.probability) and sum(self.probability) <= 1 + 1e-9
        sound = whole and len(self.probability) in (0, len(self.training_data_paths))
        check(self, "probability", "for each of training_data_paths a share, 1 at most in all", sound)
        TaskMixture(self.task_shares, Mixture(self.shares))

    def data_shares(self) -> tuple[float, ...]:
        """Share of each of ``training_data_paths``: as given, or equal shares that leave no synthetic series."""
        paths = len(self.training_data_paths)
        shares = self.probability or (1 / paths,) * paths if paths else ()
        total = max(1.0, sum(shares))
        return tuple(share / total for share in shares)


@dataclass(frozen=True)
class Optimisation:
    """How long and how fast the model learns.

    Attributes
    ----------
    max_steps
        Steps after which training ends. This or minutes is needed; what comes first counts.
    minutes
        Minutes after which training ends, counted over all runs of the same training.
    per_device_train_batch_size, gradient_accumulation_steps
        Series in one forward pass; forward passes in a step.
    optim
        ``"muon"`` (torch.optim.Muon for the matrices of the blocks, AdamW for the rest) or ``"adamw"``.
    learning_rate
        Peak learning rate of AdamW. Not given: 0.001 for whole models; next to Muon 0.002 for a Bolt, 0.01 for a T5.
    muon_learning_rate, weight_decay, max_grad_norm
        Peak learning rate of Muon; decoupled weight decay; norm to which gradients are clipped.
    lr_scheduler_type
        ``"wsd"`` (warm up, stay, fall linearly to 0 at the end), ``"linear"``, ``"cosine"`` or ``"constant"``, over
        the share of steps or of minutes that has passed.
    warmup_ratio, cooldown_ratio
        Share of the steps in which rates rise; share of the steps in which the rates of wsd fall.

    Raises
    ------
    FlowrankError
        If a value is not what it says here.

    Examples
    --------
    >>> Optimisation(minutes=10).optim
    'muon'
    """

    max_steps: int | None = None
    minutes: float | None = None
    per_device_train_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    optim: Optimizer = "muon"
    learning_rate: float | None = None
    muon_learning_rate: float = 4e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: RateSchedule = "wsd"
    warmup_ratio: float = 0.01
    cooldown_ratio: float = 0.3

    def __post_init__(self) -> None:
        counts(self, "per_device_train_batch_size", "gradient_accumulation_steps")
        one_of(self, "optim", get_args(Optimizer))
        one_of(self, "lr_scheduler_type", get_args(RateSchedule))
        shares(self, "warmup_ratio", "cooldown_ratio")
        positive(self, "muon_learning_rate", "max_grad_norm")
        check(self, "weight_decay", "a number ≥ 0", is_number(self.weight_decay, 0))
        if self.max_steps is not None:
            counts(self, "max_steps")
        positive(self, *(name for name in ("minutes", "learning_rate") if getattr(self, name) is not None))
        check(self, "max_steps", "a number of steps, of minutes, or both", bool(self.max_steps or self.minutes))


@dataclass(frozen=True)
class Run:
    """How training runs on this machine, what it logs, and its seed.

    Attributes
    ----------
    precision
        ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 where the device computes in it natively.
    torch_compile
        Compile the model with torch.compile.
    dataloader_num_workers
        Processes that make series; 0 makes them in the training process.
    seed
        Seed of weights and data.
    save_steps, log_steps, eval_steps, eval_series
        Steps between checkpoints; steps between log lines; steps between validations; synthetic series held out for
        validation, in whole batches of 64.

    Raises
    ------
    FlowrankError
        If a value is not what it says here.

    Examples
    --------
    >>> Run(seed=7).precision
    'auto'
    """

    precision: Precision = "auto"
    torch_compile: bool = False
    dataloader_num_workers: int = 0
    seed: int = 0
    save_steps: int = 500
    log_steps: int = 50
    eval_steps: int = 1000
    eval_series: int = 512

    def __post_init__(self) -> None:
        one_of(self, "precision", get_args(Precision))
        counts(self, "save_steps", "log_steps", "eval_steps", "eval_series")
        counts(self, "dataloader_num_workers", "seed", least=0)
        check(self, "seed", "a whole number below 2^32", self.seed < 2**32)
