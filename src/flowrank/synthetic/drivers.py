"""Covariates, and what each does to a series that it drives: promotions, holidays, weather, prices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowrank.synthetic.latents import Latents, carried_forward, delayed
from flowrank.synthetic.seasons import autoregressive_noise

Driver = Callable[[np.random.Generator, int, Latents], tuple[np.ndarray, np.ndarray]]
"""Draws covariates as they are observed and their effects, both ``(rows, time)`` and finite."""

_LONGEST = 10  # values of a promotion
_REACH = 3  # values before and after a holiday that feel it


def promotions(rng: np.random.Generator, rows: int, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw promotions, 0 or 1 or of some depth, that lift a series and in half of the rows leave it low afterwards.

    Parameters
    ----------
    rng
        Source of chance.
    rows
        Number of covariates.
    latents
        Says how long they are.

    Returns
    -------
    tuple of np.ndarray
        Covariates and their effects, both ``(rows, time)``.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> shown, effect = promotions(rng, 4, Latents(rng, Mixture(), 64, expected=8))
    >>> shown.shape, effect.shape, bool((effect[shown > 0] > 0).all())
    ((4, 64), (4, 64), True)
    """
    length = latents.length
    duration = rng.integers(1, _LONGEST + 1, (rows, 1))
    begins = rng.random((rows, length)) < 10 ** rng.uniform(-2, -1.2, (rows, 1))
    begins[np.arange(rows), rng.integers(length, size=rows)] = True  # each has one
    last = np.maximum.accumulate(np.where(begins, np.arange(length), -_LONGEST), axis=1)
    active = np.arange(length) - last < duration
    depth = np.where(rng.random((rows, 1)) < 0.4, carried_forward(rng.uniform(0.1, 1, (rows, length)), begins), 1.0)
    shown = active * depth
    lift = shown ** rng.uniform(0.5, 1.5, (rows, 1))
    memory = rng.uniform(0.5, 0.9, rows)
    after = delayed(lift, np.ones(rows, dtype=int), memory) * (1 - memory)[:, None]
    return shown, lift - after * ~active * np.where(rng.random((rows, 1)) < 0.5, rng.uniform(0.2, 1, (rows, 1)), 0)


