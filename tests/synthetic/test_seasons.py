"""Seasons are where they are said to be, and noise is as persistent as it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from flowrank.synthetic import seasons
from flowrank.synthetic.loads import loads
from flowrank.synthetic.regimes import regimes
from flowrank.synthetic.seasons import (
    CLEAN_PERIODS,
    autoregressive_noise,
    calendar,
    clean_season,
    exponential_smoothing,
)

MAKERS = pytest.mark.parametrize("make", [clean_season, calendar, exponential_smoothing, loads, regimes])


def detrended(values: np.ndarray) -> np.ndarray:
    """Rows less their least-squares lines."""
    time = np.arange(values.shape[1])
    design = np.stack([np.ones_like(time), time], axis=1)
    return values - (design @ np.linalg.lstsq(design, values.T, rcond=None)[0]).T


def autocorrelation(values: np.ndarray, lag: int) -> np.ndarray:
    """Of each row at a lag."""
    centred = values - values.mean(axis=1, keepdims=True)
    return (centred[:, lag:] * centred[:, :-lag]).mean(axis=1) / (centred**2).mean(axis=1)


def roughness(values: np.ndarray, lag: int) -> np.ndarray:
    """Mean squared difference at a lag over twice the variance, of each row: 0 repeats itself, 1 does not know."""
    return ((values[:, lag:] - values[:, :-lag]) ** 2).mean(axis=1) / (2 * values.var(axis=1))


@MAKERS
@pytest.mark.parametrize("length", [64, 100, 700])
def test_finite_and_never_constant(make, length):
    values = make(np.random.default_rng(length), 400, length)
    assert values.shape == (400, length)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert (np.ptp(values, axis=1) > 1e-6 * np.abs(values).max(axis=1)).all()


@MAKERS
def test_same_generator_same_series(make):
    one, again, other = (make(np.random.default_rng(seed), 10, 80) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not (one == other).any()


@MAKERS
def test_scales_span_orders_of_magnitude(make):
    spread = np.log10(make(np.random.default_rng(0), 500, 100).std(axis=1))
    assert np.ptp(spread) > 5
    assert spread.min() > -6
    assert spread.max() < 8


@pytest.mark.parametrize("period", [24, 48, 52, 96])
def test_clean_seasons_repeat_at_their_period(monkeypatch, period):
    """A season of unit spread under noise of at most 10^-0.3 = 0.5 correlates with itself by 1 / (1 + 0.5²) = 0.8."""
    monkeypatch.setattr(seasons, "CLEAN_PERIODS", (period,))
    values = detrended(clean_season(np.random.default_rng(period), 200, period * 40))
    assert autocorrelation(values, period).min() > 0.8 - 0.08
    assert np.median(autocorrelation(values, period)) > 0.97
    elsewhere = [autocorrelation(values, lag) for lag in range(1, period)]
    assert np.abs(np.mean(elsewhere, axis=0) + 1 / (period - 1)).max() < 0.1  # a season sums to 0 over a period
    assert np.median(elsewhere) < 0.5


def test_noise_of_clean_seasons_is_log_uniform(monkeypatch):
    """Between 10^-2.5 and 10^-0.3 of the season, as told by the differences between seasons."""
    monkeypatch.setattr(seasons, "CLEAN_PERIODS", (24,))
    values = clean_season(np.random.default_rng(0), 600, 24 * 40)
    differences = values[:, 24:] - values[:, :-24]
    noise = differences.std(axis=1) / np.sqrt(2)
    season = detrended(values).reshape(600, 40, 24).mean(axis=1).std(axis=1)
    level = np.log10(noise / season)
    assert level.min() > -2.5 - 0.05
    assert level.max() < -0.3 + 0.05
    assert level.mean() == pytest.approx(-1.4, abs=5 * 2.2 / np.sqrt(12 * 600))
    assert level.std() == pytest.approx(2.2 / np.sqrt(12), rel=0.1)


def test_all_clean_periods_are_drawn():
    """Each eighth of the rows repeats best at its period, or at a divisor of it."""
    values = detrended(clean_season(np.random.default_rng(0), 800, 960))
    repeat = np.array([roughness(values, period) for period in CLEAN_PERIODS])
    smallest = np.array(CLEAN_PERIODS)[(repeat < 1.3 * repeat.min(axis=0)).argmax(axis=0)]
    for period in CLEAN_PERIODS:
        assert 0.07 < np.mean(smallest == period) < 0.19, period


def test_days_of_a_week_and_days_of_rest(monkeypatch):
    """Five days are alike, and two others.

    So of the days, all are like those a week later, 5 in 7 like the next ones, 3 in 7 like those two or three days on.
    """
    monkeypatch.setattr(seasons, "_NESTS", ((24, 7),))
    values = calendar(np.random.default_rng(0), 500, 24 * 7 * 8)
    unlike = {days: float(np.median(roughness(detrended(values), 24 * days))) for days in (1, 2, 3, 7)}
    assert unlike[7] < 0.5 * unlike[1]
    assert unlike[1] < 0.8 * unlike[2]
    assert unlike[2] == pytest.approx(unlike[3], rel=0.15)
    within = float(np.median(roughness(detrended(values), 5)))
    assert unlike[2] < within


def test_share_of_days_that_are_like_the_next(monkeypatch):
    """Row by row, where levels and noise leave the days as they are: 5 of 7 boundaries, 3 of 7 two days apart."""
    monkeypatch.setattr(seasons, "_NESTS", ((24, 7),))
    monkeypatch.setattr(seasons, "autoregressive_noise", lambda rng, rows, length, forgetting: np.zeros((rows, length)))
    values = calendar(np.random.default_rng(1), 3000, 24 * 7 * 4)
    week = values[:, : 24 * 7]

    def share(days: int) -> np.ndarray:
        return (np.abs(values[:, 24 * days : 24 * (days + 7)] - week) < 0.02 * values.std(axis=1, keepdims=True)).mean(
            axis=1
        )

    steady = share(7) > 0.9  # little of the slow wave
    alike = steady & (share(1) > 0.5)  # no level of its own for each day
    assert 0.3 < alike.sum() / steady.sum() < 0.7
    assert alike.sum() > 20
    assert np.median(share(1)[alike]) == pytest.approx(5 / 7, abs=0.06)
    assert np.median(share(2)[alike]) == pytest.approx(3 / 7, abs=0.06)


def test_size_that_drifts_is_positive_and_as_persistent_as_it_says():
    """Without noise of its own, the log of the size is AR(1): its factor at a lag is exp(-lag / memory)."""
    size = seasons._drifting_size(np.random.default_rng(0), 400, 4000)
    logs = np.log(size)
    spread = logs.std(axis=1)
    assert (size > 0).all()
    assert 0.015 < np.quantile(spread, 0.05) < np.quantile(spread, 0.95) < 0.45
    persistence = autocorrelation(logs, 12)
    assert np.quantile(persistence, 0.02) > np.exp(-1) - 0.1
    assert np.quantile(persistence, 0.98) < np.exp(-12 / 200) + 0.02


@pytest.mark.parametrize("length", [20, 60, 100, 300])
def test_a_season_is_seen_three_times(monkeypatch, length):
    """No profile is asked for that fits fewer than three times."""
    asked = []
    profile = seasons.profile
    monkeypatch.setattr(seasons, "profile", lambda rng, period: asked.append(period) or profile(rng, period))
    for make in (clean_season, exponential_smoothing):
        make(np.random.default_rng(0), 400, length)
    assert max(asked) == max(period for period in (4, 5, 6, 7, 12, 13, 24, 26, 30, 48, 52, 96) if 3 * period <= length)


def test_exponential_smoothing_has_its_season(monkeypatch):
    monkeypatch.setattr(seasons, "_ETS_PERIODS", np.array([12]))
    monkeypatch.setattr(seasons, "_ETS_WEIGHTS", np.array([1.0]))
    changes = np.diff(exponential_smoothing(np.random.default_rng(0), 400, 240), axis=1)
    at_season, between = (np.median(autocorrelation(changes, lag)) for lag in (12, 5))
    assert at_season > 0.3
    assert abs(between) < 0.15


def test_every_row_of_exponential_smoothing_has_its_own_period(monkeypatch):
    monkeypatch.setattr(seasons, "_ETS_PERIODS", np.array([5, 12]))
    monkeypatch.setattr(seasons, "_ETS_WEIGHTS", np.array([1.0, 1.0]))
    changes = np.diff(exponential_smoothing(np.random.default_rng(0), 800, 240), axis=1)
    five, twelve = (autocorrelation(changes, lag) > 0.6 for lag in (5, 12))
    assert 0.3 < five.mean() < 0.55
    assert 0.3 < twelve.mean() < 0.55
    assert (five & twelve).mean() < 0.02


def test_exponential_smoothing_without_a_season_has_none(monkeypatch):
    monkeypatch.setattr(seasons, "_ETS_PERIODS", np.array([1]))
    monkeypatch.setattr(seasons, "_ETS_WEIGHTS", np.array([1.0]))
    changes = np.diff(exponential_smoothing(np.random.default_rng(0), 400, 240), axis=1)
    for lag in (4, 7, 12, 24):
        assert abs(np.median(autocorrelation(changes, lag))) < 0.03


@pytest.mark.parametrize("forgetting", [0.01, 0.1, 0.5, 1.0, 1.5])
def test_coefficient_of_autoregressive_noise(forgetting):
    """Lag k correlates by (1 - forgetting)^k; an estimated coefficient φ has a standard error √((1 - φ²) / n)."""
    rows, length, coefficient = 200, 2000, 1 - forgetting
    noise = autoregressive_noise(np.random.default_rng(0), rows, length, np.full((rows, 1), forgetting))
    before, after = noise[:, :-1], noise[:, 1:]
    error = np.sqrt((1 - coefficient**2) / (rows * length))
    assert abs((before * after).sum() / (before**2).sum() - coefficient) < 5 * error
    assert abs((noise[:, 2:] * noise[:, :-2]).mean() - coefficient**2) < 0.05
    for time in (0, 1, 50, -1):  # stationary from the first value on
        assert abs(noise[:, time].var() - 1) < 5 * np.sqrt(2 / rows)
    residual = after - coefficient * before
    assert residual.var() == pytest.approx(1 - coefficient**2, rel=0.02)


def test_every_row_has_its_own_coefficient():
    forgetting = np.array([[0.05], [0.6], [1.0]])
    noise = autoregressive_noise(np.random.default_rng(0), 3, 40_000, forgetting)
    for row, coefficient in zip(noise, 1 - forgetting[:, 0], strict=True):
        assert np.corrcoef(row[1:], row[:-1])[0, 1] == pytest.approx(coefficient, abs=0.025)
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.1
