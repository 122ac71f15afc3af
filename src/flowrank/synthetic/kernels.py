"""KernelSynth: draws from Gaussian processes with random compositions of kernels, without a Cholesky a series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from flowrank.errors import check_count

_TOLERANCE = 1e-12  # variance that a square root may leave out, of kernels that are 1 at lag 0
_LONGEST_CIRCLE = 2048  # steps; products of periodic kernels are drawn on one circle up to here, else on several
_MOST_VALUES = 2**22  # of an array of paths; beyond, they are drawn in smaller groups


@dataclass(frozen=True, order=True)
class Smooth:
    """k = (1 + (x − x')² / 2a·scale²)^−a, the rational quadratic; at a = ∞, exp(−(x − x')² / 2 scale²), the RBF."""

    scale: float = 1.0
    exponent: float = math.inf

    def at(self, lag: np.ndarray) -> np.ndarray:
        """Return the covariance at lags in units of the series' length."""
        half = 0.5 * (lag / self.scale) ** 2
        return np.exp(-half) if math.isinf(self.exponent) else (1 + half / self.exponent) ** -self.exponent


class Kernel(NamedTuple):
    """A covariance of the values at the times 0 … length − 1, which are also x = time / length in [0, 1).

    It is ``polynomial(x·x') · Π smooth(x − x') · Π exp(−2 sin²(π (time − time') / period))``; if ``white``, that
    where x = x', else 0.
    """

    polynomial: tuple[float, ...] = (1.0,)  # coefficients ≥ 0 of rising powers
    smooth: tuple[Smooth, ...] = ()
    periods: tuple[int, ...] = ()
    white: bool = False

    def times(self, other: Kernel) -> Kernel:
        """Return the product with another kernel."""
        return Kernel(
            tuple(np.convolve(self.polynomial, other.polynomial).tolist()),
            tuple(sorted(self.smooth + other.smooth)),
            tuple(sorted(self.periods + other.periods)),
            self.white or other.white,
        )


_HOURLY, _DAILY, _WEEKLY = (24, 48, 96, 168, 336, 672), (7, 14, 30, 60, 365, 730), (4, 26, 52)
_MONTHLY, _QUARTERLY, _YEARLY = (4, 6, 12), (4, 40), (10,)
BANK = (
    *(Kernel(periods=(period,)) for period in _HOURLY + _DAILY + _WEEKLY + _MONTHLY + _QUARTERLY + _YEARLY),
    *(Kernel((offset**2, 1.0)) for offset in (0.0, 1.0, 10.0)),  # lines
    *(Kernel(smooth=(Smooth(scale),)) for scale in (0.1, 1.0, 10.0)),
    *(Kernel(smooth=(Smooth(exponent=exponent),)) for exponent in (0.1, 1.0, 10.0)),
    *(Kernel((variance,), white=True) for variance in (0.1, 1.0)),
    Kernel(),  # a level
)


@dataclass(frozen=True)
class Composition:
    """Kernels joined from left to right by + and ×: ``((k₀ ∘ k₁) ∘ k₂) ∘ …``.

    Parameters
    ----------
    kernels
        At least one.
    products
        For each kernel after the first, whether it multiplies what is on its left (else it is added).

    Examples
    --------
    >>> cycle, noise = Kernel(periods=(12,)), Kernel((0.1,), white=True)
    >>> [kernel.polynomial for kernel in Composition((cycle, noise, noise), (False, False)).terms]
    [(1.0,), (0.2,)]
    >>> Composition((cycle, noise), (False,)).draw(np.random.default_rng(0), 24).shape
    (24,)
    """

    kernels: tuple[Kernel, ...]
    products: tuple[bool, ...] = ()

    @cached_property
    def terms(self) -> list[Kernel]:
        """The composition multiplied out, a sum; kernels that differ by their polynomials only are one."""
        terms = [self.kernels[0]]
        for kernel, product in zip(self.kernels[1:], self.products, strict=True):
            terms = [term.times(kernel) for term in terms] if product else [*terms, kernel]
        merged: dict[tuple, tuple[float, ...]] = {}
        for polynomial, smooth, periods, white in terms:
            key = ((), (), True) if white else (smooth, periods, False)  # on the diagonal the others are 1
            merged[key] = _sum(merged.get(key, ()), polynomial)
        return [Kernel(polynomial, *key) for key, polynomial in merged.items()]

    @property
    def is_constant(self) -> bool:
        """Whether all its draws are constant."""
        return not any(term.smooth or term.periods or term.white or any(term.polynomial[1:]) for term in self.terms)

    def draw(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """Return a path with this covariance: a linear map of ``rng.standard_normal``, shape ``(length,)``."""
        return sum((_path(rng, term, length) for term in self.terms), np.zeros(length))


def kernel_synth(rng: np.random.Generator, rows: int, length: int, *, most: int = 5) -> np.ndarray:
    """Return draws from Gaussian processes with mean zero, each with a kernel of its own: KernelSynth.

    A kernel is 1 to ``most`` kernels of ``BANK``, with replacement, joined from left to right by + or ×, each
    with probability ½: levels, white noise, lines, RBF and rational quadratic kernels whose scales are shares
    of the length, and periodic ones of hourly to yearly data, in steps. Compositions that only give constant
    series are drawn again.

    The covariance of a series is that of its kernel but for 1e-11 of its variance, without a matrix of the size
    of the length: multiplied out, a composition is a sum of products ``polynomial(x·x') · smooth(x − x') ·
    cycles(x − x')``. Powers of x scale a path. A smooth kernel has a square root of a few dozen rows (pivoted
    Cholesky, stopped at a residual variance of 1e-12). A product of periodic kernels is circulant over the least
    common multiple of its periods, so a fast Fourier transform draws from it. A product of two kernels
    ``Σⱼ bⱼ(x) bⱼ(x')`` and ``k`` is the covariance of ``Σⱼ bⱼ gⱼ``, with independent ``gⱼ`` from ``k``.

    Parameters
    ----------
    rng
        Source of randomness.
    rows
        Number of series.
    length
        Number of values of each, ≥ 2.
    most
        Most kernels in a composition, ≥ 1.

    Returns
    -------
    np.ndarray
        Shape ``(rows, length)``, finite, no row constant.

    Raises
    ------
    FlowrankError
        If ``most`` is not a whole number ≥ 1.

    Notes
    -----
    Ansari et al. (2024), Chronos: Learning the Language of Time Series, arXiv 2403.07815, section 4.2 and
    appendix A. Their code has the times ``linspace(0, 1, length)``, so that a period of 24 lasts
    24 · 1023 / 1024 steps; here it lasts 24.

    Examples
    --------
    >>> kernel_synth(np.random.default_rng(0), 3, 256).shape
    (3, 256)
    """
    values = np.empty((rows, length))
    for row, composition in enumerate(compositions(rng, rows, check_count(most, "most"))):
        values[row] = composition.draw(rng, length)
    return values


def compositions(rng: np.random.Generator, count: int, most: int = 5) -> list[Composition]:
    """Return random compositions of 1 to ``most`` kernels of ``BANK``, none of them constant.

    Examples
    --------
    >>> [len(one.kernels) for one in compositions(np.random.default_rng(0), 4)]
    [5, 4, 3, 2]
    """
    sizes = rng.integers(1, most + 1, count).tolist()
    picked = rng.integers(len(BANK), size=(count, most)).tolist()
    products = (rng.random((count, most - 1)) < 0.5).tolist()
    drawn = [
        Composition(tuple(BANK[i] for i in which[:size]), tuple(product[: size - 1]))
        for size, which, product in zip(sizes, picked, products, strict=True)
    ]
    return [compositions(rng, 1, most)[0] if one.is_constant else one for one in drawn]


def _sum(left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
    """Return the sum of two polynomials."""
    short, long = sorted((left, right), key=len)
    return tuple(a + b for a, b in zip(short, long, strict=False)) + long[len(short) :]


def _path(rng: np.random.Generator, kernel: Kernel, length: int) -> np.ndarray:
    """Return a path with the covariance of a kernel, shape ``(length,)``."""
    ramps = _ramps(kernel.polynomial, length)
    if kernel.white:
        return rng.standard_normal(length) * np.sqrt(np.einsum("jt,jt->t", ramps, ramps))
    circles = _circles(kernel.periods)
    factors = [ramps, *(_waves(circle, length) for circle in circles[:-1])]
    if kernel.smooth:
        factors.append(_smooth_root(kernel.smooth, length))
    shape = tuple(len(factor) for factor in factors)
    if len(circles) > 1 and math.prod(shape) * length > _MOST_VALUES:
        rest = kernel._replace(periods=sum(circles[1:], ()))
        return sum((wave * _path(rng, rest, length) for wave in factors[1]), np.zeros(length))
    path = _cycles(rng, circles[-1], shape, length) if circles else rng.standard_normal(shape) @ factors.pop()
    for factor in reversed(factors):
        path = np.einsum("...jt,jt->...t", path, factor)
    return path


@lru_cache(maxsize=64)
def _ramps(polynomial: tuple[float, ...], length: int) -> np.ndarray:
    """Return R with RᵀR = the polynomial of x·x', shape ``(powers with a weight, length)``."""
    powers = [power for power, weight in enumerate(polynomial) if weight]
    roots = np.sqrt([[polynomial[power]] for power in powers])
    if powers == [0]:
        return np.repeat(roots, length, axis=1)
    return roots * (np.arange(length) / length) ** np.array(powers)[:, None]


@lru_cache(maxsize=128)
def _smooth_root(kernels: tuple[Smooth, ...], length: int) -> np.ndarray:
    """Return B with BᵀB = the product of the kernels, shape ``(rank, length)``, by pivoted Cholesky."""
    time = np.arange(length)
    covariance = np.prod([kernel.at(time / length) for kernel in kernels], axis=0)
    residual = np.ones(length)
    rows: list[np.ndarray] = []
    while len(rows) < length and residual[pivot := int(residual.argmax())] > _TOLERANCE:
        row = covariance[np.abs(time - pivot)]
        if rows:
            known = np.stack(rows)
            row = row - known[:, pivot] @ known
        rows.append(row / math.sqrt(residual[pivot]))
        residual -= rows[-1] ** 2
    return np.stack(rows)


@lru_cache(maxsize=1024)
def _circles(periods: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the periods in groups with a small common multiple, that with most frequencies last."""
    groups: list[tuple[int, ...]] = []
    for period in reversed(periods):
        for place, group in enumerate(groups):
            if math.lcm(period, *group) <= _LONGEST_CIRCLE:
                groups[place] = (*group, period)
                break
        else:
            groups.append((period,))
    return tuple(sorted(groups, key=lambda group: len(_spectrum(group)[0])))


@lru_cache(maxsize=1024)
def _spectrum(periods: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies, in turns a circle, and their amplitudes, of a product of periodic kernels.

    The kernel is Σ amplitude² cos(2π frequency · lag / circle), with the circle that is the least common multiple.
    """
    circle = math.lcm(*periods)
    lags = np.arange(circle)
    covariance = np.prod([np.exp(-2 * np.sin(np.pi * lags / period) ** 2) for period in periods], axis=0)
    power = np.fft.rfft(covariance).real.clip(0) / circle
    power[1 : (circle + 1) // 2] *= 2
    order = np.argsort(power)
    kept = np.sort(order[np.cumsum(power[order]) > _TOLERANCE])
    return kept, np.sqrt(power[kept])


@lru_cache(maxsize=64)
def _waves(periods: tuple[int, ...], length: int) -> np.ndarray:
    """Return W with WᵀW = the product of periodic kernels, shape ``(2 · frequencies, length)``."""
    frequencies, amplitudes = _spectrum(periods)
    angle = 2 * np.pi * np.outer(frequencies, np.arange(length)) / math.lcm(*periods)
    return np.concatenate([amplitudes[:, None] * np.cos(angle), amplitudes[:, None] * np.sin(angle)])


def _cycles(rng: np.random.Generator, periods: tuple[int, ...], shape: tuple[int, ...], length: int) -> np.ndarray:
    """Return independent draws from a product of periodic kernels, shape ``(*shape, length)``."""
    frequencies, scale, clock, circle = _circle(periods, length)
    bins = np.zeros((*shape, circle // 2 + 1), dtype=complex)
    bins[..., frequencies] = rng.standard_normal((*shape, len(frequencies), 2)).view(complex)[..., 0] * scale
    return np.take(np.fft.irfft(bins, circle), clock, axis=-1)


@lru_cache(maxsize=256)
def _circle(periods: tuple[int, ...], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return frequencies, scales of their bins, the place on the circle at each time, and the circle's steps."""
    frequencies, amplitudes = _spectrum(periods)
    circle = math.lcm(*periods)
    alone = frequencies % (circle / 2) == 0  # others have bins on both sides of zero
    return frequencies, amplitudes * np.where(alone, circle, circle / 2), np.arange(length) % circle, circle
