"""Structural series: trends, walks, cycles and noise, summed and then observed in the ways real series are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flowrank.errors import check_count

if TYPE_CHECKING:
    from flowrank.series import Series

_BLOCK = 128  # series that share one generator; a change of it changes every series
_SHORTEST = 20
_PERIODS = np.array([4, 5, 7, 12, 13, 24, 26, 48, 52, 60, 96, 144, 168, 288, 336, 365.25, 672])
_PERIOD_WEIGHTS = np.array([4, 4, 10, 10, 1, 14, 1, 6, 6, 2, 6, 2, 8, 3, 3, 3, 1], dtype=float)
_NESTED = {
    24: 168,
    48: 336,
    96: 672,
    7: 365.25,
    12: 60,
    144: 1008,
}  # the longer cycle that such data often has


def synthetic_series(count: int, *, length: int = 1024, seed: int = 0) -> Iterator[Series]:
    """Yield synthetic series, without a calendar, one block of 128 at a time.

    A series is a sum or an exponential of some of: a trend (linear, saturating, piecewise), up to three
    seasonal cycles of calendar periods (Fourier sums or free profiles, with amplitudes that may drift), a
    random walk or an integrated one, an autoregression, noise (normal or heavy-tailed, steady or in bursts),
    level shifts and spikes. One in five is then observed as counts or as intermittent demand, some are
    rounded or bounded; one in six has missing values, one in five is short (20 values and up). Scales span
    seven orders of magnitude.

    Series ``i`` depends on ``seed``, ``length`` and ``i`` only.

    Parameters
    ----------
    count
        Number of series, ≥ 0.
    length
        Number of values of a series that is not short, ≥ 20.
    seed
        Whole number ≥ 0.

    Yields
    ------
    Series
        Finite where not missing, with at least two different values.

    Raises
    ------
    FlowrankError
        If an argument is not a whole number in its range.

    Examples
    --------
    >>> series = list(synthetic_series(3, length=64))
    >>> [one.item_id for one in series]
    ['synthetic-0', 'synthetic-1', 'synthetic-2']
    """
    count = check_count(count, "count", 0)
    length = check_count(length, "length", _SHORTEST)
    return _stream(count, length, check_count(seed, "seed", 0))


def _stream(count: int, length: int, seed: int) -> Iterator[Series]:
    from flowrank.series import Series

    for block in range(-(-count // _BLOCK)):
        for row, target in enumerate(_draw(np.random.default_rng([seed, block]), _BLOCK, length)):
            index = block * _BLOCK + row
            if index < count:
                yield Series(f"synthetic-{index}", target)


def structural(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Draw the series of `synthetic_series` as an array, shape ``(rows, length)``, NaN = missing; short ones end last.

    Parameters
    ----------
    rng
        Source of chance.
    rows, length
        Number of series and of values in each, the latter ≥ 20.

    Examples
    --------
    >>> structural(np.random.default_rng(0), 2, 64).shape
    (2, 64)
    """
    values = np.full((rows, length), np.nan)
    for row, target in enumerate(_draw(rng, rows, length)):
        values[row, length - len(target) :] = target
    return values


def _draw(rng: np.random.Generator, rows: int, length: int) -> list[np.ndarray]:
    """Return ``rows`` series, shape ``(time,)`` each."""
    latent = np.zeros((rows, length))
    seasonal = np.zeros((rows, length))
    for part, probability in (
        (_trend, 0.5),
        (_random_walk, 0.4),
        (_autoregression, 0.35),
        (_level_shifts, 0.12),
    ):
        some = _some(rng, rows, probability)
        latent[some] += part(rng, len(some), length) * rng.lognormal(0, 0.7, (len(some), 1))
    for row in _some(rng, rows, 0.75):
        seasonal[row] = _seasonality(rng, length)
    latent += seasonal
    noise = _noise(rng, rows, length)
    bursts = _some(rng, rows, 0.15)
    walks = np.cumsum(rng.standard_normal((len(bursts), length)), axis=1)
    noise[bursts] *= np.exp(0.8 * _standardized(walks))
    following = _some(rng, rows, 0.1)
    noise[following] *= np.exp(0.7 * np.clip(seasonal[following], -4, 4))
    latent += noise * 10 ** rng.uniform(-2.5, 0.3, (rows, 1))
    _add_spikes(rng, latent)
    values = _observed(rng, latent)
    return _with_gaps_and_ends(rng, values)


