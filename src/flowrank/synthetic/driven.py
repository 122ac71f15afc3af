"""Groups of targets and of the covariates that drive them, or do not."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.drivers import DRIVERS
from flowrank.synthetic.latents import Latents
from flowrank.synthetic.seasons import autoregressive_noise

_PAST_ONLY = 0.15  # share of groups whose covariates are not known ahead
SEVERAL, IRRELEVANT = "several", "irrelevant"


def driven(
    rng: np.random.Generator, count: int, latents: Latents, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw groups of one to three targets, each followed by its covariates.

    A target is a series of its own plus the effects of the covariates, or their exponential, in some groups counted.
    Three in ten groups have a covariate without effect as well.

    Parameters
    ----------
    rng
        Source of chance.
    count
        Number of groups.
    latents
        Where the targets' own series come from.
    kind
        One of `DRIVERS`, ``"several"`` (two to four of any) or ``"irrelevant"`` (one to three without effect).

    Returns
    -------
    tuple of np.ndarray
        Values ``(rows, time)``, the group of each row, and whether its future is known.

    Examples
    --------
    >>> from flowrank.synthetic.mixture import Mixture
    >>> rng = np.random.default_rng(0)
    >>> values, group, known = driven(rng, 5, Latents(rng, Mixture(), 64, expected=8), "price")
    >>> values.shape[1], len(np.unique(group)), bool(known[0])
    (64, 5, False)
    """
    targets = rng.choice([1, 2, 3], count, p=[0.8, 0.12, 0.08])
    of_target = np.repeat(np.arange(count), targets)
    of_driver, names, matters = _drivers(rng, count, kind)
    shown, effect = _effects(rng, names, latents)
    gains = 10 ** rng.uniform(-0.5, 0.5, (len(of_target), len(of_driver)))
    gains *= (of_target[:, None] == of_driver) & matters
    values = _own(rng, len(of_target), latents) + gains @ effect
    values = _observed(rng, values, of_target)
    known = (rng.random(count) >= _PAST_ONLY)[of_driver]
    owner = np.concatenate([of_target, of_driver])
    order = np.argsort(owner, kind="stable")  # targets of a group stay before its covariates
    flags = np.concatenate([np.zeros(len(of_target), dtype=bool), known])
    return np.concatenate([values, shown])[order], owner[order], flags[order]


def _drivers(rng: np.random.Generator, count: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose covariates: the group of each, the name of each, and whether it matters."""
    if kind == SEVERAL:
        number = rng.integers(2, 5, count)
    elif kind == IRRELEVANT:
        number = rng.integers(1, 4, count)
    else:
        number = np.ones(count, dtype=int)
    owner = np.repeat(np.arange(count), number)
    mixed = kind in (SEVERAL, IRRELEVANT)
    names = rng.choice(list(DRIVERS), len(owner)) if mixed else np.full(len(owner), kind, dtype=object)
    useless = np.flatnonzero(rng.random(count) < (0.0 if kind == IRRELEVANT else 0.3))
    owner = np.concatenate([owner, useless])
    matters = np.arange(len(owner)) < (0 if kind == IRRELEVANT else len(names))
    names = np.concatenate([names, rng.choice(list(DRIVERS), len(useless))])
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    return owner[order], names[order], matters[order]


def _effects(rng: np.random.Generator, names: np.ndarray, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Draw covariates by name: as observed, and their effects with zero mean and unit spread."""
    shown = np.empty((len(names), latents.length))
    effect = np.empty_like(shown)
    for name, draw in DRIVERS.items():
        rows = np.flatnonzero(names == name)
        if len(rows):
            shown[rows], effect[rows] = draw(rng, len(rows), latents)
    effect -= effect.mean(axis=1, keepdims=True)
    return shown, effect / np.maximum(effect.std(axis=1, keepdims=True), 1e-6)


def _own(rng: np.random.Generator, rows: int, latents: Latents) -> np.ndarray:
    """Draw what targets would be without covariates: a series, and in a fifth of the rows noise alone."""
    own = latents.standard(rows)
    noise = autoregressive_noise(rng, rows, latents.length, 10 ** rng.uniform(-1, 0, (rows, 1)))
    return np.where(rng.random((rows, 1)) < 0.2, noise, own + noise * 10 ** rng.uniform(-2, -0.5, (rows, 1)))


def _observed(rng: np.random.Generator, values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Put targets on scales: as they are on some level, exponentials, or whole numbers that count something."""
    groups, rows = int(owner[-1]) + 1, len(owner)
    kind = rng.random((groups, 1))[owner]
    spread = np.maximum(values.std(axis=1, keepdims=True), 1e-6)
    grown = np.exp(np.clip(values / spread * rng.uniform(0.2, 0.8, (rows, 1)), -8, 8))
    counts = rng.poisson(np.minimum(grown * 10 ** rng.uniform(0.3, 3, (rows, 1)), 1e7))
    plain = (values + rng.normal(0, 3, (rows, 1)) * spread) * 10 ** rng.uniform(-2, 4, (rows, 1))
    scaled = grown * 10 ** rng.uniform(-2, 4, (rows, 1))
    return np.where(kind < 0.45, plain, np.where(kind < 0.8, scaled, counts))
