"""Backtests on tasks of several series."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowrank
from flowrank.search.backtester import Backtester
from flowrank.search.joint import JointCases


class Known:
    """A pipeline that forecasts a constant, and keeps what it was asked."""

    def __init__(self, value):
        self.value, self.asked = value, []

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        self.asked += inputs
        shapes = [(len(one["target"]), prediction_length, len(quantile_levels)) for one in inputs]
        return [torch.full(shape, self.value) for shape in shapes], None


@pytest.fixture(scope="module")
def cases():
    return JointCases(24, context=128, horizon=8, seed=1)


def test_tasks_have_several_series_and_some_know_the_future(cases):
    pipeline = Known(0.0)
    assert len(cases) == 24
    assert cases.losses(pipeline, "WQL").shape == (24,)
    series = [len(one["target"]) + len(one["past_covariates"]) for one in pipeline.asked]
    assert min(series) > 1
    assert any(one["future_covariates"] for one in pipeline.asked)
    for one in pipeline.asked:
        assert one["future_covariates"].keys() == one["past_covariates"].keys()
        assert all(len(values) == 8 for values in one["future_covariates"].values())


def test_losses_are_those_of_the_targets(cases):
    levels = np.arange(1, 10) / 10
    found = cases.losses(Known(0.25), "WQL")
    for loss, windows in zip(found, cases._windows, strict=True):
        error = windows.target[~windows.known].astype(float)[..., None] - 0.25
        pinball = np.where(error >= 0, levels * error, (levels - 1) * error)
        assert loss == pytest.approx(2 * np.nansum(pinball) / 9)


def test_a_search_compares_on_tasks_too(chronos2_folder, bolt_folder):
    both = Backtester(flowrank.load(chronos2_folder), count=64, horizon=8)
    single = Backtester(flowrank.load(bolt_folder), count=64, horizon=8)
    assert both.series == single.series + 16
    assert both.compare(flowrank.load(chronos2_folder)).loss == 0.0
    alone = Backtester(flowrank.univariate(flowrank.load(chronos2_folder)), count=64, horizon=8)
    assert alone.series == single.series
