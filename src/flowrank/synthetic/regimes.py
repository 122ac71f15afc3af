"""Series that hold for a while and then change: administered prices, rates, stocks, subscriptions, tariffs."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.seasons import profile

_MOST_CHANGES = 8.0  # expected in one series
_PERIODS = np.array([4, 7, 12, 24, 52])


def regimes(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw series made of stretches, each with a level, a slope and a noise of its own, shape ``(rows, length)``.

    Changes come at random, none to many in a series. Levels jump by heavy-tailed amounts; six slopes in ten are 0;
    the noise of a stretch is 0.001 to 0.3 of a typical jump, around its level or, in four of ten stretches, added up
    to a walk; a quarter of the series have a season, whose size changes with the stretch. A third are exponentials.

    What such a series teaches is to begin at its last value, to a thousandth of what it has moved before, and that
    what moved a lot may be still now.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each.

    Examples
    --------
    >>> regimes(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    rate = _MOST_CHANGES * rng.random((rows, 1)) ** 2 / length
    begins = rng.random((rows, length)) < rate
    begins[:, 0] = True
    flat = np.flatnonzero(begins)
    stretches = len(flat)
    number = np.cumsum(begins.ravel()).reshape(rows, length) - 1  # of the stretch that each value belongs to
    since = np.arange(rows * length).reshape(rows, length) - flat[number]

    jumps = rng.standard_t(2.5, stretches) * rng.choice([0.1, 0.4, 1.0], stretches)
    slopes = rng.standard_normal(stretches) * (rng.random(stretches) < 0.4) * 3 / length
    noise = 10 ** rng.uniform(-3, -0.5, stretches)
    walking = rng.random(stretches) < 0.4
    shocks = rng.standard_normal((rows, length)) * noise[number]
    heavy = rng.random(stretches) < 0.15
    shocks *= np.where(heavy[number], 1 / np.sqrt(rng.standard_gamma(2.0, (rows, length)) / 2.0), 1.0)

    steps = np.where(begins, jumps[number], slopes[number]) + np.where(walking[number], shocks, 0.0)
    values = np.cumsum(steps, axis=1) + np.where(walking[number], 0.0, shocks)
    for row in np.flatnonzero(rng.random(rows) < 0.25):
        period = int(rng.choice(_PERIODS[max(length, 12) >= 3 * _PERIODS]))
        cycle = np.resize(np.roll(profile(rng, period), rng.integers(period)), length)
        values[row] += cycle * np.abs(rng.standard_normal(stretches))[number[row]] * rng.choice([0.03, 0.2, 0.6])
    bent = (rng.random(rows) < 0.1)[:, None] & (since > 0)
    values += np.where(bent, 0.5 * np.sqrt(since / length) * np.sign(jumps[number]), 0.0)

    spread = np.maximum(values.std(axis=1, keepdims=True), 1e-9)
    centred = (values - values.mean(axis=1, keepdims=True)) / spread
    grown = np.exp(np.clip(centred, -8, 8) * rng.uniform(0.05, 0.9, (rows, 1)))
    lifted = centred + rng.normal(0, 1, (rows, 1)) * 10 ** rng.uniform(0, 1.3, (rows, 1))
    return np.where(rng.random((rows, 1)) < 0.33, grown, lifted) * 10 ** rng.uniform(-2, 5, (rows, 1))
