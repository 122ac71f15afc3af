"""Corrections of forecasts: each against the same forecast made by hand, and none of them against the pipeline."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

import flowrank
from flowrank.engine.quantiles import extended, mixture
from flowrank.errors import FlowrankError
from flowrank.forecasting import DEFAULT_LEVELS, Corrections, forecast
from flowrank.forecasting.corrections import excess_level
from tests.cli.calls import quietly

LEVELS = list(map(str, DEFAULT_LEVELS))
REACH = 16
pytestmark = pytest.mark.filterwarnings("ignore:prediction_length", "ignore:We recommend", "ignore::UserWarning")


@pytest.fixture(params=["bolt", "t5"])
def pipeline(request, bolt_folder, t5_folder):
    return flowrank.load({"bolt": bolt_folder, "t5": t5_folder}[request.param])


def wave(length: int = 50, seed: int = 0) -> np.ndarray:
    return 3 + np.sin(np.arange(length) / 3) + 0.1 * np.random.default_rng(seed).normal(size=length)


def rows(pipeline, series, horizon=4, **options) -> np.ndarray:
    """Quantiles (series, horizon, levels)."""
    frame = forecast(pipeline, series, horizon=horizon, **options)
    levels = list(map(str, options.get("quantile_levels", DEFAULT_LEVELS)))
    return frame[levels].to_numpy().reshape(len(series), horizon, -1)


@pytest.mark.parametrize(
    ("series", "horizon"),
    [
        (wave(), 4),
        (np.r_[wave(), np.full(5, np.nan)], 4),
        (wave() + 1e3, 4),
        (np.full(20, 7.0), 4),
        (np.zeros(9), 4),
        (wave(), 3 * REACH),
    ],
)
def test_without_corrections_a_forecast_is_the_pipelines_own(pipeline, series, horizon):
    found = rows(pipeline, [series], horizon, corrections=Corrections.none(), seed=4)
    given = torch.from_numpy(series).float()[None]
    options = {"seed": int(np.random.SeedSequence((4, 0)).generate_state(1)[0])}
    if not getattr(pipeline, "takes_seed", False):
        options = {}
    expected, _ = pipeline.predict_quantiles(given, prediction_length=horizon, **options)
    np.testing.assert_array_equal(found[0], np.sort(expected[0].double().numpy(), axis=-1))


@pytest.mark.parametrize("missing", [1, 5, REACH, 40])
def test_missing_last_values_are_cut_and_as_many_more_steps_forecast(pipeline, missing):
    found = rows(pipeline, [np.r_[wave(), np.full(missing, np.nan)]])
    expected = rows(pipeline, [wave()], horizon=missing + 4)
    np.testing.assert_allclose(found[0], expected[0, missing:], rtol=1e-6)


def test_earlier_values_take_the_place_of_missing_last_ones(pipeline):
    """The model's context holds 64 values: without the tail, 10 more of the past are read."""
    history = wave(200)
    found = rows(pipeline, [np.r_[history, np.full(10, np.nan)]])
    np.testing.assert_allclose(found[0], rows(pipeline, [history[-64:]], horizon=14)[0, 10:], rtol=1e-6)


def test_late_and_complete_series_forecast_together_as_each_alone(pipeline):
    late = [np.r_[wave(30 + i, seed=i), np.full(7 * i % 40, np.nan)] for i in range(12)]
    together = rows(pipeline, late, batch_size=5)
    alone = np.concatenate([rows(pipeline, [one]) for one in late])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-3)


def test_a_high_level_is_taken_down_and_given_back(pipeline):
    """Tiny Chronos-T5 has 61 bins of half a mean magnitude: from 4 · 0.5 · 2 standard deviations on none shows."""
    high = wave() + 1e6
    if type(pipeline).__name__ == "FlowrankT5Pipeline":
        unit = 2.0 ** np.floor(np.log2(high.std() / 8))
        moved = high - (offset := np.round((high.mean() - 2 * high.std()) / unit) * unit)
        np.testing.assert_array_equal(
            rows(pipeline, [high]), rows(pipeline, [moved], corrections=Corrections.none()) + offset
        )
    else:
        np.testing.assert_array_equal(
            rows(pipeline, [high]), rows(pipeline, [high], corrections=Corrections.named(["tails"]))
        )