def holidays(rng: np.random.Generator, rows: int, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw days of a calendar, marked 1, whose effect may begin days before and end days later.

    In a quarter of the rows there are two sorts of days, marked 1 and 2, with sizes of their own. Arguments and result
    are those of `promotions`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> marks, effect = holidays(rng, 4, Latents(rng, Mixture(), 64, expected=8))
    >>> bool(marks.any(axis=1).all()), bool((effect != 0).sum() >= (marks != 0).sum())
    (True, True)
    """
    length = latents.length
    gap = np.exp(rng.uniform(np.log(7), np.log(max(8.0, length / 3)), (rows, 1)))
    jitter = np.where(rng.random((rows, 1)) < 0.5, 0.0, 0.3)
    gaps = gap * (1 + jitter * rng.uniform(-1, 1, (rows, length // 4 + 2)))
    days = np.floor(gaps.cumsum(axis=1) - gap * rng.random((rows, 1))).astype(int)
    row, place = np.nonzero((days >= 0) & (days < length))
    two = rng.random(rows) < 0.25
    marks = np.zeros((rows, length))
    marks[row, days[row, place]] = 1 + (two[row] & (rng.random(len(row)) < 0.5))
    size = np.where(marks == 2, rng.normal(0, 1.5, (rows, 1)), marks > 0)
    profile = rng.standard_normal((rows, 2 * _REACH + 1)) * (rng.random((rows, 2 * _REACH + 1)) < 0.3)
    profile[:, _REACH] = rng.choice([-1, 1, 1], rows) * rng.uniform(1, 2, rows)
    padded = np.pad(size, ((0, 0), (_REACH, _REACH)))
    effect = sum(profile[:, k, None] * padded[:, 2 * _REACH - k :][:, :length] for k in range(2 * _REACH + 1))
    return marks, np.asarray(effect)


def weather(rng: np.random.Generator, rows: int, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw temperatures, with one or two seasons and weather of some days, and what needs heat, cold or either.

    The response is a line, a V, one side of it, or a curve that saturates, in a third of the rows with inertia.
    Arguments and result are those of `promotions`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> weather(rng, 4, Latents(rng, Mixture(), 64, expected=8))[0].shape
    (4, 64)
    """
    length = latents.length + latents.past
    time = np.arange(length)
    degrees = np.zeros((rows, length))
    for periods, share in (((24, 48, 96), 0.6), ((168, 365, 730), 0.7)):
        cycle = np.sin(2 * np.pi * (time / rng.choice(periods, (rows, 1)) + rng.random((rows, 1))))
        degrees += cycle * np.where(rng.random((rows, 1)) < share, rng.uniform(0.3, 1.5, (rows, 1)), 0.0)
    memory = np.exp(rng.uniform(np.log(2), np.log(60), (rows, 1)))
    degrees += autoregressive_noise(rng, rows, length, 1 / memory) * rng.uniform(0.2, 1.2, (rows, 1))
    degrees = (degrees - degrees.mean(axis=1, keepdims=True)) / degrees.std(axis=1, keepdims=True)
    above = degrees - rng.uniform(-1, 1, (rows, 1))
    kind = rng.integers(5, size=(rows, 1))
    responses = [above, np.abs(above), np.maximum(above, 0), np.maximum(-above, 0), np.tanh(2 * above)]
    effect = np.choose(kind, responses)
    inertia = np.where(rng.random(rows) < 0.33, rng.uniform(0.3, 0.9, rows), 0.0)
    effect = delayed(effect, np.zeros(rows, dtype=int), inertia) * (1 - inertia[:, None])
    shown = degrees * rng.uniform(2, 12, (rows, 1)) + rng.uniform(-5, 25, (rows, 1))
    return shown[:, latents.past :], effect[:, latents.past :]


def price(rng: np.random.Generator, rows: int, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw prices that change in steps, freely or among a few; the effect is minus the logarithm: an elasticity.

    Arguments and result are those of `promotions`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> shown, effect = price(rng, 4, Latents(rng, Mixture(), 64, expected=8))
    >>> bool(np.allclose(effect, -np.log(shown)))
    True
    """
    length = latents.length
    changes = rng.random((rows, length)) < 10 ** rng.uniform(-2, -0.7, (rows, 1))
    changes[np.arange(rows), rng.integers(1, length, rows)] = True
    free = rng.normal(0, 0.25, (rows, length))
    ladder = np.log1p(-rng.uniform(0, 0.5, (rows, 3)))
    among = np.take_along_axis(ladder, rng.integers(3, size=(rows, length)), axis=1)
    drawn = np.where(rng.random((rows, 1)) < 0.5, free, among)
    shown = np.exp(carried_forward(drawn, changes)) * 10 ** rng.uniform(-1, 3, (rows, 1))
    return shown, -np.log(shown)


def series(rng: np.random.Generator, rows: int, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw series of the mixture that act in proportion, at once or after a delay, and may act on for a while.

    Arguments and result are those of `promotions`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> series(rng, 4, Latents(rng, Mixture(), 64, expected=8))[1].shape
    (4, 64)
    """
    cause = latents.standard(rows, warm=True)
    lags = np.where(rng.random(rows) < 0.5, 0, rng.integers(1, 1 + max(1, latents.past // 2), rows))
    decays = np.where(rng.random(rows) < 0.6, 0.0, rng.uniform(0.2, 0.9, rows))
    effect = delayed(cause, lags, decays)[:, latents.past :] * rng.choice([-1.0, 1.0], (rows, 1))
    shown = (cause[:, latents.past :] + rng.normal(0, 2, (rows, 1))) * 10 ** rng.uniform(-2, 4, (rows, 1))
    return shown, effect


DRIVERS: dict[str, Driver] = {
    "promotions": promotions,
    "holidays": holidays,
    "weather": weather,
    "price": price,
    "series": series,
}
"""Covariates by name; a kind of task each."""
