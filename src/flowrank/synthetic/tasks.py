"""Tasks: series that are forecast together, and covariates whose future is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.synthetic.driven import driven
from flowrank.synthetic.latents import Latents
from flowrank.synthetic.mixture import SHORTEST, Mixture
from flowrank.synthetic.multivariate import cointegrated, factors, lagged, shared_season

Groups = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Values (rows, time), the number of the task of each row, whether its future is known; tasks in ascending order."""

SINGLE = "single"
JOINT: dict[str, Callable[[np.random.Generator, int, Latents], Groups]] = {
    "factors": factors,
    "lagged": lagged,
    "cointegrated": cointegrated,
    "shared_season": shared_season,
}
SHARES = {
    SINGLE: 0.3,
    "factors": 0.1,
    "lagged": 0.06,
    "cointegrated": 0.05,
    "shared_season": 0.05,
    "promotions": 0.07,
    "holidays": 0.07,
    "weather": 0.07,
    "price": 0.05,
    "series": 0.05,
    "several": 0.07,
    "irrelevant": 0.06,
}
"""Kinds of tasks: one series, series that move together, and targets driven by covariates."""

MOST = 8
"""Most series in a task."""

_BLOCK = 256  # tasks drawn together; a change of it changes every task


@dataclass(frozen=True)
class Task:
    """Series that are forecast together.

    Attributes
    ----------
    values
        Shape ``(variates, time)``, NaN = missing or before the start.
    known
        Shape ``(variates,)``: whether the future values of a variate are known when forecasting (a covariate). The
        others are targets or covariates of which only the past is known.
    kind
        Kind of task, one of `SHARES` for synthetic ones.

    Raises
    ------
    FlowrankError
        If the shapes are not these.

    Examples
    --------
    >>> Task(np.zeros((2, 30)), np.array([False, True])).size
    2
    """

    values: np.ndarray
    known: np.ndarray
    kind: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.known.shape != self.values.shape[:1]:
            raise FlowrankError(
                "values",
                expected="values of shape (variates, time) and known of shape (variates,)",
                found=f"{self.values.shape} and {self.known.shape}",
            )

    @property
    def size(self) -> int:
        """Number of variates."""
        return len(self.values)


