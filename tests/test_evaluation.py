"""Scores against gluonts' own evaluation of the same forecasts, and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from gluonts.dataset.split import split
from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
from gluonts.ev.ts_stats import seasonal_error as gluonts_seasonal_error
from gluonts.model.evaluation import evaluate_forecasts
from gluonts.model.forecast import QuantileForecast
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flowrank.errors import FlowrankError
from flowrank.evaluation import (
    Backtest,
    datasets_in,
    evaluate,
    read_backtests,
    relative_scores,
    season_length,
    seasonal_error,
)
from flowrank.forecasting import DEFAULT_LEVELS, Corrections

NAIVE = {"seasonal-naive": "seasonal-naive"}


def records(freq: str = "M", count: int = 9, missing: float = 0.15) -> list[dict]:
    """Return GluonTS records with missing values; one is constant, one is mostly missing."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        target = 10 + rng.normal(size=60 + 7 * i).cumsum()
        target[rng.random(len(target)) < missing] = np.nan
        if i == 3:
            target[:] = 4.0
        if i == 4:
            target[np.arange(len(target)) % 2 == 0] = np.nan
        rows.append({"item_id": f"s{i}", "start": pd.Period("2001-01", freq), "target": target})
    return rows


def by_gluonts(rows: list[dict], backtest: Backtest, predict) -> tuple[float, float]:
    """Return MASE and WQL by gluonts, for forecasts ``(levels, time)`` of histories."""
    _, template = split(rows, offset=backtest.offset)
    test = template.generate_instances(backtest.prediction_length, windows=backtest.num_rolls)
    forecasts = [
        QuantileForecast(
            forecast_arrays=predict(entry),
            forecast_keys=list(map(str, DEFAULT_LEVELS)),
            start_date=entry["start"] + len(entry["target"]),
        )
        for entry in test.input
    ]
    metrics = [MASE(), MeanWeightedSumQuantileLoss(list(DEFAULT_LEVELS))]
    with np.errstate(all="ignore"):
        table = evaluate_forecasts(forecasts, test_data=test, metrics=metrics)
    return float(table["MASE[0.5]"].iloc[0]), float(table["mean_weighted_sum_quantile_loss"].iloc[0])


@pytest.mark.parametrize("backtest", [Backtest("d", -8, 8), Backtest("d", -12, 4, 3), Backtest("d", 40, 5, 2)])
@pytest.mark.parametrize("freq", ["M", "D"])
def test_models_score_as_by_gluonts(bolt, backtest, freq):
    rows = records(freq)

    def predict(entry):
        quantiles, _ = bolt.predict_quantiles(
            torch.tensor(entry["target"]), prediction_length=backtest.prediction_length
        )
        return np.sort(quantiles[0].numpy().astype(np.float64), axis=-1).T

    scores = evaluate({"bolt": bolt}, {"d": rows}, [backtest], batch_size=4, corrections=Corrections.none()).iloc[0]
    expected = by_gluonts(rows, backtest, predict)
    np.testing.assert_allclose([scores["MASE"], scores["WQL"]], expected, rtol=1e-4)
    assert scores["series"] == 9
    assert scores["seconds"] > 0


@pytest.mark.parametrize("backtest", [Backtest("d", -20, 20), Backtest("d", -12, 4, 3)])
@pytest.mark.parametrize("freq", ["M", "D", "Q"])
def test_seasonal_naive_scores_as_by_gluonts(backtest, freq):
    rows = records(freq)
    season = season_length(freq)

    def predict(entry):
        history = np.nan_to_num(entry["target"])
        steps = [history[len(history) - season + k % season] for k in range(backtest.prediction_length)]
        return np.tile(steps, (9, 1))

    scores = evaluate(NAIVE, {"d": rows}, [backtest]).iloc[0]
    np.testing.assert_allclose([scores["MASE"], scores["WQL"]], by_gluonts(rows, backtest, predict), rtol=1e-12)


def test_seasonal_naive_by_hand():
    """Quarterly: the last four values come again; a missing one counts as 0 in the forecast only."""
    target = np.array([1.0, 2, 3, 4, 2, 4, np.nan, 8, 3, 5, 7, np.nan])
    rows = [{"target": target, "start": pd.Period("2020Q1", "Q")}]
    scores = evaluate(NAIVE, {"d": rows}, prediction_length=4).iloc[0]
    in_sample = (abs(2 - 1) + abs(4 - 2) + abs(8 - 4)) / 3
    errors = np.array([abs(3 - 2), abs(5 - 4), abs(7 - 0)])
    np.testing.assert_allclose(scores["MASE"], errors.mean() / in_sample)
    np.testing.assert_allclose(scores["WQL"], errors.sum() / (3 + 5 + 7))


