"""TSMixup: convex combinations of series, drawn or read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowrank.errors import FlowrankError, check_count, is_number

if TYPE_CHECKING:
    from flowrank.series import Series

_OBSERVED = 3  # fewest observed values of a series worth having; two of them differ
_POOL = 4096  # pieces
_PIECE = 8  # longest piece in the pool, in lengths of what is made of it
_BLOCK = 128  # series that share one generator; a change of it changes every series


def mixup(rng: np.random.Generator, values: np.ndarray, rows: int, most: int = 3, alpha: float = 1.5) -> np.ndarray:
    """Return convex combinations of 1 to ``most`` rows, each divided by its mean absolute value: TSMixup.

    The number of rows in a combination is uniform, the rows are drawn with replacement, the weights from a
    symmetric Dirichlet distribution. A value is missing where it is missing in any of them; short series, NaN on
    the left, so leave what they have in common. Where that is fewer than three values or a constant, the row with
    the largest weight stands alone.

    Parameters
    ----------
    rng
        Source of randomness.
    values
        Shape ``(rows_in, length)``, finite or NaN, each row with three observed values, not all the same.
    rows
        Number of combinations.
    most
        Most rows in one, ≥ 1.
    alpha
        Concentration of the weights, > 0: small, one row dominates; large, all weigh the same.

    Returns
    -------
    np.ndarray
        Shape ``(rows, length)``, as usable as ``values``.

    Raises
    ------
    FlowrankError
        If there are no rows to draw from, or ``most`` or ``alpha`` is out of range.

    Notes
    -----
    Ansari et al. (2024), Chronos: Learning the Language of Time Series, arXiv 2403.07815, Algorithm 1.

    Examples
    --------
    >>> values = np.array([[1.0, 2.0, 3.0], [40.0, 20.0, 0.0]])
    >>> mixup(np.random.default_rng(0), values, 4, most=1)  # divided by its mean, 2
    array([[2., 1., 0.],
           [2., 1., 0.],
           [2., 1., 0.],
           [2., 1., 0.]])
    """
    weights = _weights(rng, rows, most, alpha)
    if not len(values):
        raise FlowrankError("values", expected="at least one row", found="none")
    return _combination(values[rng.integers(len(values), size=weights.shape)], weights)


def tsmixup(
    series: Any,
    count: int,
    *,
    length: int = 1024,
    most: int = 3,
    alpha: float = 1.5,
    seed: int = 0,
    **columns: Any,
) -> Iterator[Series]:
    """Yield convex combinations of windows of any series: more of the same kind, for training or calibration.

    The series are read once, into a pool of 4096 pieces of at most ``8 · length`` values: longer series are cut
    into pieces of about the same length; of more pieces than 4096, a uniform random sample stays (reservoir
    sampling). So memory is bounded by about ``0.4 · length`` MB, whatever is read. Each combination is that of
    ``mixup``, of windows of ``length`` values cut at random places from random pieces; shorter pieces are taken
    whole and aligned at their ends, so the result is as short as the shortest. Windows with fewer than three
    observed values or without two different ones are never cut.

    Series ``i`` depends on ``seed``, ``length``, ``most``, ``alpha``, ``i`` and the pool only.

    Parameters
    ----------
    series
        Anything that ``flowrank.read_series`` reads, an iterator too.
    count
        Number of series, ≥ 0.
    length
        Most values of a series, ≥ 3.
    most
        Most series in a combination, ≥ 1.
    alpha
        Concentration of the Dirichlet weights, > 0.
    seed
        Whole number ≥ 0.
    columns
        ``id_column``, ``timestamp_column``, ``target`` and ``freq`` of ``flowrank.read_series``.

    Yields
    ------
    Series
        ``tsmixup-0`` and on, without a calendar, of unit scale.

    Raises
    ------
    FlowrankError
        If an argument is out of range, the source cannot be read, or no series in it is usable.

    Examples
    --------
    >>> from flowrank.synthetic import synthetic_series
    >>> one, two = tsmixup(synthetic_series(50, length=64), 2, length=32)
    >>> one.item_id, two.item_id, len(one) <= 32
    ('tsmixup-0', 'tsmixup-1', True)
    """
    from flowrank.series import read_series

    count, seed, length = (
        check_count(count, "count", 0),
        check_count(seed, "seed", 0),
        check_count(length, "length", _OBSERVED),
    )
    _weights(np.random.default_rng(0), 0, most, alpha)
    items = series  # an iterator need not be held: it is read once
    source = read_series((lambda: items) if isinstance(series, Iterator) else series, **columns)
    return _stream((one.target for one in source), count, length, most, alpha, seed)


class Piece(NamedTuple):
    """Consecutive values of a series, shape ``(time,)``, and where windows may start in it."""

    values: np.ndarray
    starts: Sequence[int] | np.ndarray


def _stream(
    targets: Iterable[np.ndarray], count: int, length: int, most: int, alpha: float, seed: int
) -> Iterator[Series]:
    from flowrank.series import Series

    pool = _pool(targets, length, seed)
    for block in range(-(-count // _BLOCK)):
        rng = np.random.default_rng([seed, block, 1])
        weights = _weights(rng, _BLOCK, most, alpha)
        picked = rng.integers(len(pool), size=weights.shape)
        where = rng.random(weights.shape)
        windows = np.full((*weights.shape, length), np.nan)
        for place in zip(*np.nonzero(weights), strict=True):
            values, starts = pool[picked[place]]
            window = values[starts[int(where[place] * len(starts))] :][:length]
            windows[place][length - len(window) :] = window
        for row, values in enumerate(_combination(windows, weights)[: count - block * _BLOCK]):
            yield Series(f"tsmixup-{block * _BLOCK + row}", values[np.argmin(np.isnan(values)) :].copy())


def _pool(targets: Iterable[np.ndarray], length: int, seed: int) -> list[Piece]:
    """Return a uniform sample of the usable pieces of series (Vitter's algorithm R)."""
    rng = np.random.default_rng([seed, 0, 2])
    pool: list[Piece] = []
    seen = 0
    for target in targets:
        for values in np.array_split(target, max(1, math.ceil(len(target) / (_PIECE * length)))):
            starts = _starts(values, length)
            if not len(starts):
                continue
            seen += 1
            if seen <= _POOL:
                pool.append(Piece(values.copy(), starts))
            elif (place := int(rng.integers(seen))) < _POOL:
                pool[place] = Piece(values.copy(), starts)
    if not pool:
        raise FlowrankError(
            "series",
            expected=f"at least one series with {_OBSERVED} observed values that vary within {length}",
            found="none",
            todo="pass longer or other series",
        )
    return pool


def _starts(values: np.ndarray, length: int) -> Sequence[int] | np.ndarray:
    """Return where windows of ``length`` start that have three observed values, not all the same."""
    observed = np.flatnonzero(~np.isnan(values))
    changed = np.flatnonzero(np.diff(values[observed]))
    starts = np.arange(max(1, len(values) - length + 1))
    ends = starts + length
    number = np.searchsorted(observed, ends) - np.searchsorted(observed, starts)
    # A change lies in a window if both its sides do: all that end in it, but those that begin before it.
    changes = np.searchsorted(observed[changed + 1], ends) - np.searchsorted(observed[changed], starts)
    usable = (number >= _OBSERVED) & (changes > 0)
    return range(len(starts)) if usable.all() else starts[usable].astype(np.int32)


def _weights(rng: np.random.Generator, rows: int, most: int, alpha: float) -> np.ndarray:
    """Return weights that sum to 1, shape ``(rows, most)``, with 0 for what is not used."""
    most = check_count(most, "most")
    if not is_number(alpha) or not 0 < alpha < math.inf:
        raise FlowrankError("alpha", expected="a number > 0", found=repr(alpha), todo="pass e.g. alpha=1.5")
    weights = np.zeros((rows, most))
    sizes = rng.integers(1, most + 1, rows)
    for size in range(1, most + 1):
        chosen = np.flatnonzero(sizes == size)
        weights[chosen, :size] = rng.dirichlet(np.full(size, alpha), len(chosen))
    return weights


def _combination(components: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combine scaled components, shape ``(rows, most, length)``, by their weights; the heaviest where that fails."""
    mixed = np.zeros((len(components), components.shape[2]))
    for place in range(components.shape[1]):
        used = weights[:, place] > 0
        mixed[used] += weights[used, place, None] * _scaled(components[used, place])
    observed = ~np.isnan(mixed)
    varies = np.fmin.reduce(mixed, axis=1) < np.fmax.reduce(mixed, axis=1)
    unusable = (observed.sum(axis=1) < _OBSERVED) | ~varies
    mixed[unusable] = _scaled(components[unusable, weights[unusable].argmax(axis=1)])
    return mixed


def _scaled(values: np.ndarray) -> np.ndarray:
    """Divide rows by the mean of their observed absolute values."""
    shares = values / np.fmax.reduce(np.abs(values), axis=1, keepdims=True)  # so that no sum is infinite
    return shares / np.nanmean(np.abs(shares), axis=1, keepdims=True)
