"""Rates against the closed forms of torch and transformers, and a clock whose time is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import TrainerControl, TrainerState
from transformers.optimization import get_wsd_schedule

from flowrank.pretraining import Recipe
from flowrank.pretraining.budget import Clock, rate

STEPS = 200
KINDS = ["wsd", "linear", "cosine", "constant"]


def rates(recipe: Recipe) -> list[float]:
    clock = Clock(recipe.max_steps, recipe.minutes)
    return [rate(recipe, step, clock.used(step)) for step in range(STEPS + 1)]


def stock(make) -> list[float]:
    """Rates of a scheduler of torch or transformers, whose peak is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    told = []
    for _ in range(STEPS + 1):
        told.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return told


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("linear", lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)),
        ("cosine", lambda optimizer: CosineAnnealingLR(optimizer, T_max=STEPS)),
        (
            "wsd",
            lambda optimizer: get_wsd_schedule(
                optimizer, num_warmup_steps=0, num_decay_steps=50, num_training_steps=STEPS, decay_type="linear"
            ),
        ),
        ("constant", lambda optimizer: LinearLR(optimizer, 1.0, 1.0)),
    ],
)
def test_rates_are_those_of_stock_schedulers(kind, make):
    recipe = Recipe(max_steps=STEPS, lr_scheduler_type=kind, warmup_ratio=0.0, cooldown_ratio=0.25)
    assert rates(recipe) == pytest.approx(stock(make), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_warming_up(kind):
    """Over 20 of 200 steps the rate is (step + 1) / 20 of what it is without."""
    cold, warm = (
        rates(Recipe(max_steps=STEPS, lr_scheduler_type=kind, warmup_ratio=ratio, cooldown_ratio=0.25))
        for ratio in (0.0, 0.1)
    )
    expected = [rate * min(1.0, (step + 1) / 20) for step, rate in enumerate(cold)]
    assert warm == pytest.approx(expected, abs=1e-12)
    assert warm[0] > 0


def test_warming_up_where_only_minutes_count():
    recipe = Recipe(minutes=10, warmup_ratio=0.01, lr_scheduler_type="constant")
    told = [rate(recipe, step, 0.0) for step in (0, 49, 99, 100)]
    assert told == pytest.approx([0.01, 0.5, 1.0, 1.0])


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 1),
    cooldown=st.floats(0, 1),
    step=st.integers(0, 2000),
    used=st.floats(0, 1),
)
@settings(max_examples=200)
def test_rates_are_shares_of_the_peak_and_fall_once_warm(kind, warmup, cooldown, step, used):
    recipe = Recipe(max_steps=1000, lr_scheduler_type=kind, warmup_ratio=warmup, cooldown_ratio=cooldown)
    now, later = rate(recipe, step, used), rate(recipe, step, min(1.0, used + 0.1))
    assert 0 <= later <= now <= 1
    if kind != "constant" and cooldown > 0:
        assert rate(recipe, step, 1.0) == pytest.approx(0, abs=1e-12)


def test_no_cooling_down():
    recipe = Recipe(max_steps=STEPS, cooldown_ratio=0.0, warmup_ratio=0.0)
    assert rates(recipe) == [1.0] * (STEPS + 1)


def tick(clock: Clock, steps: int = 1) -> TrainerControl:
    control = TrainerControl()
    for _ in range(steps):
        clock.on_step_end(None, TrainerState(), control)
    return control


def begun(times: list[float], **budget) -> Clock:
    clock = Clock(**budget, now=iter(times).__next__)
    clock.on_train_begin(None, TrainerState(), TrainerControl())
    return clock


def test_seconds_of_steps_are_counted():
    clock = begun([1000.0, 1001.5, 1004.0])
    assert clock.seconds == 0
    tick(clock)
    assert clock.seconds == 1.5
    tick(clock)
    assert clock.seconds == 4.0


def test_seconds_of_earlier_runs_count_and_those_between_do_not():
    clock = begun([50.0, 60.0, 5000.0, 5001.0], minutes=1.0, seconds=30.0)
    tick(clock)
    assert clock.seconds == 40.0
    clock.on_train_begin(None, TrainerState(), TrainerControl())  # at 5000
    tick(clock)
    assert clock.seconds == 41.0
    assert clock.used(10**6) == pytest.approx(41 / 60)


def test_it_stops_and_saves_when_the_minutes_are_over():
    clock = begun([0.0, 119.0, 120.0], minutes=2.0)
    control = tick(clock)
    assert not control.should_training_stop
    assert not control.should_save
    control = tick(clock)
    assert control.should_training_stop
    assert control.should_save


def test_a_run_ends_early_with_a_checkpoint_and_its_budget_stays():
    clock = begun([1000.0, 1059.0, 1060.0, 1061.0], minutes=10.0, seconds=240.0, stop_at=1060.0)
    control = tick(clock)
    assert not control.should_training_stop
    assert not control.should_save
    assert clock.used(1) == pytest.approx(299 / 600)
    control = tick(clock)
    assert control.should_training_stop
    assert control.should_save
    assert not control.should_evaluate
    assert clock.used(2) == pytest.approx(300 / 600)


def test_steps_alone_never_stop_by_the_clock():
    clock = begun([0.0, 1e9], max_steps=10)
    assert not tick(clock).should_training_stop
    assert clock.used(5) == 0.5


@given(step=st.integers(0, 200), seconds=st.floats(0, 1e4))
def test_what_comes_first_counts(step, seconds):
    clock = Clock(max_steps=100, minutes=10.0, seconds=seconds)
    assert clock.used(step) == pytest.approx(min(1.0, max(step / 100, seconds / 600)))
    assert Clock(seconds=seconds).used(step) == 0
    assert not math.isnan(clock.used(step))
