"""Groups of series that move together: factors, causes, walks with a common trend, a common season."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.latents import Latents, delayed
from flowrank.synthetic.seasons import autoregressive_noise, clean_season

_LARGEST = 8  # series in a group


def group_sizes(rng: np.random.Generator, count: int, *, least: int = 2, most: int = _LARGEST) -> np.ndarray:
    """Numbers of series in groups, small ones more often.

    Examples
    --------
    >>> sizes = group_sizes(np.random.default_rng(0), 1000)
    >>> int(sizes.min()), int(sizes.max())
    (2, 8)
    """
    sizes = np.arange(least, most + 1)
    return rng.choice(sizes, count, p=(1 / sizes) / (1 / sizes).sum())


def factors(rng: np.random.Generator, count: int, latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw groups whose series are sums of one to three hidden ones, each with noise of its own.

    Parameters
    ----------
    rng
        Source of chance.
    count
        Number of groups.
    latents
        Where the hidden series come from.

    Returns
    -------
    tuple of np.ndarray
        Values ``(rows, time)``, the group of each row, and whether its future is known: nowhere.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> values, group, known = factors(rng, 3, Latents(rng, Mixture(), 64, expected=8))
    >>> values.shape[1], len(np.unique(group)), bool(known.any())
    (64, 3, False)
    """
    owner = np.repeat(np.arange(count), group_sizes(rng, count))
    source = np.repeat(np.arange(count), rng.integers(1, 4, count))
    loadings = rng.standard_normal((len(owner), len(source))) * (owner[:, None] == source)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    values = loadings @ latents.standard(len(source)) + _own(rng, len(owner), latents)
    return observed_groups(rng, values, owner)


def lagged(rng: np.random.Generator, count: int, latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw groups in which a series drives the others, each after a delay of its own; the cause comes last.

    Arguments and result are those of `factors`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> lagged(rng, 3, Latents(rng, Mixture(), 64, expected=8))[0].shape[1]
    64
    """
    sizes = group_sizes(rng, count)
    owner = np.repeat(np.arange(count), sizes)
    cause = latents.standard(count, warm=True)
    lags = rng.integers(1, 1 + max(1, latents.past // 2), len(owner))
    decays = np.where(rng.random(len(owner)) < 0.5, 0.0, rng.uniform(0.2, 0.9, len(owner)))
    leads = np.cumsum(sizes) - 1
    lags[leads], decays[leads] = 0, 0.0
    effect = delayed(cause[owner], lags, decays)[:, latents.past :]
    effect /= np.maximum(effect.std(axis=1, keepdims=True), 1e-6)
    own = _own(rng, len(owner), latents)
    own[leads] = 0.0
    return observed_groups(rng, effect * rng.choice([-1.0, 1.0, 1.0], (len(owner), 1)) + own, owner)


def cointegrated(rng: np.random.Generator, count: int, latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw groups of random walks that differ by stationary series only: prices of one good, parts of one market.

    Arguments and result are those of `factors`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> cointegrated(rng, 3, Latents(rng, Mixture(), 64, expected=8))[0].shape[1]
    64
    """
    owner = np.repeat(np.arange(count), group_sizes(rng, count))
    length = latents.length
    walks = (rng.standard_normal((count, length)) + rng.normal(0, 0.1, (count, 1))).cumsum(axis=1)
    walks /= walks.std(axis=1, keepdims=True)
    apart = autoregressive_noise(rng, len(owner), length, 10 ** rng.uniform(-1.5, 0, (len(owner), 1)))
    values = walks[owner] * rng.uniform(0.5, 1.5, (len(owner), 1)) + apart * 10 ** rng.uniform(-1.5, 0, (len(owner), 1))
    return observed_groups(rng, values, owner)


def shared_season(rng: np.random.Generator, count: int, latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw groups with one season, in each of them of another size and with a level that moves on its own.

    Arguments and result are those of `factors`.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> shared_season(rng, 3, Latents(rng, Mixture(), 64, expected=8))[0].shape[1]
    64
    """
    owner = np.repeat(np.arange(count), group_sizes(rng, count))
    season = clean_season(rng, count, latents.length)
    season = (season - season.mean(axis=1, keepdims=True)) / season.std(axis=1, keepdims=True)
    values = season[owner] * rng.uniform(0.3, 1.5, (len(owner), 1)) + _own(rng, len(owner), latents)
    return observed_groups(rng, values, owner)


def observed_groups(
    rng: np.random.Generator, values: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put groups of series of about unit spread on scales and levels; a third of the groups grows exponentially.

    In half of the groups all series have one scale.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values, group, known = observed_groups(rng, rng.standard_normal((4, 50)), np.array([0, 0, 1, 1]))
    >>> values.shape, bool(known.any())
    ((4, 50), False)
    """
    groups = int(owner[-1]) + 1
    one_scale = (rng.random(groups) < 0.5)[owner]
    scale = 10 ** np.where(one_scale, rng.uniform(-2, 4, groups)[owner], rng.uniform(-2, 4, len(owner)))
    grows = (rng.random(groups) < 0.33)[owner, None]
    bent = np.exp(np.clip(values * rng.uniform(0.1, 0.7, (groups, 1))[owner], -8, 8))
    level = rng.normal(0, 3, (len(owner), 1))
    return np.where(grows, bent, values + level) * scale[:, None], owner, np.zeros(len(owner), dtype=bool)


def _own(rng: np.random.Generator, rows: int, latents: Latents) -> np.ndarray:
    """Draw what a series has for itself: noise with some memory, or in a third of them a series of the mixture."""
    noise = autoregressive_noise(rng, rows, latents.length, 10 ** rng.uniform(-1.5, 0, (rows, 1)))
    some = np.flatnonzero(rng.random(rows) < 0.33)
    noise[some] = latents.standard(len(some))
    return noise * 10 ** rng.uniform(-1.7, 0.2, (rows, 1))
