"""Hidden series that groups of series are made of, drawn many at a time."""

from __future__ import annotations

import numpy as np

from flowrank.synthetic.mixture import Mixture

_WARM_UP = 64  # values before the first one, so that what is delayed has a past


class Latents:
    """A supply of series of one mixture: as observed, or of zero mean and unit spread with nothing missing.

    Parameters
    ----------
    rng
        Source of chance.
    mixture
        What they are drawn from.
    length
        Number of values.
    expected
        About as many as will be asked for: they are drawn together, which costs least.

    Examples
    --------
    >>> latents = Latents(np.random.default_rng(0), Mixture(), 64, expected=8)
    >>> latents.series(2).shape, latents.standard(3).shape, latents.past
    ((2, 64), (3, 64), 16)
    """

    def __init__(self, rng: np.random.Generator, mixture: Mixture, length: int, *, expected: int) -> None:
        self.rng, self.mixture, self.length = rng, mixture, length
        self.past = min(_WARM_UP, length // 4)
        self._chunk = max(8, expected)
        self._left = np.empty((0, length + self.past))

    def series(self, rows: int) -> np.ndarray:
        """Shape ``(rows, length)``, NaN = missing, as they are observed."""
        return self._take(rows)[:, self.past :].copy()

    def standard(self, rows: int, *, warm: bool = False) -> np.ndarray:
        """Shape ``(rows, length)``, or ``(rows, past + length)`` if warm: zero mean, unit spread, all finite."""
        values = _standardised(_filled(self._take(rows)))
        return values if warm else values[:, self.past :]

    def _take(self, rows: int) -> np.ndarray:
        while len(self._left) < rows:
            drawn = self.mixture.block(self.rng, rows=self._chunk, length=self.length + self.past)[1]
            self._left = np.concatenate([self._left, drawn])
            self._chunk = max(8, self._chunk // 4)
        taken, self._left = self._left[:rows], self._left[rows:]
        return taken


def delayed(values: np.ndarray, lags: np.ndarray, decays: np.ndarray) -> np.ndarray:
    """Sum the past of each row with weights that fall geometrically from a lag on.

    Parameters
    ----------
    values
        Shape ``(rows, time)``; before it all is 0.
    lags
        Shape ``(rows,)``, whole numbers ≥ 0: delay before anything happens.
    decays
        Shape ``(rows,)``, in [0, 1): weight of a value relative to the one after it.

    Examples
    --------
    >>> delayed(np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([1]), np.array([0.5]))
    array([[0.  , 1.  , 0.5 , 0.25]])
    """
    time = np.arange(values.shape[1])
    source = time - lags[:, None]
    shifted = np.where(source >= 0, np.take_along_axis(values, np.maximum(source, 0), axis=1), 0.0)
    total = np.ascontiguousarray(shifted.T)
    for now in range(1, len(total)):
        total[now] += decays * total[now - 1]
    return np.ascontiguousarray(total.T)


def carried_forward(values: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Repeat, from each mark on, the value that stands there; the first value counts as marked.

    Examples
    --------
    >>> carried_forward(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[False, False, True, False]]))
    array([[1., 1., 3., 3.]])
    """
    latest = np.maximum.accumulate(np.where(marked, np.arange(values.shape[1]), 0), axis=1)
    return np.take_along_axis(values, latest, axis=1)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Divide by the spread what is left without the mean; a constant becomes 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 1e-12 * np.abs(values).max(axis=1, keepdims=True), spread, np.inf)


def _filled(values: np.ndarray) -> np.ndarray:
    """Repeat the latest value where one is missing, and mirror what comes later where nothing was observed yet."""
    values = carried_forward(values, ~np.isnan(values))
    for row in np.flatnonzero(np.isnan(values[:, 0])):
        start = int(np.argmin(np.isnan(values[row])))
        values[row] = np.pad(values[row, start:], (start, 0), mode="symmetric")
    return values
