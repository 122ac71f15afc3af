"""Values of a magnitude and a spread that fp32 can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MODERATE = (1e-8, 1e8)  # magnitudes whose squares and sums are safe in fp32
_FLAT = 1e-5  # a smaller spread, relative to the magnitude, drowns in the rounding of fp32


@dataclass(frozen=True)
class Moderated:
    """Values of moderate size; the original ones are (``values`` + ``offset``) · 2^``exponent``.

    Examples
    --------
    >>> Moderated.of(np.array([2.0**40, 2.0**41]), centred=False).exponent
    42
    """

    values: np.ndarray
    exponent: int = 0
    offset: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray, *, centred: bool) -> Moderated:
        """Bring values, shape ``(time,)`` with NaN where missing, to a moderate size.

        ``centred`` says that the model subtracts a mean itself, so that a large one may go beforehand.
        """
        exponent = 0
        largest = float(np.nanmax(np.abs(values)))
        if largest > 0 and not _MODERATE[0] <= largest <= _MODERATE[1]:
            exponent = int(np.frexp(largest)[1])
            values = np.ldexp(values, -exponent)
            largest = float(np.ldexp(largest, -exponent))
        if centred and 0 < np.nanmax(values) - np.nanmin(values) < _FLAT * largest:
            offset = float(np.nanmean(values))
            inner = cls.of(values - offset, centred=False)
            # float64 leaves no spread below 2⁻⁵³ of the offset: nothing under- or overflows here
            return cls(inner.values, exponent + inner.exponent, float(np.ldexp(offset, -inner.exponent)))
        return cls(values, exponent)

    def restored(self, forecast: np.ndarray) -> np.ndarray:
        """Return a forecast of ``values`` as one of the original."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ldexp(forecast + self.offset, self.exponent)
