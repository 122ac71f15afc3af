"""TSMixup: convex combinations of scaled series, whatever is missing in them, in bounded memory."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowrank.errors import FlowrankError
from flowrank.series import Series
from flowrank.synthetic import mixup as module
from flowrank.synthetic import synthetic_series
from flowrank.synthetic.mixup import mixup, tsmixup


def recovered_weights(values: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Weights of independent rows in their combinations, by least squares on what is observed in each."""
    scaled = values / np.nanmean(np.abs(values), axis=1, keepdims=True)
    weights = []
    for row in mixed:
        seen = ~np.isnan(row)
        solution, *_ = np.linalg.lstsq(np.nan_to_num(scaled[:, seen]).T, row[seen], rcond=None)
        weights.append(solution)
    return np.array(weights)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_convex_combinations_of_scaled_rows(most):
    rng = np.random.default_rng(most)
    # A row's own spread against its level of 3 sets how far apart least squares can tell rows: below 1e-2 the weights
    # that it gives back are as uncertain as the bounds below, and their last digits are the processor's.
    values = rng.standard_normal((12, 60)) * 10.0 ** rng.integers(-2, 9, (12, 1)) + 3
    mixed = mixup(rng, values, 3000, most)
    weights = recovered_weights(values, mixed)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
    assert weights.min() > -1e-9
    used = (weights > 1e-9).sum(axis=1)
    assert used.max() == most
    # The number of rows is uniform; drawn with replacement, two or more are rarely the same of 12.
    distinct = np.mean([len(set(rng.integers(12, size=rng.integers(1, most + 1)))) for _ in range(3000)])
    assert abs(used.mean() - distinct) < 5 * np.sqrt(2 * most**2 / 12 / 3000) + 1e-9
    assert abs(weights.sum(axis=0).mean() - 250) < 1e-6
    assert np.abs(weights.sum(axis=0) / 250 - 1).max() < 0.35


@pytest.mark.parametrize("alpha", [0.3, 1.5, 20.0])
def test_weights_are_dirichlet(alpha):
    """Of two rows, the first's weight is Beta(α, α): mean ½, variance 1 / (8α + 4)."""
    rng = np.random.default_rng(0)
    values = np.stack([np.arange(40.0) + 1, np.cos(np.arange(40))])
    weights = recovered_weights(values, mixup(rng, values, 20_000, 2, alpha))
    pairs = weights[(weights > 1e-12).all(axis=1)]
    assert abs(len(pairs) / 20_000 - 0.25) < 0.02  # two rows in half of the cases, not the same in half of these
    assert abs(pairs[:, 0].mean() - 0.5) < 0.03
    assert pairs[:, 0].var() == pytest.approx(1 / (8 * alpha + 4), rel=0.08)


def test_missing_where_a_component_is_missing():
    """Rows that are known by the place of their hole: the union of holes tells what was mixed, and the fit agrees."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((8, 50))
    for row in range(1, 8):
        values[row, row] = np.nan
    values[7, :20] = np.nan  # short
    mixed = mixup(rng, values, 400)
    weights = recovered_weights(values, mixed)
    for row, weight in zip(mixed, weights, strict=True):
        expected = np.isnan(values[weight > 1e-9]).any(axis=0)
        np.testing.assert_array_equal(np.isnan(row), expected)


def test_components_that_share_nothing():
    values = np.full((2, 20), np.nan)
    values[0, :10] = np.arange(1, 11)
    values[1, 9:] = np.arange(5, 16)
    mixed = mixup(np.random.default_rng(0), values, 200)
    scaled = values / np.nanmean(values, axis=1, keepdims=True)
    kinds = [int(np.isnan(row[0])) for row in mixed]
    assert set(kinds) == {0, 1}
    np.testing.assert_allclose(mixed, scaled[kinds], rtol=1e-12)


@settings(max_examples=80)
@given(
    arrays.arrays(np.float64, (3, 9), elements=st.one_of(st.just(np.nan), st.floats(-1e300, 1e300))),
    st.integers(1, 4),
    st.sampled_from([1e-3, 0.5, 1.5, 1e6]),
)
def test_always_usable(values, most, alpha):
    values[:, -3:] = [1.0, 2.0, 4.0]
    mixed = mixup(np.random.default_rng(0), values, 50, most, alpha)
    observed = ~np.isnan(mixed)
    assert (observed.sum(axis=1) >= 3).all()
    assert np.isfinite(mixed[observed]).all()
    assert (np.nanmin(mixed, axis=1) < np.nanmax(mixed, axis=1)).all()
    assert np.abs(mixed[observed]).max() <= 9 * (1 + 1e-12)  # at most as many means as there are values


def test_no_overflow():
    values = np.array([[1.7e308, -1.7e308, 1.0, 1.7e308], [5e-324, 0, 0, 1e-323]])
    np.testing.assert_allclose(np.abs(mixup(np.random.default_rng(0), values, 20, 1)).mean(axis=1), 1)


def ramps(count: int, points: int) -> list[Series]:
    """Series whose values tell which they are and where: number + place / 1000, never constant."""
    return [Series(str(i), i + 1 + np.arange(points) / 1000) for i in range(count)]


def test_windows_of_the_series():
    windows = [one.target for one in tsmixup(ramps(5, 300), 800, length=40, most=1)]
    starts = []
    for window in windows:
        assert window.shape == (40,)
        step = np.diff(window)
        np.testing.assert_allclose(step, step[0], rtol=1e-9)
        starts.append(window[0] / step[0] / 1000)  # number + start / 1000, whatever the scale
    numbers, places = np.divmod(np.round(np.array(starts) * 1000), 1000)
    assert set(numbers) == {1, 2, 3, 4, 5}
    assert places.min() < 10
    assert places.max() > 250
    assert abs(places.mean() - 130) < 5 * 75 / np.sqrt(800)


def test_combinations_of_short_and_long():
    short, long = Series("short", np.arange(1.0, 11)), Series("long", np.sin(np.arange(100.0)) + 2)
    lengths = {len(one) for one in tsmixup([short, long], 200, length=30)}
    assert lengths == {10, 30}


def test_only_usable_windows():
    """Mostly flat, mostly missing: what is cut out of it still varies."""
    values = np.zeros(5000)
    values[[700, 3000]] = 1
    values[1000:2000] = np.nan
    values[2010:2900] = np.nan
    for one in tsmixup([values, np.full(50, 3.0), np.array([1.0, np.nan, 2.0])], 300, length=25):
        observed = one.target[~np.isnan(one.target)]
        assert len(observed) >= 3
        assert observed.min() < observed.max()
        assert not np.isnan(one.target[0])


@settings(max_examples=100)
@given(
    arrays.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([np.nan, 0.0, 1.0])),
    st.integers(3, 12),
)
def test_starts_of_usable_windows(values, length):
    def usable(window: np.ndarray) -> bool:
        observed = window[~np.isnan(window)]
        return len(observed) >= 3 and len(set(observed)) > 1

    expected = [i for i in range(max(1, len(values) - length + 1)) if usable(values[i : i + length])]
    assert list(module._starts(values, length)) == expected


def test_same_arguments_same_series():
    series = list(synthetic_series(40, length=100))
    frame = pd.concat(
        pd.DataFrame({"item_id": one.item_id, "target": one.target}) for one in sorted(series, key=lambda s: s.item_id)
    )
    many = list(tsmixup(series, 300, length=64, seed=3))
    assert [one.item_id for one in many] == [f"tsmixup-{i}" for i in range(300)]
    for source in (series, iter(series), lambda: iter(series)):
        for one, other in zip(tsmixup(source, 140, length=64, seed=3), many[:140], strict=True):
            np.testing.assert_array_equal(one.target, other.target)
    assert len(list(tsmixup(frame, 5, length=64, timestamp_column=None))) == 5
    assert not np.array_equal(next(tsmixup(series, 1, length=64, seed=4)).target, many[0].target)
    assert len(list(islice(tsmixup(series, 10**12, length=64), 3))) == 3


def test_pool_is_a_uniform_sample(monkeypatch):
    monkeypatch.setattr(module, "_POOL", 6)
    series = ramps(30, 50)
    kept = np.zeros(30)
    for seed in range(500):
        pool = module._pool((one.target for one in series), 50, seed)
        numbers = {int(piece.values[0]) - 1 for piece in pool}
        assert len(numbers) == 6
        kept[list(numbers)] += 1
    assert np.abs(kept - 100).max() < 4.5 * np.sqrt(500 * 0.2 * 0.8)


def test_memory_does_not_grow_with_the_source(monkeypatch):
    monkeypatch.setattr(module, "_POOL", 20)

    def peak(count: int, points: int) -> int:
        tracemalloc.start()
        try:
            source = (Series(str(i), np.sin(np.arange(float(points)) * i)) for i in range(1, count))
            list(tsmixup(source, 10, length=100))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(2000, 800) < 1.2 * peak(100, 800)
    assert peak(100, 20_000) < peak(100, 800) + 12 * 20_000 * 8  # a few arrays of the series being read


def test_bad_arguments():
    series, rng = ramps(3, 50), np.random.default_rng(0)
    for arguments, word in (
        ({"count": -1}, "count"),
        ({"count": 1, "length": 2}, "length"),
        ({"count": 1, "seed": -1}, "seed"),
        ({"count": 1, "most": 0}, "most"),
        ({"count": 1, "alpha": 0}, "alpha"),
        ({"count": 1, "alpha": float("nan")}, "alpha"),
        ({"count": 1, "alpha": True}, "alpha"),
    ):
        with pytest.raises(FlowrankError, match=word):
            tsmixup(series, **arguments)
    with pytest.raises(FlowrankError, match="series: expected a data frame"):
        tsmixup(3, 1)
    with pytest.raises(FlowrankError, match="at least one series with 3 observed values"):
        list(tsmixup([np.ones(50)], 1))
    with pytest.raises(FlowrankError, match="values"):
        mixup(rng, np.empty((0, 20)), 3)
    with pytest.raises(FlowrankError, match="alpha"):
        mixup(rng, np.ones((2, 20)), 3, alpha=-1.0)
    assert list(tsmixup(series, 0)) == []
