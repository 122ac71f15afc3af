"""How a model is healed, as one value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flowrank.errors import FlowrankError, check_count, is_number

STEPS = 700
"""Steps where neither steps nor minutes are given: three minutes of one core for flow-bolt."""


@dataclass(frozen=True)
class Healing:
    """Budget, loss and optimisation of `heal`.

    Attributes
    ----------
    steps, minutes
        Steps; minutes over all runs of a healing that was cut off. Training ends at whichever is
        reached first; default: 700 steps. Learning rates fall to 0 as the budget is used.
    batch
        Series a step; None: 64 for a Bolt, 16 for a T5, in which each value is a token.
    distillation, truth
        Weights of the distance to the parent's forecasts, and of the loss against the values that followed. The latter
        is fine-tuning on the user's series; on synthetic series it lowers accuracy on other series.
    lengths
        Context lengths; each batch has one of them. Those beyond the model's own context are left out.
    horizons
        Target lengths; each batch has one of them. None: the model's horizon, and for a T5 also 12 and 24 values, which
        make it attend to its context instead of at the target so far.
    optim
        ``"adamw"``, or ``"muon"`` (torch.optim.Muon for the block matrices, AdamW for the rest): faster after a
        large loss of accuracy, but it also moves weights in directions that the training series do not determine, which
        lowers accuracy on other series.
    muon_learning_rate, learning_rate
        Peak rates of Muon and of AdamW; None: 0.0001 of AdamW alone, and with Muon 0.001 and 0.001 for a Bolt, 0.003
        and 0.005 for a T5.
    warmup, max_grad_norm
        Steps during which learning rates rise; norm to which gradients are clipped.
    eval_steps, eval_series, patience
        Steps between evaluations; series held out for them; evaluations without a better model after which healing
        ends.
    save_steps
        Steps between checkpoints, where there is a folder for them.
    precision
        ``"float32"``, ``"bfloat16"`` (autocast), or ``"auto"``: bfloat16 where the device computes in it natively.
    seed
        Seed of the series drawn.

    Raises
    ------
    FlowrankError
        If a value is invalid.

    Examples
    --------
    >>> Healing(steps=100).optim
    'adamw'
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int | None = None
    distillation: float = 1.0
    truth: float = 0.0
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048)
    horizons: tuple[int, ...] | None = None
    optim: Literal["adamw", "muon"] = "adamw"
    muon_learning_rate: float | None = None
    learning_rate: float | None = None
    warmup: int = 10
    max_grad_norm: float = 1.0
    eval_steps: int = 40
    eval_series: int = 256
    patience: int = 5
    save_steps: int = 40
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        for name in ("eval_steps", "eval_series", "patience", "save_steps"):
            check_count(getattr(self, name), name)
        for name in ("warmup", "seed"):
            check_count(getattr(self, name), name, 0)
        self._check("seed", "a whole number below 2^32", self.seed < 2**32)
        for name in ("minutes", "muon_learning_rate", "learning_rate"):
            value = getattr(self, name)
            self._check(name, "a positive number", value is None or _is_positive(value))
        self._check("max_grad_norm", "a positive number", _is_positive(self.max_grad_norm))
        for name in ("distillation", "truth"):
            self._check(name, "a number ≥ 0", getattr(self, name) == 0 or _is_positive(getattr(self, name)))
        self._check("truth", "a weight > 0 here or for distillation", self.truth + self.distillation > 0)
        self._check("optim", "'muon' or 'adamw'", self.optim in ("muon", "adamw"))
        self._check("precision", "'auto', 'float32' or 'bfloat16'", self.precision in ("auto", "float32", "bfloat16"))
        sound = bool(self.lengths) and all(type(length) is int and length >= 4 for length in self.lengths)
        self._check("lengths", "whole numbers ≥ 4", sound)
        sound = self.horizons is None or all(type(length) is int and length >= 1 for length in self.horizons)
        self._check("horizons", "whole numbers ≥ 1", sound)

    @property
    def most_steps(self) -> int | None:
        """Steps after which healing ends; None where only minutes are limited."""
        return STEPS if self.steps is None and self.minutes is None else self.steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def _check(self, name: str, expected: str, sound: bool) -> None:
        if not sound:
            raise FlowrankError(name, expected=expected, found=repr(getattr(self, name)))


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf
