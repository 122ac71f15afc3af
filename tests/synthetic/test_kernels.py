"""KernelSynth: the linear map from noise to a series is a square root of the kernel's dense covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.synthetic import kernels
from flowrank.synthetic.kernels import BANK, Composition, Kernel, Smooth, compositions, kernel_synth


class UnitNoise:
    """Stands in for a generator: all normals are 0 but that number ``one``, which is 1; counts them."""

    def __init__(self, one: int = -1) -> None:
        self.one = one
        self.used = 0

    def standard_normal(self, shape) -> np.ndarray:
        noise = np.zeros(shape)
        if self.used <= self.one < self.used + noise.size:
            noise.flat[self.one - self.used] = 1
        self.used += noise.size
        return noise


def linear_map(composition: Composition, length: int) -> np.ndarray:
    """A with series = noise @ A, shape (noise, length)."""
    counter = UnitNoise()
    assert not composition.draw(counter, length).any()
    return np.stack([composition.draw(UnitNoise(i), length) for i in range(counter.used)])


def dense(kernel: Kernel, length: int) -> np.ndarray:
    time = np.arange(length)
    lag = time[:, None] - time[None, :]
    x = time / length
    covariance = sum(weight * np.outer(x, x) ** power for power, weight in enumerate(kernel.polynomial))
    for part in kernel.smooth:
        squared = (lag / length / part.scale) ** 2
        if np.isinf(part.exponent):
            covariance = covariance * np.exp(-squared / 2)
        else:
            covariance = covariance / (1 + squared / (2 * part.exponent)) ** part.exponent
    for period in kernel.periods:
        covariance = covariance * np.exp(np.cos(2 * np.pi * lag / period) - 1)  # 2 sin² = 1 − cos of twice the angle
    return covariance * np.eye(length) if kernel.white else covariance


def dense_composition(composition: Composition, length: int) -> np.ndarray:
    covariance = dense(composition.kernels[0], length)
    for kernel, product in zip(composition.kernels[1:], composition.products, strict=True):
        covariance = covariance * dense(kernel, length) if product else covariance + dense(kernel, length)
    return covariance


def assert_square_root(composition: Composition, length: int, tolerance: float = 1e-11) -> None:
    """Relative to the standard deviations of the two values: each of them has its own variance right."""
    root, truth = linear_map(composition, length), dense_composition(composition, length)
    scale = np.sqrt(truth.diagonal())
    scale[scale == 0] = 1e-9
    np.testing.assert_array_less(np.abs(root.T @ root - truth) / np.outer(scale, scale), tolerance)


@pytest.mark.parametrize("kernel", BANK, ids=str)
def test_each_kernel_of_the_bank(kernel):
    assert_square_root(Composition((kernel,)), 150)


def test_bank_is_that_of_the_paper():
    parts = [
        ("cycle", kernel.periods[0])
        if kernel.periods
        else ("RBF" if np.isinf(kernel.smooth[0].exponent) else "RQ", *vars(kernel.smooth[0]).values())
        if kernel.smooth
        else ("white" if kernel.white else "polynomial", kernel.polynomial)
        for kernel in BANK
    ]
    assert len(parts) == 33
    assert sorted(value for kind, value, *_ in parts if kind == "cycle") == sorted(
        [24, 48, 96, 24 * 7, 48 * 7, 96 * 7, 7, 14, 30, 60, 365, 730, 4, 26, 52, 4, 6, 12, 4, 40, 10]
    )
    others = [part for part in parts if part[0] != "cycle"]
    assert others == [
        *(("polynomial", (offset, 1.0)) for offset in (0.0, 1.0, 100.0)),
        *(("RBF", scale, np.inf) for scale in (0.1, 1.0, 10.0)),
        *(("RQ", 1.0, exponent) for exponent in (0.1, 1.0, 10.0)),
        ("white", (0.1,)),
        ("white", (1.0,)),
        ("polynomial", (1.0,)),
    ]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(BANK), st.booleans()), min_size=1, max_size=4),
    st.integers(2, 40),
)
def test_random_compositions(parts, length):
    composition = Composition(tuple(kernel for kernel, _ in parts), tuple(product for _, product in parts[1:]))
    counter = UnitNoise()
    composition.draw(counter, length)
    assume(counter.used < 4000)  # rows of the map
    assert_square_root(composition, length)


CYCLES_ON_TWO_CIRCLES = Kernel(periods=(365, 96))  # least common multiple 35040


@pytest.mark.parametrize("most", [2**22, 100], ids=["at once", "in groups"])
@pytest.mark.parametrize(
    ("parts", "products"),
    [
        ((CYCLES_ON_TWO_CIRCLES,), ()),
        ((CYCLES_ON_TWO_CIRCLES, Kernel(smooth=(Smooth(),))), (True,)),
        ((CYCLES_ON_TWO_CIRCLES, Kernel((1.0, 1.0)), Kernel((0.1,), white=True)), (True, False)),
    ],
)
def test_periods_without_a_small_common_multiple(monkeypatch, parts, products, most):
    monkeypatch.setattr(kernels, "_MOST_VALUES", most)
    assert_square_root(Composition(parts, products), 60)


def test_full_length():
    """Long enough that cycles wrap round and smooth kernels have their full rank."""
    cycle = Kernel(periods=(24,))
    for other in (Kernel(periods=(168,)), Kernel(smooth=(Smooth(0.1),)), Kernel((1.0, 1.0))):
        assert_square_root(Composition((cycle, other, Kernel((0.1,), white=True)), (True, False)), 600)


def test_empirical_covariance():
    """With real noise: Wick's theorem gives the standard error of a covariance estimated from draws."""
    length, count = 30, 20_000
    composition = Composition((BANK[0], BANK[26], BANK[31]), (True, False))
    rng = np.random.default_rng(0)
    paths = np.stack([composition.draw(rng, length) for _ in range(count)])
    truth = dense_composition(composition, length)
    error = np.sqrt((truth**2 + np.outer(truth.diagonal(), truth.diagonal())) / count)
    assert np.abs((paths.T @ paths / count - truth) / error).max() < 5
    assert np.abs(paths.mean(axis=0) / np.sqrt(truth.diagonal() / count)).max() < 4.5


@pytest.mark.parametrize("length", [20, 64, 1024])
def test_rows_are_finite_and_never_constant(length):
    values = kernel_synth(np.random.default_rng(length), 300, length)
    assert values.shape == (300, length)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert (np.ptp(values, axis=1) > 1e-6 * np.abs(values).max(axis=1)).all()


def test_constant_compositions_are_drawn_again():
    assert Composition((Kernel(), Kernel((2.0,))), (True,)).is_constant
    for moving in (BANK[0], BANK[21], BANK[24], BANK[30]):
        assert not Composition((Kernel(), moving), (True,)).is_constant
    drawn = compositions(np.random.default_rng(0), 2000, most=1)
    assert not any(one.is_constant for one in drawn)
    assert {one.kernels[0] for one in drawn} == set(BANK) - {Kernel()}


def test_shares_of_sizes_and_operators():
    drawn = compositions(np.random.default_rng(0), 5000)
    sizes = np.bincount([len(one.kernels) for one in drawn], minlength=6)[1:] / 5000
    assert np.abs(sizes - 0.2).max() < 0.03
    products = [product for one in drawn for product in one.products]
    assert abs(np.mean(products) - 0.5) < 0.02


def test_same_generator_same_series():
    one, other = (kernel_synth(np.random.default_rng(5), 20, 100) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_most_is_a_count(most):
    with pytest.raises(FlowrankError, match="most"):
        kernel_synth(np.random.default_rng(0), 1, 30, most=most)