def test_histories_shorter_than_a_season():
    rows = [{"target": [1.0, 2.0, 6.0, 4.0], "start": pd.Period("2020-01", "M")}]
    scores = evaluate(NAIVE, {"d": rows}, prediction_length=1).iloc[0]
    np.testing.assert_allclose(scores["MASE"], abs(4 - 3) / 2.5)
    np.testing.assert_allclose(scores["WQL"], abs(4 - 3) / 4)


@settings(max_examples=60)
@given(
    history=npst.arrays(
        np.float64,
        st.integers(1, 30),
        elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)),
    ),
    season=st.integers(1, 35),
)
def test_seasonal_error_is_that_of_gluonts(history, season):
    with np.errstate(all="ignore"):
        theirs = np.ma.filled(gluonts_seasonal_error(np.ma.masked_invalid(history), season), 0.0)
    np.testing.assert_allclose(seasonal_error(history, season), np.nan_to_num(theirs[0]), rtol=1e-12)


def test_metrics_without_terms_are_nan():
    scores = evaluate(NAIVE, {"constant": [np.zeros(9)], "unknown": [np.r_[1, 2, np.nan]]}, prediction_length=1)
    assert scores[["MASE", "WQL"]].isna().all(axis=None)


def test_table_and_order(bolt, tmp_path):
    long = pd.DataFrame(
        {
            "item_id": np.repeat(["A", "B"], 30),
            "timestamp": np.tile(pd.date_range("2024-01-01", periods=30, freq="D"), 2),
            "target": np.random.default_rng(0).normal(size=60),
        }
    )
    long.to_csv(tmp_path / "b.csv", index=False)
    long.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "notes.txt").write_text("")
    datasets = datasets_in(tmp_path)
    assert list(datasets) == ["a", "b"]
    backtests = [Backtest("z", -1, 1), Backtest("b", -4, 2, 2, "mine"), Backtest("a", -3, 3)]
    models = {"bolt": bolt, **NAIVE}
    scores = evaluate(models, datasets, backtests)
    assert list(scores.columns)[:4] == ["dataset", "model", "MASE", "WQL"]
    assert scores["dataset"].tolist() == ["b", "b", "a", "a"]
    assert scores["model"].tolist() == ["bolt", "seasonal-naive"] * 2
    assert scores["suite"].tolist() == ["mine", "mine", "", ""]
    assert scores["series"].tolist() == [2] * 4
    one = evaluate(models, datasets, {"b": backtests[1]}, prediction_length=3, max_series=1)
    assert one["dataset"].tolist() == ["b", "b", "a", "a"]
    assert one["series"].tolist() == [1] * 4
    again = evaluate(models, datasets, backtests, batch_size=1)
    np.testing.assert_allclose(again[["MASE", "WQL"]], scores[["MASE", "WQL"]], rtol=1e-4)


def test_other_columns_and_progress(capsys):
    frame = pd.DataFrame({"id": ["A"] * 9, "day": pd.date_range("2024", periods=9), "y": np.arange(9.0)})
    options = {"id_column": "id", "timestamp_column": "day", "target": "y", "progress": True}
    scores = evaluate(NAIVE, {"d": frame}, prediction_length=1, **options)
    np.testing.assert_allclose(scores["MASE"], 1.0)
    assert "1/1" in capsys.readouterr().out


def test_datasets_in_files_and_folders(tmp_path):
    (tmp_path / "one").mkdir()
    for name in ("one/a.csv", "one/b.PARQUET", "c.csv", "a.parquet"):
        (tmp_path / name).write_text("")
    assert list(datasets_in([tmp_path / "one", str(tmp_path / "c.csv")])) == ["a", "b", "c"]
    assert list(datasets_in(str(tmp_path / "c.csv"))) == ["c"]
    for paths, word in (
        ([tmp_path / "one", tmp_path / "a.parquet"], "names of their own"),
        (tmp_path / "absent", "not there"),
    ):
        with pytest.raises(FlowrankError, match=word):
            datasets_in(paths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlowrankError, match="has none"):
        datasets_in(tmp_path / "empty")


