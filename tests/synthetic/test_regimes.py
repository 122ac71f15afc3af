"""Stretches hold and change as it says; loads repeat their days, and what drives them comes in spells."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.loads import loads
from flowrank.synthetic.regimes import regimes


def test_what_moved_may_be_still():
    """In many series the last twelfth moves less than a fiftieth of all, in hardly any structural mixture would it."""
    values = regimes(np.random.default_rng(0), 2000, 120)
    still = np.ptp(values[:, -10:], axis=1) / np.ptp(values, axis=1)
    assert 0.1 < (still < 0.02).mean() < 0.6
    assert (still > 0.3).mean() > 0.1


def test_the_last_value_is_the_best_guess():
    """Of the next one: better than the mean of the last ten in most series that have no season."""
    values = regimes(np.random.default_rng(1), 2000, 120)
    last = np.abs(values[:, -1] - values[:, -2])
    mean = np.abs(values[:, -1] - values[:, -12:-2].mean(axis=1))
    assert (last <= mean).mean() > 0.55


def test_days_of_loads_repeat():
    """A load is more like itself a day before than half a day before."""
    values = loads(np.random.default_rng(0), 400, 160)  # too short for other slots than 24
    spread = values.var(axis=1)
    day, half = (((values[:, lag:] - values[:, :-lag]) ** 2).mean(axis=1) / (2 * spread) for lag in (24, 12))
    assert (day < half).mean() > 0.8
    assert np.median(day) < 0.5


def test_what_is_different_about_a_day_tends_to_last():
    """Daily means, less the same weekday's a week before, go on from day to day."""
    values = loads(np.random.default_rng(2), 600, 24 * 20 - 1)[:, -24 * 19 :]
    days = values[:, : 24 * 19].reshape(600, 19, 24).mean(axis=2)
    surprise = days[:, 7:] - days[:, :-7]
    surprise -= surprise.mean(axis=1, keepdims=True)
    along = (surprise[:, 1:] * surprise[:, :-1]).mean(axis=1) / surprise.var(axis=1)
    assert np.median(along) > 0.2
