"""Series on a level: what moved before moves the same, and a Chronos-Bolt does not see the difference."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowrank
from flowrank.synthetic import lifted


@given(st.integers(0, 95), st.integers(0, 10**6))
def test_a_lifted_series_moves_as_before_around_a_level(number, seed):
    values = np.random.default_rng(seed).normal(size=50)
    values[7] = np.nan
    found = lifted(values, number)
    moved = found - values
    level = 0 if number % 8 else (10, 30, 100)[number // 8 % 3] * np.nanstd(values)
    np.testing.assert_allclose(moved[~np.isnan(values)], level, atol=1e-9)
    assert np.isnan(found[7])


def test_a_bolt_forecasts_a_calm_series_as_before(bolt_folder):
    """It takes series in their own deviations, so only a model with bins of the mean magnitude learns from a level."""
    values = np.random.default_rng(0).normal(size=48)
    pipeline = flowrank.load(bolt_folder)
    for number, level in ((0, 10), (8, 30), (16, 100)):
        before, after = (
            pipeline.predict_quantiles(torch.tensor(one, dtype=torch.float64), prediction_length=8)[0]
            for one in (values, lifted(values, number))
        )
        np.testing.assert_allclose(after - before, level * np.std(values), atol=1e-3)
