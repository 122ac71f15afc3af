"""Forecasts of tiny real pipelines, against the pipelines themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank
from flowrank.errors import FlowrankError
from flowrank.forecasting import DEFAULT_LEVELS, forecast, iter_forecasts, write_forecasts
from flowrank.series import Series

LEVELS = list(map(str, DEFAULT_LEVELS))


@pytest.fixture(params=["bolt", "t5"])
def pipeline(request):
    return request.getfixturevalue(request.param)


def series_of_many_lengths(count: int = 40) -> list[Series]:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 100, count)
    return [Series(f"s{i}", rng.normal(size=n).cumsum() + 5) for i, n in enumerate(lengths)]


def test_layout_is_that_of_chronos(bolt):
    frame = pd.DataFrame(
        {
            "item_id": np.repeat(["A", "B"], 20),
            "timestamp": np.tile(pd.date_range("2024-01-31", periods=20, freq="ME"), 2),
            "target": np.random.default_rng(0).normal(size=40),
        }
    )
    ours = forecast(bolt, frame, horizon=5)
    theirs = bolt.predict_df(frame, prediction_length=5)
    assert list(ours.columns) == list(theirs.columns)
    for name in ("item_id", "timestamp", "target_name"):
        assert ours[name].tolist() == theirs[name].tolist()
    np.testing.assert_allclose(ours["predictions"], theirs["predictions"], rtol=1e-5)
    np.testing.assert_allclose(ours[LEVELS], np.sort(theirs[LEVELS], axis=1), rtol=1e-5)


def test_batches_and_order_do_not_matter(bolt):
    source = series_of_many_lengths()
    expected = []
    for series in source:
        quantiles, _ = bolt.predict_quantiles(torch.tensor(series.target), prediction_length=20)
        expected.append(np.sort(quantiles[0].numpy(), axis=-1))
    for batch_size in (1, 3, 64):
        frames = list(iter_forecasts(bolt, source, horizon=20, batch_size=batch_size))
        assert all(len(frame) <= 20 * batch_size for frame in frames)
        whole = pd.concat(frames)
        assert whole["item_id"].drop_duplicates().tolist() == [series.item_id for series in source]
        for series, one in zip(source, expected, strict=True):
            forecasts = whole.loc[whole["item_id"] == series.item_id, LEVELS].to_numpy()
            np.testing.assert_allclose(forecasts, one, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("model", ["flow-bolt", "flow-t5-mini", "flow-2-mini"])
def test_nothing_but_the_series_decides_where_that_is_asked_for(model):
    """To the last bit: not the order, the batch, or the part that a series is in."""
    pipeline = flowrank.load(model)
    source = series_of_many_lengths(60) + [Series(f"l{i}", one.target[:24]) for i, one in enumerate(walks(24))]
    for place, one in enumerate(source):
        one.target[: place % 5] = np.nan
        one.target[len(one) // 2] = np.nan
        one.target[-1] = place
    horizon = 6 if "t5" in model else 70

    def forecasts(parts, batch_size):
        options = {"horizon": horizon, "batch_size": batch_size, "batch_invariant": True}
        frames = [forecast(pipeline, [source[i] for i in part], **options) for part in parts]
        return pd.concat(frames).set_index(["item_id", "timestamp"]).drop(columns="target_name").sort_index()

    whole = forecasts([range(len(source))], 32)
    shuffled = np.random.default_rng(0).permutation(len(source))
    for parts, batch_size in ((np.array_split(shuffled, 5), 32), ([shuffled], 9), ([[i] for i in range(0, 84, 20)], 4)):
        mine = forecasts(parts, batch_size)
        pd.testing.assert_frame_equal(mine, whole.loc[mine.index], check_exact=True)


def walks(count, length=64):
    rng = np.random.default_rng(3)
    return [Series(f"w{i}", rng.normal(size=length).cumsum()) for i in range(count)]


def test_groups_whose_batches_do_not_matter():
    pipeline = flowrank.load("flow-2-mini")
    rng = np.random.default_rng(0)
    ids = np.repeat([f"g{i}" for i in range(30)], np.repeat([20, 33, 50], 10))
    table = pd.DataFrame({"item_id": ids, "a": rng.normal(size=len(ids)), "b": rng.normal(size=len(ids)).cumsum()})
    table["timestamp"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(table.groupby("item_id").cumcount(), unit="D")
    options = {"horizon": 20, "target": ["a"], "past_covariates": ["b"], "batch_invariant": True}
    whole = forecast(pipeline, table, **options)
    for some in (["g3"], ["g29", "g2", "g15", "g16"], [f"g{i}" for i in range(5, 28)]):
        mine = forecast(pipeline, table[table["item_id"].isin(some)], batch_size=7, **options)
        theirs = whole[whole["item_id"].isin(some)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    with pytest.raises(FlowrankError, match=r"batch_invariant: .*cross_learning"):
        forecast(pipeline, table, cross_learning=True, **options)


def test_noise_of_a_batch_as_a_whole_is_refused_where_batches_must_not_matter():
    pipeline = flowrank.load("flow-t5-mini", engine="stock")
    with pytest.raises(FlowrankError, match=r"batch_invariant: .*stock engine.*exact"):
        forecast(pipeline, walks(2), horizon=2, batch_invariant=True)


def test_a_window_only_is_read_ahead(bolt):
    read = []

    def endless():
        for i in range(10**9):
            read.append(i)
            yield Series(str(i), np.arange(5.0))

    frames = iter_forecasts(bolt, endless, horizon=2, batch_size=2)
    next(frames)
    assert len(read) == 32
    assert len(next(frames)) == 4
    assert len(read) == 32


def test_steps_stand_in_for_times(bolt):
    frame = forecast(bolt, [np.arange(10.0), np.arange(3.0)], horizon=2, quantile_levels=(0.9, 0.5))
    assert frame["timestamp"].tolist() == [10, 11, 3, 4]
    assert list(frame.columns)[-2:] == ["0.5", "0.9"]
    with pytest.raises(FlowrankError, match="for all series or for none"):
        forecast(bolt, [{"target": [1.0]}, {"target": [1.0], "start": pd.Period("2024-01", "M")}], horizon=2)


def test_seed_and_global_generator(t5):
    source = series_of_many_lengths(6)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = forecast(t5, source, horizon=4, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    pd.testing.assert_frame_equal(first, forecast(t5, source, horizon=4, batch_size=4))
    assert not first.equals(forecast(t5, source, horizon=4, batch_size=4, seed=1))
    few = forecast(t5, source, horizon=4, predict_kwargs={"num_samples": 1})
    assert (few["0.1"] == few["0.9"]).all()


HARD = {
    "huge": np.array([1e30, 2e30, 1.5e30] * 8),
    "largest": np.array([1e300, -1e300, 5e299] * 8),
    "tiny": np.array([1e-30, 3e-30, 2e-30] * 8),
    "subnormal": np.array([5e-324, 0.0, 1e-323]),
    "both": np.array([1e30, 1e-30, 0.0, 1.0]),
    "constant": np.full(30, 7.0),
    "zero": np.zeros(30),
    "constant huge": np.full(30, 1e35),
    "one point": np.array([3.0]),
    "two points": np.array([3.0, 4.0]),
    "three points": np.array([3, 4, 5]),
    "boolean": np.array([True, False, True]),
    "head": np.array([np.nan] * 30 + [1.0, 2.0]),
    "tail": np.array([1.0, 2.0] + [np.nan] * 30),
    "gaps": np.array([1.0, np.nan, np.nan, 4.0, np.nan, 6.0]),
    "offset": 1e9 + np.sin(np.arange(40.0)) * 1e-3,
    "far offset": 1e200 * (1 + 1e-12 * np.sin(np.arange(40.0))),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("horizon", [3, 20])
def test_hard_series_get_finite_ordered_quantiles(pipeline, name, horizon):
    frame = forecast(pipeline, [HARD[name]], horizon=horizon)
    values = frame[["predictions", *LEVELS]].to_numpy()
    assert values.shape == (horizon, 10)
    assert np.isfinite(values).all()
    assert (np.diff(frame[LEVELS].to_numpy(), axis=1) >= 0).all()


def test_scale_is_undone_exactly(pipeline):
    """Multiplying a series by a power of two multiplies its forecast by it."""
    base = np.random.default_rng(2).normal(size=30) * 2.0**60
    one = forecast(pipeline, [base], horizon=4)[LEVELS].to_numpy()
    for power in (200, -400):
        other = forecast(pipeline, [np.ldexp(base, power)], horizon=4)[LEVELS].to_numpy()
        np.testing.assert_array_equal(other, np.ldexp(one, power))


def test_small_variation_on_a_large_offset_is_seen(bolt):
    wave = np.round(np.sin(np.arange(40.0) / 3) * 64) / 64  # the sum with the offset is exact
    plain = forecast(bolt, [wave], horizon=4)[LEVELS].to_numpy()
    moved = forecast(bolt, [wave + 2.0**30], horizon=4)[LEVELS].to_numpy() - 2.0**30
    # Both are the same numbers to the model, whose fp32 forecasts are of this size.
    np.testing.assert_allclose(moved, plain, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(plain).max())


@pytest.mark.parametrize("values", [np.full(5, np.nan), np.zeros(0), np.r_[np.ones(10), np.full(64, np.nan)]])
def test_series_without_values_are_refused_by_name(pipeline, values):
    with pytest.raises(FlowrankError, match="series 'bad'"):
        forecast(pipeline, [Series("good", np.ones(3)), Series("bad", values)], horizon=2)


def test_models_that_give_no_number_are_refused(bolt, monkeypatch):
    def broken(inputs, prediction_length, quantile_levels):
        return torch.full((len(inputs), prediction_length, 9), torch.nan), torch.zeros(len(inputs), prediction_length)

    monkeypatch.setattr(bolt, "predict_quantiles", broken)
    with pytest.raises(FlowrankError, match="not finite for series '0'"):
        forecast(bolt, [np.arange(3)], horizon=2)


def test_pipelines_that_return_lists(bolt, monkeypatch):
    """Chronos-2 returns a tensor (variables, horizon, levels) for each series."""

    def listed(inputs, prediction_length, quantile_levels):
        quantiles = torch.arange(9.0).expand(1, prediction_length, 9)
        return [quantiles for _ in inputs], [torch.zeros(1, prediction_length) for _ in inputs]

    monkeypatch.setattr(bolt, "predict_quantiles", listed)
    assert forecast(bolt, [np.arange(3)] * 2, horizon=2)[LEVELS].to_numpy().tolist() == [list(range(9))] * 4


@pytest.mark.parametrize("horizon", [0, -1, 1.5, True, "3", None])
def test_bad_horizon(bolt, horizon):
    with pytest.raises(FlowrankError, match="horizon: expected a whole number"):
        iter_forecasts(bolt, [np.ones(3)], horizon=horizon)


def test_bad_levels_batches_and_frequency(bolt):
    for levels in ((), (0.0,), (0.5, 1.0), ("a",), 3):
        with pytest.raises(FlowrankError, match="quantile_levels"):
            forecast(bolt, [np.ones(3)], horizon=1, quantile_levels=levels)
    with pytest.raises(FlowrankError, match="batch_size"):
        forecast(bolt, [np.ones(3)], horizon=1, batch_size=0)
    with pytest.raises(FlowrankError, match=r"freq: .*series 'A'"):
        forecast(bolt, pd.DataFrame({"item_id": ["A"], "timestamp": ["2024-01-01"], "target": [1.0]}), horizon=1)


def test_progress_is_shown(bolt, capsys):
    forecast(bolt, [np.ones(3)], horizon=1, progress=True)
    assert "series" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_equal_the_frame(bolt, tmp_path, suffix):
    source = pd.DataFrame(
        {
            "id": np.repeat([f"s{i}" for i in range(7)], 9),
            "day": np.tile(pd.date_range("2024-01-01", periods=9, freq="h"), 7),
            "y": np.random.default_rng(0).normal(size=63) * 1e20,
        }
    )
    options = {"horizon": 3, "batch_size": 2, "id_column": "id", "timestamp_column": "day", "target": "y"}
    path = write_forecasts(bolt, source, tmp_path / f"out{suffix}", **options)
    read = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, parse_dates=["day"])
    expected = forecast(bolt, source, **options)
    pd.testing.assert_frame_equal(read.astype({"day": "datetime64[ns]"}), expected, rtol=1e-15)
    with pytest.raises(FlowrankError, match="exists"):
        write_forecasts(bolt, source, path, **options)
    before = path.read_bytes()
    broken = pd.concat([source, pd.DataFrame({"id": ["bad"], "day": ["2024-01-01"], "y": [np.nan]})]).astype(
        {"day": "datetime64[ns]"}
    )
    with pytest.raises(FlowrankError, match="'bad'"):
        write_forecasts(bolt, broken, path, overwrite=True, **options)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    write_forecasts(bolt, source, path, overwrite=True, **options)
    assert path.read_bytes() == before


def test_files_with_years_beyond_nanoseconds(bolt, tmp_path):
    rows = [
        {"target": [1.0, 2.0], "start": "2024-01-01", "freq": "M"},
        {"target": [1.0, 2.0], "start": "0001-12-01", "freq": "M"},
    ]
    path = write_forecasts(bolt, rows, tmp_path / "out.parquet", horizon=1, batch_size=1)
    assert [time.year for time in pd.read_parquet(path)["timestamp"]] == [2024, 2]


def test_other_endings_are_refused(bolt, tmp_path):
    with pytest.raises(FlowrankError, match=r"\.csv or \.parquet"):
        write_forecasts(bolt, [np.ones(3)], tmp_path / "out.xlsx", horizon=1)