@given(level=st.floats(-1e6, 1e6), spread=st.floats(1e-3, 1e3), step=st.floats(1e-4, 1))
def test_a_level_is_only_ever_taken_down(level, spread, step):
    values = level + spread * np.array([-1.0, 1.0, -1.0, 1.0])
    offset = excess_level(values, step)
    before, after = np.abs(values).mean(), np.abs(values - offset).mean()
    assert after <= before * (1 + 1e-9) + 0.07 * values.std()
    if offset:
        assert values.std() < 4 * step * before * (1 + 1e-9)
        np.testing.assert_allclose(abs((values - offset).mean()), 2 * values.std(), rtol=0.07)


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-12, 1e20])
def test_a_constant_stays_what_it_is(pipeline, value):
    past = [np.full(length, value) for length in (3, 20, 100)] + [np.array([value, np.nan, value, value, np.nan])]
    np.testing.assert_array_equal(rows(pipeline, past), value)


def test_zeros_stay_zeros_from_the_first_and_other_single_values_are_left_to_the_model(pipeline):
    np.testing.assert_array_equal(rows(pipeline, [np.zeros(1)]), 0)
    single = [np.array([5.0])]
    np.testing.assert_array_equal(
        rows(pipeline, single), rows(pipeline, single, corrections=Corrections.named(["tails"]))
    )


def test_outer_levels_go_on_as_a_normal_tail(bolt_folder):
    pipeline = flowrank.load(bolt_folder)
    inner = rows(pipeline, [wave()])[0]
    found = rows(pipeline, [wave()], quantile_levels=[0.01, 0.05, 0.1, 0.3, 0.9, 0.999])[0]
    for place, level in ((0, 0.01), (1, 0.05), (5, 0.999)):
        near, far = (0, 1) if level < 0.5 else (8, 7)
        slope = (inner[:, near] - inner[:, far]) / (norm.ppf(DEFAULT_LEVELS[near]) - norm.ppf(DEFAULT_LEVELS[far]))
        expected = inner[:, near] + slope * (norm.ppf(level) - norm.ppf(DEFAULT_LEVELS[near]))
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-5)
    np.testing.assert_allclose(found[:, 2:5], inner[:, [0, 2, 8]], rtol=1e-6)


def test_levels_that_no_rule_reaches_are_refused(bolt_folder, t5_folder):
    with pytest.raises(FlowrankError, match=r"levels from 0\.001 to 0\.999"):
        forecast(flowrank.load(bolt_folder), [wave()], horizon=2, quantile_levels=[0.5, 0.9999])
    with pytest.raises(FlowrankError, match="--num-samples 100"):
        forecast(flowrank.load(t5_folder), [wave()], horizon=2, quantile_levels=[0.01])
    many = {"num_samples": 100}
    assert (
        len(forecast(flowrank.load(t5_folder), [wave()], horizon=2, quantile_levels=[0.01], predict_kwargs=many)) == 2
    )


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9, unique=True), st.floats(0.001, 0.999))
def test_extended_quantiles_of_a_normal_are_its_own(scores, level):
    levels = sorted({round(float(norm.cdf(score)), 4) for score in scores} - {0.0, 1.0})
    if len(levels) < 2 or min(np.diff(levels)) < 1e-3:
        return
    known = torch.from_numpy(2 + 3 * norm.ppf(levels))
    np.testing.assert_allclose(
        float(extended(known, levels, [level])[0]), 2 + 3 * norm.ppf(level), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("past", "later"), [(1.0, 0.0), (0.0, 1.0), (3.0, 4.0), (1.0, 0.1)])
