"""Values of a magnitude and a spread that fp32 can hold."""

from __future__ import annotations

import numpy as np

_MODERATE = (1e-8, 1e8)  # magnitudes whose squares and sums are safe in fp32
_FLAT = 1e-5  # a smaller spread, relative to the magnitude, drowns in the rounding of fp32


def moderated(values: np.ndarray, centred: bool) -> tuple[np.ndarray, int, float]:
    """Return values of moderate size, with the power of two and the offset that give the original back."""
    exponent, offset = 0, 0.0
    largest = float(np.nanmax(np.abs(values)))
    if largest > 0 and not _MODERATE[0] <= largest <= _MODERATE[1]:
        exponent = int(np.frexp(largest)[1])
        values = np.ldexp(values, -exponent)
        largest = float(np.ldexp(largest, -exponent))
    if centred and 0 < np.nanmax(values) - np.nanmin(values) < _FLAT * largest:
        offset = float(np.nanmean(values))
        values = values - offset
        inner, more, _ = moderated(values, False)
        if more:  # float64 leaves no spread below 2⁻⁵³ of the offset: nothing under- or overflows here
            return inner, exponent + more, float(np.ldexp(offset, -more))
    return values, exponent, offset
