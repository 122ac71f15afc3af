"""Several targets with covariates: what chronos-forecasting's own ``predict_df`` gives, from any table, and no less."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank
from flowrank.errors import FlowrankError
from flowrank.forecasting import forecast, groups, iter_forecasts, write_forecasts

HORIZON = 7
KEYS = ["item_id", "target_name", "timestamp"]
LENGTHS = {"b": 40, "a": 33, "c": 140}  # the last is longer than the model's context


@pytest.fixture
def model(opened, chronos2_folder):
    """A pipeline of flowrank that reads groups."""
    return opened(flowrank.load, chronos2_folder)


@pytest.fixture(scope="module")
def stock(chronos2_folder):
    """The same model, opened by chronos-forecasting."""
    from chronos import Chronos2Pipeline

    return Chronos2Pipeline.from_pretrained(chronos2_folder)


def tables(freq="D", start="2024-01-30", horizon=HORIZON, ids=LENGTHS):
    """A history with holes and what is known of the time after it, as chronos-forecasting takes them."""
    rng = np.random.default_rng(0)
    histories, futures = [], []
    for name, length in ids.items():
        steps = length + horizon
        frame = pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range(start, periods=steps, freq=freq),
                "sold": rng.normal(size=steps).cumsum() + 30,
                "returned": rng.normal(size=steps),
                "wind": rng.normal(size=steps),
                "price": rng.uniform(1, 5, size=steps),
            }
        )
        frame.loc[3:8, "sold"] = np.nan
        frame.loc[length - 2 : length - 1, "returned"] = np.nan
        frame.loc[10:12, "wind"] = np.nan
        frame.loc[length + 1, "price"] = np.nan
        histories.append(frame[:length])
        futures.append(frame.loc[length:, ["item_id", "timestamp", "price"]])
    return pd.concat(histories, ignore_index=True), pd.concat(futures, ignore_index=True)


def with_categories(history, future):
    """Add a text and a boolean, both known of the future, with a text there that the history does not have."""
    rng = np.random.default_rng(1)
    for frame in (history, future):
        frame["sky"] = rng.choice(["sun", "rain", "snow"], size=len(frame))
        frame["open"] = rng.random(len(frame)) < 0.5
    history.loc[4, "sky"] = None
    future.loc[0, "sky"] = "hail"
    return history, future


def in_order_of_time(frame):
    """The same rows, the series taking turns."""
    mixed = frame.sample(frac=1, random_state=3)
    return mixed.sort_values("timestamp", kind="stable")


def assert_same(found, truth, tolerance=1e-4):
    found, truth = (frame.sort_values(KEYS).reset_index(drop=True) for frame in (found, truth))
    pd.testing.assert_frame_equal(found[KEYS], truth[KEYS], check_dtype=False)
    for frame in (found, truth):
        assert list(frame.columns[3:]) == ["predictions", *(f"0.{i}" for i in range(1, 10))]
    values = truth.iloc[:, 3:].to_numpy()
    values[:, 1:].sort(axis=1)  # a model of random weights crosses its quantiles
    np.testing.assert_allclose(found.iloc[:, 3:], values, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("targets", [["sold", "returned"], ["sold"]])
@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_as_chronos_forecasting_gives(model, stock, targets, engine):
    history, future = with_categories(*tables())
    others = {"sold", "returned"} - set(targets)
    truth = stock.predict_df(
        history.drop(columns=list(others)), future_df=future, target=targets, prediction_length=HORIZON
    )
    model.engine = engine
    found = forecast(
        model,
        in_order_of_time(history),
        horizon=HORIZON,
        target=targets,
        past_covariates=["wind"],
        future=in_order_of_time(future),
        batch_size=2,
    )
    assert_same(found, truth)


def test_beyond_the_reach_of_the_model(model, stock):
    horizon = model.model_prediction_length + 6
    history, future = with_categories(*tables(horizon=horizon, ids={"x": 40, "y": 30}))
    options = {"target": ["sold", "returned"], "future": future, "past_covariates": ["wind"]}
    truth = stock.predict_df(history, future_df=future, target=options["target"], prediction_length=horizon)
    assert_same(forecast(model, history, horizon=horizon, **options), truth, tolerance=1e-3)


@pytest.mark.parametrize("targets", [["sold", "returned"], ["sold"]])
def test_a_series_without_any_value_of_a_covariate(model, stock, targets):
    history, future = with_categories(*tables(ids={"x": 30, "y": 24}))
    history = history.drop(columns=sorted({"sold", "returned"} - set(targets)))
    gone = ["wind", "price"] + ["sky"] * (
        len(targets) > 1
    )  # else a constant, read by the stock code as the batch will have it
    history.loc[history["item_id"] == "y", gone] = None
    future.loc[future["item_id"] == "y", "price"] = np.nan
    truth = stock.predict_df(history, future_df=future, target=targets, prediction_length=HORIZON)
    options = {"target": targets, "future": future, "past_covariates": ["wind"]}
    assert_same(forecast(model, history, horizon=HORIZON, batch_size=1, **options), truth)


def test_the_columns_matter_and_none_comes_in_unasked(model, stock):
    history, future = tables()
    only = ["item_id", "timestamp", "sold"]
    alone = forecast(model, history[[*only, "wind"]], horizon=HORIZON, target="sold", corrections=_none())
    asked = forecast(model, history, horizon=HORIZON, target="sold", past_covariates="wind")
    assert_same(asked, stock.predict_df(history[[*only, "wind"]], target="sold", prediction_length=HORIZON))
    assert_same(alone, stock.predict_df(history[only], target="sold", prediction_length=HORIZON))
    assert not np.allclose(alone["predictions"], asked["predictions"])
    known = forecast(model, history, horizon=HORIZON, target="sold", future=future)
    truth = stock.predict_df(history[[*only, "price"]], future_df=future, target="sold", prediction_length=HORIZON)
    assert_same(known, truth)


def _none():
    return flowrank.forecasting.Corrections.none()


FORMS = {  # how times are written in a file, their frequency, more options
    "days": ("%d.%m.%Y", "D", {}),
    "ambiguous days": ("%d/%m/%Y", "D", {"day_first": True}),
    "hours": ("%Y-%m-%dT%H:%M:%S", "h", {}),
    "months": ("%Y-%m-%d", "MS", {}),
    "weeks": ("%Y/%m/%d", "W-TUE", {}),
    "given": ("%y%m%d %H", "6h", {"date_format": "%y%m%d %H"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_with_many_forms_of_dates(model, stock, tmp_path, form, kind):
    text, freq, options = FORMS[form]
    history, future = tables(freq, ids={"x": 20, "y": 15})
    covariates = {"target": ["sold", "returned"], "prediction_length": HORIZON}
    truth = stock.predict_df(history.drop(columns="wind"), future_df=future, **covariates)
    paths = []
    for name, frame in (("history", history), ("future", future)):
        path = tmp_path / f"{name}.{kind}"
        written = in_order_of_time(frame)
        written["timestamp"] = written["timestamp"].dt.strftime(text)
        written.to_csv(path, index=False) if kind == "csv" else written.to_parquet(path)
        paths.append(path)
    output = tmp_path / f"forecasts.{kind}"
    write_forecasts(model, paths[0], output, horizon=HORIZON, target=["sold", "returned"], future=paths[1], **options)
    found = pd.read_csv(output, parse_dates=["timestamp"]) if kind == "csv" else pd.read_parquet(output)
    assert_same(found, truth)


def test_ids_and_order_are_those_of_the_history(model):
    history, future = tables(ids={20: 12, 3: 12})
    future = future.astype({"item_id": str}).iloc[::-1].sort_values("timestamp", kind="stable")
    found = forecast(model, history, horizon=HORIZON, target=["returned", "sold"], future=future)
    assert list(found["item_id"].unique()) == [20, 3]
    assert list(found["target_name"]) == (["returned"] * HORIZON + ["sold"] * HORIZON) * 2
    frames = list(
        iter_forecasts(model, history, horizon=HORIZON, target=["returned", "sold"], future=future, batch_size=1)
    )
    assert [len(frame) for frame in frames] == [2 * HORIZON] * 2
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True)[found.columns[:4]], found[found.columns[:4]])


def test_more_future_rows_than_needed_and_rows_of_the_past(model):
    history, future = tables(horizon=10)
    exact = forecast(model, history, horizon=4, target="sold", future=future.groupby("item_id").head(4))
    whole = pd.concat([history[future.columns], future]).sort_values("timestamp", kind="stable")
    pd.testing.assert_frame_equal(forecast(model, history, horizon=4, target="sold", future=whole), exact)


def test_gaps_and_zones(model, stock):
    history, future = tables("h", ids={"x": 30})
    history = history.drop(columns=["returned", "wind"])
    gone = history.drop(index=range(3, 9))
    holed = history.copy()
    holed.loc[3:8, ["sold", "price"]] = np.nan
    truth = stock.predict_df(holed, future_df=future, target="sold", prediction_length=HORIZON)
    for zone in (None, "Europe/Berlin"):
        frames = [frame.assign(timestamp=frame["timestamp"].dt.tz_localize(zone)) for frame in (gone, holed, future)]
        found = forecast(model, frames[0], horizon=HORIZON, target="sold", future=frames[2], freq="h")
        same = forecast(model, frames[1], horizon=HORIZON, target="sold", future=frames[2])
        pd.testing.assert_frame_equal(found, same)
        assert_same(same.assign(timestamp=same["timestamp"].dt.tz_localize(None)), truth)
    utc = frames[2].assign(timestamp=frames[2]["timestamp"].dt.tz_convert("UTC"))
    pd.testing.assert_frame_equal(forecast(model, frames[1], horizon=HORIZON, target="sold", future=utc), same)


def test_without_ids_and_times(model, stock):
    history, future = tables(ids={"0": 25})
    options = {"target": ["sold", "returned"], "prediction_length": HORIZON}
    truth = stock.predict_df(history.drop(columns="wind"), future_df=future, **options)
    found = forecast(
        model,
        history.drop(columns=["item_id", "timestamp"]),
        horizon=HORIZON,
        id_column=None,
        timestamp_column=None,
        target=["sold", "returned"],
        future=future.drop(columns=["item_id", "timestamp"]),
    )
    assert list(found["timestamp"]) == list(range(25, 25 + HORIZON)) * 2
    assert_same(found, truth.assign(timestamp=found["timestamp"]))


def test_cross_learning_reads_a_batch_as_one(model, stock):
    history, _ = tables(ids={"x": 30, "y": 30, "z": 24})
    frame = history[["item_id", "timestamp", "sold"]]
    options = {"target": "sold", "prediction_length": HORIZON}
    truth = stock.predict_df(frame, cross_learning=True, **options)
    found = forecast(model, frame, horizon=HORIZON, target="sold", cross_learning=True)
    assert_same(found, truth)
    pairs = forecast(model, frame, horizon=HORIZON, target="sold", cross_learning=True, batch_size=2)
    first = stock.predict_df(frame[frame["item_id"] != "z"], cross_learning=True, **options)
    assert_same(pairs[pairs["item_id"] != "z"], first)
    several = [torch.arange(12.0), torch.ones(9).cumsum(0)]  # whatever else holds single series
    assert len(forecast(model, several, horizon=2, cross_learning=True)) == 4


def test_outer_quantiles_go_on_and_values_of_any_size_are_read(model):
    history, _ = tables(ids={"x": 40})
    options = {"horizon": HORIZON, "target": ["sold", "returned"], "quantile_levels": (0.001, 0.01, 0.5, 0.99, 0.999)}
    found = forecast(model, history, past_covariates=["wind"], **options)
    assert (found["0.001"] < found["0.01"]).all()
    assert (found["0.999"] > found["0.99"]).all()
    large = history.assign(sold=history["sold"] * 2.0**60, wind=history["wind"] * 2.0**-90)
    scaled = forecast(model, large, past_covariates=["wind"], **options)
    sold = found["target_name"] == "sold"
    columns = list(found.columns[3:])
    np.testing.assert_allclose(scaled.loc[sold, columns], found.loc[sold, columns] * 2.0**60, rtol=1e-4)
    np.testing.assert_allclose(scaled.loc[~sold, columns], found.loc[~sold, columns], rtol=1e-3, atol=1e-3)


def test_non_negative_concerns_every_target(model):
    history, _ = tables(ids={"x": 40})
    history["returned"] = history["returned"].abs()
    found = forecast(model, history, horizon=HORIZON, target=["sold", "returned"], non_negative=True)
    assert (found.iloc[:, 3:] >= 0).all(axis=None)
    history.loc[20, "returned"] = -1.0
    with pytest.raises(FlowrankError, match=r"found -1\.0 in 'returned' of series 'x'"):
        forecast(model, history, horizon=HORIZON, target=["sold", "returned"], non_negative=True)


def test_bad_series_are_left_out_with_their_reasons(model, monkeypatch):
    monkeypatch.setattr(groups, "_WINDOW", 1)
    history, future = tables(ids={"good": 20, "text": 20, "empty": 20, "late": 20, "unknown": 20, "fine": 20})
    history = history.astype({"wind": object})
    history.loc[history.index[history["item_id"] == "text"][5], "wind"] = "calm"
    history.loc[history["item_id"] == "empty", "returned"] = np.nan
    last = future.index[future["item_id"] == "late"][-1]
    future = future[(future["item_id"] != "unknown") & (future.index != last)]
    future = pd.concat([future, future[:1].assign(item_id="stranger")])
    options = {"horizon": HORIZON, "target": ["sold", "returned"], "past_covariates": ["wind"], "batch_size": 1}
    for order in (lambda frame: frame, in_order_of_time):
        skipped = []
        found = forecast(model, order(history), future=order(future), skip_bad=True, skipped=skipped, **options)
        assert set(found["item_id"]) == {"good", "fine"}
        reasons = {one.item_id: one.reason for one in skipped}
        assert set(reasons) == {"text", "empty", "late", "unknown", "stranger"}
        assert "numbers in 'wind', found 'calm' at row" in reasons["text"]
        assert "none in 'returned'" in reasons["empty"]
        assert "none for 2024-02-25" in reasons["late"]
        assert "no row for series 'unknown'" in reasons["unknown"]
        with pytest.raises(FlowrankError):
            forecast(model, order(history), future=order(future), **options)
