"""Equations of one unknown."""

from __future__ import annotations

from collections.abc import Callable

_HALVINGS = 60


def largest(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Largest number in [low, high] that fits, by bisection; ``low`` where none does.

    Parameters
    ----------
    fits
        Whether a number fits. All numbers below one that fits must fit too.
    low, high
        Ends of the interval; ``high`` itself is approached, not tried.

    Examples
    --------
    >>> round(largest(lambda x: x * x <= 2, 0.0, 2.0), 6)
    1.414214
    """
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
