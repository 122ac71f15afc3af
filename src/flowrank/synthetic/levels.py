"""Calm series: what moves little for the level that it moves around, as prices and rates do."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

EVERY = 8
LEVELS = (10.0, 30.0, 100.0)
"""In standard deviations."""


def lifted(values: Float[np.ndarray, " time"], number: int) -> Float[np.ndarray, " time"]:
    """Put one series of eight, by its number, on a level of 10, 30 or 100 standard deviations; others stay as they are.

    The generator's own series move about as much as they are large; hardly one moves by a hundredth of that. But a
    Chronos-T5 has bins of the mean magnitude: of a calm series it sees a handful, and needs them as they are.

    Examples
    --------
    >>> lifted(np.array([1.0, -1.0, np.nan]), 0), lifted(np.array([1.0, -1.0]), 1)
    (array([11.,  9., nan]), array([ 1., -1.]))
    """
    if number % EVERY:
        return values
    return values + LEVELS[number // EVERY % len(LEVELS)] * np.nanstd(values)
