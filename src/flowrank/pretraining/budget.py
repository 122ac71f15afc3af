"""How much of a training is used up, in steps or in minutes, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from flowrank.pretraining.recipe import Recipe

UNKNOWN_STEPS = 10_000
"""Steps that warming up is a share of, where there are only minutes."""


class Clock(TrainerCallback):
    """Counts the seconds of a training over all its runs, and ends it when the minutes are used up.

    It can also end a single run early. That changes neither the budget nor the rates: the next run goes on.

    Parameters
    ----------
    max_steps, minutes
        The two budgets; None: no limit.
    seconds
        Used up before this run.
    stop_at
        Time of ``now`` at which this run ends with a checkpoint; None: it goes on to the end of the budget.
    now
        A clock, in seconds.
    """

    def __init__(
        self,
        max_steps: int | None = None,
        minutes: float | None = None,
        seconds: float = 0.0,
        stop_at: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_steps, self.minutes, self.seconds, self.stop_at = max_steps, minutes, seconds, stop_at
        self._now = now
        self._latest: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start to count."""
        self._latest = self._now()
        self._agree(args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count a step, and stop where the minutes or the time of this run are over."""
        now = self._now()
        if self._latest is not None:
            self.seconds += now - self._latest
        self._latest = now
        over = self._agree(args)
        if self.minutes is not None and self.seconds >= 60 * self.minutes:
            control.should_training_stop = True
            control.should_save = control.should_log = control.should_evaluate = True
        elif over:
            # No validation: its loader would draw a seed that a run which goes on does not draw here.
            control.should_training_stop = control.should_save = control.should_log = True

    def _agree(self, args: TrainingArguments) -> bool:
        """Whether the time of this run is over.

        All processes take the first one's word, and its seconds: rates, and where training stops, must be the same.
        """
        over = self.stop_at is not None and self._latest is not None and self._latest >= self.stop_at
        limited = self.minutes is not None or self.stop_at is not None
        if limited and torch.distributed.is_available() and torch.distributed.is_initialized():
            told = torch.tensor([self.seconds, over], dtype=torch.float64, device=args.device)
            torch.distributed.broadcast(told, src=0)
            self.seconds, over = float(told[0]), bool(told[1])
        return over

    def used(self, step: int) -> float:
        """Share of the budget that is used up at a step, in [0, 1]: the greater one of steps and minutes."""
        steps = step / self.max_steps if self.max_steps else 0.0
        minutes = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(steps, minutes))


def rate(recipe: Recipe, step: int, used: float) -> float:
    """Learning rate over its peak, at a step and a used share of the budget.

    Warming up takes ``warmup_ratio`` of the steps, or of ten thousand where there are only minutes.

    Examples
    --------
    >>> recipe = Recipe(max_steps=1000, warmup_ratio=0.01, cooldown_ratio=0.2)
    >>> [round(rate(recipe, step, step / 1000), 2) for step in (0, 4, 9, 500, 800, 900, 1000)]
    [0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    warm = max(1.0, recipe.warmup_ratio * (recipe.max_steps or UNKNOWN_STEPS))
    rising = min(1.0, (step + 1) / warm)
    if recipe.lr_scheduler_type == "wsd":
        falling = min(1.0, (1 - used) / recipe.cooldown_ratio) if recipe.cooldown_ratio else 1.0
    elif recipe.lr_scheduler_type == "linear":
        falling = 1 - used
    elif recipe.lr_scheduler_type == "cosine":
        falling = 0.5 * (1 + math.cos(math.pi * used))
    else:
        falling = 1.0
    return rising * falling
