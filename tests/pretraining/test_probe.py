"""The probe of seasons gives known errors to forecasters whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowrank.errors import FlowrankError
from flowrank.pretraining import probe
from flowrank.pretraining.probe import NOISE, seasonal_probe


class Forecaster:
    """Stands in for a pipeline: forecasts by a function of the contexts (count, length) and of the horizon."""

    def __init__(self, forecast) -> None:
        self.forecast = forecast
        self.lengths: list[int] = []

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        assert quantile_levels == [0.5]
        self.lengths += [len(series) for series in inputs]
        median = self.forecast(torch.stack(inputs), prediction_length)
        return median.unsqueeze(-1), median


def mean_of_last(period: int, seasons: int):
    """Forecast by the mean of the last seasons."""

    def forecast(context: torch.Tensor, horizon: int) -> torch.Tensor:
        cycle = context[:, -period * seasons :].unflatten(1, (seasons, period)).mean(1)
        return cycle.repeat(1, -(-horizon // period))[:, :horizon]

    return Forecaster(forecast)


@pytest.mark.parametrize("period", [2, 7, 12, 24, 48])
@pytest.mark.parametrize("seasons", [1, 4])
def test_copied_seasons_err_by_their_noise(period, seasons):
    """Over whole seasons, truth has unit spread, and the mean of k seasons errs by NOISE / √k."""
    count = 200
    [error] = seasonal_probe(
        mean_of_last(period, seasons), [period], count=count, length=period * 6, horizon=period * 2
    ).values()
    independent = count * period
    assert NOISE == 0.1
    assert error == pytest.approx(0.1 / seasons**0.5, rel=5 / (2 * independent) ** 0.5)


def test_clean_continuation_has_no_error(monkeypatch):
    monkeypatch.setattr(probe, "NOISE", 0.0)
    for period in (7, 24):
        assert seasonal_probe(mean_of_last(period, 1), [period], length=100, horizon=50)[period] < 1e-6


def test_the_mean_says_nothing():
    mean = Forecaster(lambda context, horizon: context.mean(1, keepdim=True).expand(-1, horizon))
    errors = seasonal_probe(mean, [8, 16], length=512, horizon=64)
    zero = Forecaster(lambda context, horizon: torch.zeros(len(context), horizon))
    for period, error in seasonal_probe(zero, [8, 16], length=512, horizon=64).items():
        assert error == pytest.approx(1, abs=1e-12)
        assert errors[period] == pytest.approx(1, abs=1e-3)  # the noise of a mean of 512


def test_the_wrong_half_of_the_season_errs_twice():
    flipped = mean_of_last(12, 1)
    forecast = flipped.forecast
    flipped.forecast = lambda context, horizon: -forecast(context, horizon)
    assert seasonal_probe(flipped, [12], length=120, horizon=24)[12] == pytest.approx(2, abs=0.02)


def test_what_the_model_sees():
    seen = Forecaster(lambda context, horizon: torch.zeros(len(context), horizon))
    assert set(seasonal_probe(seen, [5, 9], count=3, length=70, horizon=10)) == {5, 9}
    assert seen.lengths == [70] * 6


def test_series_depend_on_seed_and_period_only():
    contexts: list[torch.Tensor] = []
    keeper = Forecaster(lambda context, horizon: contexts.append(context) or torch.zeros(len(context), horizon))
    for seed, periods in ((0, [7, 12]), (0, [12]), (1, [12])):
        seasonal_probe(keeper, periods, count=4, length=48, horizon=12, seed=seed)
    _, both, alone, other = contexts
    assert torch.equal(both, alone)
    assert not torch.equal(alone, other)
    season = alone.unflatten(1, (4, 12)).mean(1)
    assert float((alone - season.repeat(1, 4)).std()) == pytest.approx(0.1 * 0.75**0.5, rel=0.3)


def test_sample_paths_are_the_same_each_time_and_leave_chance_alone():
    sampler = Forecaster(lambda context, horizon: torch.randn(len(context), horizon))
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first = seasonal_probe(sampler, [7], count=4)
    assert torch.equal(torch.randn(3), expected)
    assert seasonal_probe(sampler, [7], count=4) == first
    assert seasonal_probe(sampler, [7], count=4, seed=1) != first


def test_real_pipelines(pipeline):
    errors = seasonal_probe(pipeline, [4, 8], count=2, length=32, horizon=8)
    assert all(np.isfinite(error) and error > 0 for error in errors.values())
    assert seasonal_probe(pipeline, [4, 8], count=2, length=32, horizon=8) == errors


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({name: 0}, name) for name in ("count", "length", "horizon")]
    + [({"periods": [bad]}, "periods") for bad in (0, 1, -3, 2.5, True)],
)
def test_bad_arguments(arguments, word):
    with pytest.raises(FlowrankError, match=word):
        seasonal_probe(mean_of_last(2, 1), **arguments)