def test_read_backtests(tmp_path):
    path = tmp_path / "backtests.csv"
    path.write_text(
        "suite,dataset,hf_repo,offset,prediction_length,num_rolls\nzero-shot,m5,x,-28,28,1\nown,NA,x,-4,2,2\n"
    )
    assert read_backtests(path) == [Backtest("m5", -28, 28, 1, "zero-shot"), Backtest("NA", -4, 2, 2, "own")]
    for text, word in (
        ("dataset,offset\nm5,-28\n", "columns: dataset, offset"),
        ("dataset,offset,prediction_length,num_rolls\n", "0 rows"),
        ("", "columns"),
        ("dataset,offset,prediction_length,num_rolls\nm5,-28,28,1\nm5,-28,28,1\n", "'m5' again"),
        ("dataset,offset,prediction_length,num_rolls\nm5,-28,x,1\n", "'m5'"),
        ("dataset,offset,prediction_length,num_rolls\nm5,-28,0,1\n", "prediction_length"),
        ("dataset,offset,prediction_length,num_rolls\nm5,-28,28,2\n", "at most -56"),
    ):
        path.write_text(text)
        with pytest.raises(FlowrankError, match=word):
            read_backtests(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(FlowrankError, match="backtests"):
        read_backtests(path)
    with pytest.raises(FlowrankError, match="no file"):
        read_backtests(tmp_path / "absent.csv")


def test_bad_arguments(bolt):
    data = {"d": [np.arange(9.0)]}
    cases = [
        (({}, data), {}, "models: expected at least one"),
        (({"m": "mean"}, data), {}, "'mean' as 'm'"),
        ((NAIVE, {}), {}, "datasets: expected at least one"),
        ((NAIVE, data), {}, "none for 'd'"),
        ((NAIVE, data), {"backtests": [Backtest("x", -1, 1)]}, "none for 'd'"),
        ((NAIVE, data), {"prediction_length": 0}, "prediction_length"),
        ((NAIVE, data), {"prediction_length": 1, "max_series": 0}, "max_series"),
        ((NAIVE, data), {"prediction_length": 9}, "series '0' of 9 values"),
        ((NAIVE, data), {"backtests": [Backtest("d", 8, 2)]}, "series '0' of 9 values"),
        (
            ({"bolt": bolt}, {"d": [np.r_[np.full(8, np.nan), 1]]}),
            {"prediction_length": 1},
            "data set 'd': .*series '0'",
        ),
    ]
    for arguments, options, word in cases:
        with pytest.raises(FlowrankError, match=word):
            evaluate(*arguments, **options)
    for offset in (0, -1, True):
        with pytest.raises(FlowrankError, match="offset"):
            Backtest("d", offset, 2)


def test_relative_scores_by_hand():
    scores = pd.DataFrame(
        [
            ("a", "m", 1.0, 0.2),
            ("a", "seasonal-naive", 2.0, 0.1),
            ("b", "m", 3.0, 0.2),
            ("b", "seasonal-naive", 3.0, 0.4),
            ("c", "m", 1.0, 1.0),
            ("c", "seasonal-naive", np.nan, 0.0),
            ("d", "seasonal-naive", 1.0, 1.0),
        ],
        columns=["dataset", "model", "MASE", "WQL"],
    )
    model, naive = relative_scores(scores).itertuples()
    np.testing.assert_allclose([model.MASE, model.WQL], [np.sqrt(0.5), 1.0])
    assert model.datasets == 2
    for words in (
        "c MASE (seasonal-naive nan)",
        "c WQL (seasonal-naive 0)",
        "d MASE (m nan)",
        "d WQL (m nan)",
    ):
        assert words in model.left_out
    assert (naive.MASE, naive.WQL, naive.datasets) == (1.0, 1.0, 3)
    none = relative_scores(scores[scores["dataset"] == "c"]).iloc[0]
    assert np.isnan(none["MASE"])
    other = relative_scores(scores, baseline="m")
    np.testing.assert_allclose(other[other["model"] == "seasonal-naive"]["MASE"], np.sqrt(2))
    with pytest.raises(FlowrankError, match="columns"):
        relative_scores(scores.drop(columns="WQL"))
    with pytest.raises(FlowrankError, match="baseline"):
        relative_scores(scores, baseline="x")
    with pytest.raises(FlowrankError, match="'m' on 'a' again"):
        relative_scores(pd.concat([scores, scores[:1]]))