@dataclass(frozen=True)
class TaskMixture:
    """Shares of the kinds of tasks in a stream, and the series that they are made of.

    Attributes
    ----------
    shares
        Share of each kind in `SHARES`; they are scaled to sum to 1.
    mixture
        What single series, and the hidden series behind the others, are drawn from.

    Raises
    ------
    FlowrankError
        If a share is negative or not a number, a kind unknown, or nothing is left to draw.

    Examples
    --------
    >>> tasks = TaskMixture({"promotions": 1.0}).block(np.random.default_rng(0), count=2, length=64)
    >>> [(task.kind, task.values.shape[1], bool(task.known[0])) for task in tasks][0]
    ('promotions', 64, False)
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    mixture: Mixture = field(default_factory=Mixture)

    def __post_init__(self) -> None:
        usable = isinstance(self.shares, Mapping) and all(
            name in SHARES and isinstance(share, int | float) and np.isfinite(share) and share >= 0
            for name, share in self.shares.items()
        )
        if not usable or not sum(self.shares.values()) > 0:
            raise FlowrankError(
                "shares",
                expected=f"non-negative numbers for some of {sorted(SHARES)}, not all 0",
                found=repr(self.shares),
            )

    def block(self, rng: np.random.Generator, *, count: int, length: int) -> list[Task]:
        """Draw ``count`` tasks of ``length`` values in random order.

        Every series but those with a known future has three observed values that are not all the same.

        Raises
        ------
        FlowrankError
            If ``length`` is less than 20.
        """
        check_count(length, "length", SHORTEST)
        names = [name for name, share in self.shares.items() if share > 0]
        weights = np.array([self.shares[name] for name in names], dtype=float)
        counts = rng.multinomial(count, weights / weights.sum()).tolist()
        latents = Latents(rng, self.mixture, length, expected=2 * count)
        tasks: list[Task] = []
        for name, number in zip(names, counts, strict=True):
            if number:
                tasks += _split(name, *_drawn(name, rng, number, latents))
        return [tasks[place] for place in rng.permutation(count)]


def synthetic_tasks(
    count: int, *, length: int = 512, seed: int = 0, shares: Mapping[str, float] | None = None
) -> Iterator[Task]:
    """Yield synthetic tasks; task ``i`` depends on ``seed``, ``length``, ``shares`` and ``i`` only.

    Some are single series. Others are groups: series with common factors, causes and what follows from them later,
    walks that stay together, and series of one season. Others have covariates, most of them known ahead: promotions,
    holidays, weather, prices, other series, or several of these; some of the covariates have no effect at all.

    Parameters
    ----------
    count
        Number of tasks, ≥ 0.
    length
        Number of values of a series, ≥ 20.
    seed
        Whole number ≥ 0.
    shares
        Share of each kind of task; by default, those of `SHARES`.

    Yields
    ------
    Task
        Of 1 to 8 series in float64. Targets come first, then covariates.

    Raises
    ------
    FlowrankError
        If an argument is out of its range.

    Examples
    --------
    >>> task = next(synthetic_tasks(1, length=64, shares={"weather": 1.0}))
    >>> task.kind, task.values.shape[1], bool(task.known[0])
    ('weather', 64, False)
    """
    count, seed = check_count(count, "count", 0), check_count(seed, "seed", 0)
    length = check_count(length, "length", SHORTEST)
    return _stream(TaskMixture(SHARES if shares is None else shares), count, length, seed)


def _stream(mixture: TaskMixture, count: int, length: int, seed: int) -> Iterator[Task]:
    for block in range(-(-count // _BLOCK)):
        tasks = mixture.block(np.random.default_rng([seed, block]), count=_BLOCK, length=length)
        yield from tasks[: count - block * _BLOCK]


def _drawn(name: str, rng: np.random.Generator, count: int, latents: Latents) -> Groups:
    """Rows of ``count`` tasks of one kind."""
    if name == SINGLE:
        values, owner, known = latents.series(count), np.arange(count), np.zeros(count, dtype=bool)
    else:
        values, owner, known = JOINT[name](rng, count, latents) if name in JOINT else driven(rng, count, latents, name)
        _add_gaps(rng, values, known)
    for row in np.flatnonzero(~known & _never_changes(values)):
        values[row, -SHORTEST:] = rng.standard_normal(SHORTEST)
    return values, owner, known


def _split(kind: str, values: np.ndarray, owner: np.ndarray, known: np.ndarray) -> list[Task]:
    bounds = np.flatnonzero(np.diff(owner)) + 1
    parts = zip(np.split(values, bounds), np.split(known, bounds), strict=True)
    return [Task(rows, flags, kind) for rows, flags in parts]


def _add_gaps(rng: np.random.Generator, values: np.ndarray, known: np.ndarray) -> None:
    """Take values out of some rows whose future is not known: single ones, a run, or all before a late start."""
    rows, length = values.shape
    fate = np.where(known, 1.0, rng.random(rows))
    for row in np.flatnonzero(fate < 0.04):
        values[row, rng.random(length) < 10 ** rng.uniform(-2, -0.5)] = np.nan
    for row in np.flatnonzero((fate >= 0.04) & (fate < 0.07)):
        start = rng.integers(length)
        values[row, start : start + rng.integers(1, max(2, length // 10))] = np.nan
    for row in np.flatnonzero((fate >= 0.07) & (fate < 0.15)):
        values[row, : length - int(np.exp(rng.uniform(np.log(SHORTEST), np.log(length))))] = np.nan


def _never_changes(values: np.ndarray) -> np.ndarray:
    """Tell which rows have fewer than three observed values, or only one that repeats."""
    observed = ~np.isnan(values)
    return (observed.sum(axis=1) < 3) | ~(np.fmin.reduce(values, axis=1) < np.fmax.reduce(values, axis=1))