def test_the_mixture_of_normals_is_the_normal_of_their_sum(past, later):
    z = torch.from_numpy(norm.ppf(DEFAULT_LEVELS))
    after = (past * z[:, None] + later * z[None, :])[None, :, :, None].expand(2, 9, 9, 5)
    found = mixture(after, DEFAULT_LEVELS)
    assert found.shape == (2, 9, 5)
    np.testing.assert_allclose(found[0, :, 0], np.hypot(past, later) * z, atol=0.06 * np.hypot(past, later))


@pytest.mark.parametrize("name", ["flow-bolt-mini", "flow-t5-mini"])
def test_the_band_of_a_random_walk_widens_over_blocks(name):
    """A walk's standard deviation grows as √t: from block to block, at no place less than just before."""
    pipeline = flowrank.load(name)
    walks = [np.random.default_rng(i).normal(size=200).cumsum() for i in range(8)]
    width = {}
    for kept in (False, True):
        given = Corrections() if kept else Corrections.none()
        found = rows(pipeline, walks, horizon=2 * 64, corrections=given)
        width[kept] = (found[..., -1] - found[..., 0]).mean(axis=0)
    assert width[True][64] > 0.9 * width[True][63]
    assert width[True][-1] > 1.15 * width[True][63]
    assert width[False][64] < 0.92 * width[False][63]


def test_the_stock_path_draws_no_path_alone(t5_folder):
    pipeline = flowrank.load(t5_folder, engine="stock")
    with pytest.raises(FlowrankError, match="keep_spread"):
        pipeline.predict(torch.from_numpy(wave()), prediction_length=REACH + 1, keep_spread=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(forecast(pipeline, [wave()], horizon=REACH + 1)) == REACH + 1  # goes on from the median


def test_both_code_paths_of_a_bolt_keep_the_spread_alike(bolt_folder):
    found = [rows(flowrank.load(bolt_folder, engine=engine), [wave()], 3 * REACH) for engine in ("exact", "stock")]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-3)


def test_non_negative_forecasts_and_histories(pipeline):
    small = np.abs(wave() - 3)
    plain, raised = rows(pipeline, [small]), rows(pipeline, [small], non_negative=True)
    np.testing.assert_array_equal(raised, plain.clip(min=0))
    with pytest.raises(FlowrankError, match=r"-3\.0 in series 'B'"):
        forecast(
            pipeline,
            [flowrank.series.Series("A", small), flowrank.series.Series("B", np.array([1.0, -3.0]))],
            horizon=2,
            non_negative=True,
        )


def test_corrections_by_name():
    assert Corrections.named(["missing-tail", " level"]) == Corrections(True, True, False, False, False)
    assert Corrections.none() == Corrections(*[False] * 5)
    with pytest.raises(FlowrankError, match="missing-tail, level, constant, tails, long-horizon, found 'centre'"):
        Corrections.named(["centre"])


def test_command_line(bolt_folder, tmp_path, capsys):
    source = tmp_path / "series.csv"
    late = np.r_[np.abs(wave() - 3), np.nan, np.nan]
    source.write_text("target\n" + "\n".join("NA" if np.isnan(x) else repr(float(x)) for x in late) + "\n")
    columns = ("--id-column", "", "--timestamp-column", "", "--horizon", 2)
    outputs = {}
    for name, more in {
        "plain": (),
        "none": ("--corrections", "none"),
        "tail": ("--corrections", "missing-tail"),
        "non-negative": ("--non-negative",),
    }.items():
        outputs[name] = tmp_path / f"{name}.csv"
        assert quietly("forecast", bolt_folder, source, *columns, "--output", outputs[name], *more) == 0
    text = {name: path.read_text() for name, path in outputs.items()}
    assert text["plain"] == text["tail"] != text["none"]
    plain, raised = (pd.read_csv(outputs[name])[LEVELS] for name in ("plain", "non-negative"))
    pd.testing.assert_frame_equal(raised, plain.clip(lower=0))
    assert (
        quietly("forecast", bolt_folder, source, *columns, "--output", tmp_path / "x.csv", "--corrections", "all,") != 0
    )
    assert "missing-tail" in capsys.readouterr().err
