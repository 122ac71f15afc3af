"""Quantile levels."""

from __future__ import annotations

from collections.abc import Sequence

from flowrank.errors import FlowrankError

DEFAULT_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def check_levels(levels: Sequence[float]) -> list[float]:
    """Return quantile levels in increasing order without repeats, or refuse them.

    Examples
    --------
    >>> check_levels((0.9, 0.5, 0.1))
    [0.1, 0.5, 0.9]
    """
    try:
        found = sorted({float(level) for level in levels})
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 < level < 1 for level in found):
        raise FlowrankError(
            "quantile_levels",
            expected="numbers in (0, 1)",
            found=repr(levels),
            todo="pass e.g. (0.1, 0.5, 0.9)",
        )
    return found
