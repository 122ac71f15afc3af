"""Loads: a day's profile on work days and rest days, and a weather that comes in spells."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.seasons import autoregressive_noise, profile

_SLOTS = (24, 24, 24, 48, 96)


def loads(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw loads of electricity, heat, water or traffic, shape ``(rows, length)``.

    A day of 24, 48 or 96 slots (24 where a series is short), with another profile on two days of seven in most. A
    temperature of a daily wave, spells that last 1.5 to 8 days, and a season seen as a slope drives the load below
    one threshold, above another, or both, at once or smoothed over hours, and more at some hours than at others. So
    what is different about a day tends to be so on the next one.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each.

    Examples
    --------
    >>> loads(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    slots = rng.choice(_SLOTS, rows)
    slots = np.where(7 * slots > length, 24, slots)
    time = np.arange(length) + rng.integers(0, 7 * slots)[:, None]
    slot, day = time % slots[:, None], time // slots[:, None]

    base, response = np.empty((rows, length)), np.empty((rows, length))
    for row in range(rows):
        number = int(slots[row])
        work = _smooth_day(rng, number)
        rest = work * rng.uniform(0.3, 1) + _smooth_day(rng, number) * rng.uniform(0, 0.6) - rng.gamma(1, 0.4)
        weekly = rng.random() < 0.8
        days = np.where((np.arange(7) >= 5)[:, None] & weekly, rest, work) + rng.normal(0, 0.1, (7, 1))
        base[row] = days[day[row] % 7, slot[row]]
        response[row] = np.maximum(0.2, 1 + 0.5 * _smooth_day(rng, number))[slot[row]]

    memory = slots * np.exp(rng.uniform(np.log(1.5), np.log(8), rows))
    spells = autoregressive_noise(rng, rows, length, 1 / memory[:, None])
    turn = 2 * np.pi * (slot / slots[:, None] - 0.65)
    temperature = spells + rng.uniform(0.2, 1.2, (rows, 1)) * np.cos(turn)
    temperature += rng.normal(0, 1.5, (rows, 1)) * (np.arange(length) / length - 0.5)
    cold, hot = rng.uniform(-2, 0.5, (rows, 1)), rng.uniform(-0.5, 2, (rows, 1))
    side = rng.random((rows, 1))
    driven = np.where(side < 0.7, np.maximum(0.0, temperature - hot), 0.0)
    driven += np.where(side > 0.4, np.maximum(0.0, cold - temperature), 0.0)
    driven = _smoothed(driven, np.where(rng.random(rows) < 0.5, 0.0, 1 - 1 / rng.uniform(2, 12, rows)))

    values = base + rng.gamma(1.2, 0.6, (rows, 1)) * driven * response
    values += autoregressive_noise(rng, rows, length, 10 ** rng.uniform(-1.5, -0.1, (rows, 1))) * 10 ** rng.uniform(
        -2.3, -0.5, (rows, 1)
    )
    spread = np.maximum(values.std(axis=1, keepdims=True), 1e-9)
    centred = (values - values.mean(axis=1, keepdims=True)) / spread
    growing = np.exp(rng.uniform(0.05, 0.5, (rows, 1)) * np.clip(centred, -6, 6))
    level = 1 / rng.uniform(0.03, 0.6, (rows, 1))  # of a spread: loads are far from 0
    return np.where(rng.random((rows, 1)) < 0.5, growing, centred + level) * 10 ** rng.uniform(-1, 5, (rows, 1))


def _smooth_day(rng: np.random.Generator, slots: int) -> np.ndarray:
    """One day of unit spread: two or three waves, or a free profile that is smoothed."""
    if rng.random() < 0.25:
        free = profile(rng, slots)
        free = free + np.roll(free, 1) + np.roll(free, -1)
    else:
        turns = 2 * np.pi * np.arange(slots) / slots
        waves = range(1, int(rng.integers(2, 5)))
        free = np.sum([rng.normal(0, 1 / k) * np.sin(k * turns + 2 * np.pi * rng.random()) for k in waves], axis=0)
    return (free - free.mean()) / max(float(free.std()), 1e-3)


def _smoothed(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Exponential moving average along time, of what ``kept`` (rows,) of the average before stays."""
    steps = np.ascontiguousarray(values.T)
    for t in range(1, len(steps)):
        steps[t] = kept * steps[t - 1] + (1 - kept) * steps[t]
    return np.ascontiguousarray(steps.T)
