"""Series with a season to learn: one clean cycle, cycles nested in weeks, and cycles that evolve."""

from __future__ import annotations

import numpy as np

CLEAN_PERIODS = (4, 5, 7, 12, 24, 48, 52, 96)
_SEEN = 3  # a series has at least so many seasons: one that is not seen twice before the forecast looks like a trend
_NESTS = ((24, 7), (24, 7), (48, 7), (96, 7), (7, 52), (12, 5), (12, 7))  # slots a cycle, cycles a longer one
_ETS_PERIODS = np.array([1, 4, 5, 6, 7, 12, 13, 24, 26, 30, 48, 52])
_ETS_WEIGHTS = np.array([5, 5, 1, 1, 4, 9, 1, 4, 1, 1, 1, 2], dtype=float)


def clean_season(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw series of one exact season, shape ``(rows, length)``: what a model should learn first.

    A free or smooth profile of one of the `CLEAN_PERIODS`, of unit spread, repeated three times at least; some linear
    trend in half of them; normal noise with a log-uniform level between 0.003 and 0.5.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each.

    Examples
    --------
    >>> clean_season(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    time = np.arange(length)
    values = np.empty((rows, length))
    periods = np.array(CLEAN_PERIODS)
    for row, period in enumerate(rng.choice(periods[_seen(periods, length)], rows)):
        values[row] = np.resize(np.roll(profile(rng, int(period)), rng.integers(period)), length)
    slope = np.where(rng.random((rows, 1)) < 0.5, rng.normal(0, 1.5, (rows, 1)), 0.0)
    values += slope * (time / length - 0.5)
    values += rng.standard_normal((rows, length)) * 10 ** rng.uniform(-2.5, -0.3, (rows, 1))
    return (values + rng.normal(0, 3, (rows, 1))) * 10 ** rng.uniform(-2, 4, (rows, 1))


def calendar(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw series whose cycle changes over a longer one: days in weeks, weeks in years, months in cycles.

    A profile a slot, of its own on rest days (two of seven), times or plus a factor a day, a slow wave or a walk,
    in half of them a size that drifts over some days as weather does, and autoregressive noise: loads, traffic, sales,
    visits.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each.

    Examples
    --------
    >>> calendar(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    values = np.empty((rows, length))
    nests = np.array(_NESTS)
    nests = nests[_seen(nests[:, 0], length)]
    for row, nest in enumerate(rng.integers(len(nests), size=rows)):
        slots, cycles = nests[nest]
        grid = np.tile(profile(rng, slots), (cycles, 1))
        if cycles == 7:
            rest = profile(rng, slots) * rng.uniform(0, 1) + grid[0] * rng.uniform(0.2, 1)
            grid[5:] = rest
        else:
            grid = grid + profile(rng, cycles)[:, None] * rng.lognormal(-0.3, 0.6)
        level = rng.normal(0, 0.4, (cycles, 1)) * rng.integers(0, 2)
        grid = grid * np.exp(level) if rng.random() < 0.5 else grid + 2 * level
        values[row] = np.resize(np.roll(grid.ravel(), rng.integers(grid.size)), length)
    time = np.arange(length)
    wave = np.sin(2 * np.pi * (time / rng.uniform(0.5, 6, (rows, 1)) / max(length, 200) + rng.random((rows, 1))))
    walking = np.flatnonzero(rng.random(rows) < 0.6)  # waves alone would teach that what is high comes down
    wave[walking] = rng.standard_normal((len(walking), length)).cumsum(axis=1) * 2 / length**0.5
    values *= 1 + rng.uniform(0, 0.5, (rows, 1)) * np.tanh(wave)
    drifting = np.flatnonzero(rng.random(rows) < 0.5)
    values[drifting] *= _drifting_size(rng, len(drifting), length)
    values += rng.gamma(0.6, 1.0, (rows, 1)) * wave
    values += autoregressive_noise(rng, rows, length, 10 ** rng.uniform(-3, -0.3, (rows, 1))) * 10 ** rng.uniform(
        -2, 0, (rows, 1)
    )
    spread = np.where(values.std(axis=1, keepdims=True) > 1e-9, values.std(axis=1, keepdims=True), 1.0)
    values = values / spread
    positive = rng.random((rows, 1)) < 0.5
    values = np.where(
        positive,
        np.exp(rng.uniform(0.1, 0.8, (rows, 1)) * np.clip(values - values.mean(axis=1, keepdims=True), -6, 6)),
        values,
    )
    return (values + rng.normal(0, 3, (rows, 1)) * ~positive) * 10 ** rng.uniform(-2, 4, (rows, 1))


def exponential_smoothing(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw from innovations state-space models of exponential smoothing with drawn parameters.

    Level, damped trend and season all move with the same innovations (Hyndman et al., Forecasting with exponential
    smoothing, 2008, eq. 2.4), additive on the drawn scale; six in ten are then exponentiated, so that season and
    noise grow with the level, as in sales and visitor numbers. Starts with a season of random strength.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each.

    Examples
    --------
    >>> exponential_smoothing(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    weights = np.where(_seen(_ETS_PERIODS, length), _ETS_WEIGHTS, 0.0)
    period = rng.choice(_ETS_PERIODS, rows, p=weights / weights.sum())
    alpha = np.where(rng.random(rows) < 0.4, rng.uniform(0.5, 1.0, rows), rng.beta(1, 5, rows))
    beta = alpha * rng.beta(1, 8, rows) * (rng.random(rows) < 0.5)
    gamma = (1 - alpha) * rng.beta(1, 8, rows) * (rng.random(rows) < 0.6)
    damping = np.where(rng.random(rows) < 0.4, rng.uniform(0.8, 1.0, rows), 1.0)
    noise = 10 ** rng.uniform(-2.3, -0.2, rows)
    innovations = rng.standard_normal((length, rows)) * noise
    heavy = rng.random(rows) < 0.15
    innovations[:, heavy] /= np.sqrt(rng.standard_gamma(2.0, (length, int(heavy.sum()))) / 2.0)
    level = np.zeros(rows)
    trend = np.where(rng.random(rows) < 0.6, rng.normal(0, 2.0, rows) / length, 0.0)
    trend = np.where(damping < 1, trend * 6, trend)
    seasons = np.zeros((int(period.max()), rows))
    for row in np.flatnonzero(period > 1):
        seasons[: period[row], row] = profile(rng, int(period[row])) * rng.gamma(1.5, 0.5)
    values = np.empty((length, rows))
    every, slot = np.arange(rows), rng.integers(period)
    for t in range(length):
        season = seasons[slot, every]
        step = innovations[t]
        values[t] = level + damping * trend + season + step
        level += damping * trend + alpha * step
        trend = damping * trend + beta * step
        seasons[slot, every] = season + gamma * step
        slot += 1
        slot[slot == period] = 0
    drawn = np.ascontiguousarray(values.T)
    multiplicative = rng.random((rows, 1)) < 0.6
    spread = np.maximum(drawn.std(axis=1, keepdims=True), 1e-6)
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    grown = np.exp(np.clip(centred / spread * rng.gamma(2, 0.15, (rows, 1)), -12, 12))
    shifted = drawn + rng.normal(0, 3, (rows, 1)) * spread
    return np.where(multiplicative, grown, shifted) * 10 ** rng.uniform(-2, 4, (rows, 1))


def autoregressive_noise(rng: np.random.Generator, rows: int, length: int, forgetting: np.ndarray) -> np.ndarray:
    """Draw AR(1) noise of unit stationary spread, ``(rows, length)``; its coefficient is ``1 - forgetting`` a row.

    Examples
    --------
    >>> noise = autoregressive_noise(np.random.default_rng(0), 400, 50, np.full((400, 1), 0.5))
    >>> bool(abs(noise.var() - 1) < 0.1)
    True
    """
    coefficient = 1 - forgetting[:, 0]
    shocks = rng.standard_normal((length, rows))
    shocks[1:] *= np.sqrt(1 - coefficient**2)
    for t in range(1, length):
        shocks[t] += coefficient * shocks[t - 1]
    return np.ascontiguousarray(shocks.T)


def _seen(periods: np.ndarray, length: int) -> np.ndarray:
    """Tell which periods fit into a series often enough; the shortest always does."""
    return _SEEN * periods <= max(length, _SEEN * periods.min())


def _drifting_size(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return a slowly changing positive factor, ``(rows, length)``, whose memory is 12 to 200 values."""
    forgetting = 1 / np.exp(rng.uniform(np.log(12), np.log(200), (rows, 1)))
    return np.exp(rng.uniform(0.02, 0.4, (rows, 1)) * autoregressive_noise(rng, rows, length, forgetting))


def profile(rng: np.random.Generator, period: int) -> np.ndarray:
    """Draw one cycle of zero mean and unit spread: free, smooth, or mostly flat with a few busy slots.

    Examples
    --------
    >>> len(profile(np.random.default_rng(0), 7))
    7
    """
    kind = rng.random()
    if kind < 0.45 or period < 4:
        cycle = rng.standard_normal(period)
    elif kind < 0.85:
        turns = 2 * np.pi * np.arange(period) / period
        cycle = np.zeros(period)
        for harmonic in range(1, min(period // 2, int(rng.integers(1, 6))) + 1):
            cycle += rng.normal(0, 1 / harmonic) * np.sin(harmonic * turns + 2 * np.pi * rng.random())
    else:
        cycle = np.where(rng.random(period) < 0.3, rng.standard_normal(period), 0.0)
        cycle[0] += not cycle.any()
    cycle = cycle - cycle.mean()
    return cycle / max(float(cycle.std()), 1e-3)