def _some(rng: np.random.Generator, rows: int, probability: float) -> np.ndarray:
    return np.flatnonzero(rng.random(rows) < probability)


def _standardized(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 1e-12, spread, 1.0)


def _trend(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return lines, curves that saturate and lines with kinks, each within about ±2."""
    time = np.linspace(0, 1, length)
    trends = rng.normal(0, 1.5, (rows, 1)) * (time - 0.5)
    kind = rng.random(rows)
    saturating = kind < 0.25
    rate = rng.uniform(2, 12, (int(saturating.sum()), 1))
    trends[saturating] = rng.normal(0, 1.5, rate.shape) * (1 - np.exp(-rate * time))
    for row in np.flatnonzero(kind > 0.6):
        kinks = np.concatenate([[0], np.sort(rng.random(rng.integers(1, 5))), [1]])
        slopes = rng.normal(0, 2.5, len(kinks) - 1)  # drawn heights would mean that what is high comes down
        trends[row] = np.interp(time, kinks, np.append(0, np.cumsum(slopes * np.diff(kinks))))
    return trends


def _random_walk(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return random walks, a third of them integrated once more (smooth), of unit spread."""
    steps = rng.standard_normal((rows, length))
    smooth = rng.random(rows) < 0.33
    steps[smooth] = np.cumsum(steps[smooth], axis=1)
    return _standardized(np.cumsum(steps, axis=1))


def _autoregression(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return stationary AR(2) processes, with real roots or with a damped cycle, of unit spread."""
    radius = 1 - 10 ** rng.uniform(-2.5, -0.2, rows)
    angle = np.where(rng.random(rows) < 0.4, 2 * np.pi / rng.uniform(3, 60, rows), 0.0)
    second = np.where(angle > 0, radius, rng.uniform(-0.5, 0.5, rows))
    first_lag = np.where(angle > 0, 2 * radius * np.cos(angle), radius + second)
    second_lag = -radius * second
    values = np.ascontiguousarray(rng.standard_normal((rows, length)).T)
    for t in range(2, length):
        values[t] += first_lag * values[t - 1] + second_lag * values[t - 2]
    return _standardized(np.ascontiguousarray(values.T))


def _level_shifts(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    jumps = np.where(rng.random((rows, length)) < rng.uniform(1, 5, (rows, 1)) / length, 1.0, 0.0)
    return np.cumsum(jumps * rng.standard_normal((rows, length)), axis=1)


def _seasonality(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return one to three cycles, shape ``(length,)``; the second is often the one that holds the first."""
    weights = np.where(max(length, 2 * _PERIODS[0]) >= 2 * _PERIODS, _PERIOD_WEIGHTS, 0.0)  # seen once, it is a trend
    period = float(rng.choice(_PERIODS, p=weights / weights.sum()))
    periods = [period]
    if rng.random() < 0.45:
        periods.append(_NESTED.get(int(period), float(rng.choice(_PERIODS))))
    if rng.random() < 0.1:
        periods.append(float(rng.uniform(3, 400)))
    total = np.zeros(length)
    for i, p in enumerate(periods):
        cycle = _cycle(rng, p, length)
        if i and rng.random() < 0.3:
            total *= 1 + 0.5 * np.tanh(cycle)
        else:
            total += cycle * rng.lognormal(-0.4 * i, 0.6)
    return total


def _cycle(rng: np.random.Generator, period: float, length: int) -> np.ndarray:
    """Return a cycle of unit spread: a free profile or a Fourier sum, of steady or drifting amplitude."""
    points = max(2, int(period))
    if points <= 336 and float(period).is_integer():
        if rng.random() < 0.4:
            profile = rng.standard_normal(points)
            if rng.random() < 0.3:  # mostly flat with a few busy slots
                profile = np.where(rng.random(points) < 0.3, profile, 0.0)
        else:
            profile = _fourier(rng, np.arange(points) / points, points)
        cycle = np.resize(np.roll(profile, rng.integers(points)), length)
    else:
        cycle = _fourier(rng, np.arange(length) / period, points)
    cycle = cycle / max(float(cycle.std()), 1e-3)
    if rng.random() < 0.25:
        time = np.linspace(0, 1, length)
        cycle *= 1 + 0.7 * np.sin(2 * np.pi * (rng.uniform(0.2, 3) * time + rng.random()))
    return cycle


def _fourier(rng: np.random.Generator, turns: np.ndarray, points: int) -> np.ndarray:
    total = np.zeros(len(turns))
    for harmonic in range(1, min(points // 2, int(rng.integers(1, 6))) + 1):
        total += rng.normal(0, 1 / harmonic) * np.sin(2 * np.pi * (harmonic * turns + rng.random()))
    return total


def _noise(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Return noise of unit scale, a fifth of it with heavy tails, shape ``(rows, length)``."""
    noise = rng.standard_normal((rows, length))
    heavy = _some(rng, rows, 0.2)
    chi_squared = rng.standard_gamma(1.5, (len(heavy), length)) / 1.5
    noise[heavy] /= np.sqrt(chi_squared)  # Student's t with 3 degrees of freedom
    return noise


def _add_spikes(rng: np.random.Generator, latent: np.ndarray) -> None:
    rows, length = latent.shape
    for row in _some(rng, rows, 0.12):
        number = rng.integers(1, max(2, length // 60))
        sign = rng.choice([-1.0, 1.0, 1.0]) if rng.random() < 0.7 else rng.choice([-1.0, 1.0], number)
        places = rng.integers(length, size=number)
        latent[row, places] += sign * rng.gamma(2, 1.5, number) * max(float(latent[row].std()), 0.1)


def _observed(rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """Return what is seen of latent series: as they are, or exponentials, counts, rare demand, bounds."""
    size = len(latent)
    scale = 10 ** rng.uniform(-2, 5, (size, 1))
    level = rng.normal(0, 1, (size, 1)) * 10 ** rng.uniform(-1, 1.3, (size, 1))
    values = (latent + level) * scale
    kind = rng.random(size)
    shape = _standardized(latent)
    exponential = kind < 0.2
    values[exponential] = scale[exponential] * np.exp(
        np.clip(shape[exponential] * rng.uniform(0.1, 0.9, (int(exponential.sum()), 1)), -15, 15)
    )
    positive = (kind >= 0.2) & (kind < 0.3)
    values[positive] -= values[positive].min(axis=1, keepdims=True)
    counts = (kind >= 0.3) & (kind < 0.42)
    mean = 10 ** rng.uniform(-0.5, 3, (int(counts.sum()), 1))
    values[counts] = rng.poisson(mean * np.exp(np.clip(0.5 * shape[counts], -4, 4)))
    rare = (kind >= 0.42) & (kind < 0.5)
    rows = int(rare.sum())
    chance = rng.uniform(0.03, 0.5, (rows, 1)) * np.exp(np.clip(0.4 * shape[rare], -2, 0.6))
    sizes = 1 + rng.poisson(rng.gamma(1.0, 4.0, (rows, 1)), (rows, latent.shape[1]))
    values[rare] = np.where(rng.random((rows, latent.shape[1])) < chance, sizes, 0)
    for row in np.flatnonzero((kind >= 0.5) & (kind < 0.56)):  # full scale, empty tank, closed shop
        low, high = np.quantile(values[row], np.sort(rng.uniform(0.0, 1.0, 2) * [0.3, 0.3] + [0.0, 0.7]))
        values[row] = np.clip(values[row], low, high)
    rounded = (kind >= 0.56) & (kind < 0.66)
    grain = scale[rounded] * 10 ** rng.uniform(-2, -0.3, (int(rounded.sum()), 1))
    values[rounded] = np.round(values[rounded] / grain) * grain
    return values


def _with_gaps_and_ends(rng: np.random.Generator, values: np.ndarray) -> list[np.ndarray]:
    """Return the series with missing values, some cut short, none constant."""
    size, length = values.shape
    gaps = rng.random(size)
    for row in np.flatnonzero(gaps < 0.08):
        values[row, rng.random(length) < 10 ** rng.uniform(-2, -0.4)] = np.nan
    for row in np.flatnonzero((gaps >= 0.08) & (gaps < 0.16)):
        for start in rng.integers(length, size=rng.integers(1, 5)):
            values[row, start : start + rng.integers(1, max(2, length // 12))] = np.nan
    short = rng.random(size) < 0.2
    drawn = np.exp(rng.uniform(np.log(_SHORTEST), np.log(length + 1), size)).astype(int)
    lengths = np.where(short, np.clip(drawn, _SHORTEST, length), length)
    rescue = rng.standard_normal((size, _SHORTEST))
    series = [values[row, length - lengths[row] :].copy() for row in range(size)]
    for target, noise in zip(series, rescue, strict=True):
        observed = target[~np.isnan(target)]
        if len(observed) < 3 or observed.min() == observed.max():
            target[-_SHORTEST:] = noise
    return series
