"""Series in a store are those of their file, and windows are pieces of them at any place."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pandas as pd
import pytest

from flowrank.errors import FlowrankError
from flowrank.pretraining import store as module
from flowrank.pretraining.store import SHORTEST, SeriesStore

LENGTHS = {"a": 40, "b": 7, "c": 8, "d": 100, "e": 1}


def frame_of(lengths: dict[str, int], seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frames = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range("2020-01-01", periods=length, freq="D"),
                "target": rng.normal(size=length).cumsum().round(3),
            }
        )
        for name, length in lengths.items()
    ]
    return pd.concat(frames, ignore_index=True)


def chi_squared(counts: np.ndarray, chances: np.ndarray | None = None) -> float:
    """Pearson's statistic, standardised: about normal for many cells."""
    chances = np.full(len(counts), 1 / len(counts)) if chances is None else chances
    expected = counts.sum() * chances
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_round_trip(tmp_path, suffix):
    frame = frame_of(LENGTHS)
    frame.loc[frame.item_id.eq("d") & (frame.index % 7 == 0), "target"] = np.nan
    path = tmp_path / f"series.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    store = SeriesStore.written(path, tmp_path / "data" / "0")
    expected = [group.target.to_numpy(np.float32) for _, group in frame.groupby("item_id") if len(group) >= 8]
    assert len(store) == len(expected) == 3
    for index, values in enumerate(expected):
        np.testing.assert_array_equal(store[index], values)
        assert store[index].dtype == np.float32
    again = SeriesStore(tmp_path / "data" / "0")
    np.testing.assert_array_equal(again[2], expected[2])


def test_one_row_a_series(tmp_path):
    targets = [np.arange(10.0), np.arange(5.0), np.array([1.0, np.nan, 3.0] * 4)]
    pd.DataFrame({"item_id": list("abc"), "target": targets}).to_parquet(tmp_path / "series.parquet")
    store = SeriesStore.written(tmp_path / "series.parquet", tmp_path / "store")
    assert len(store) == 2
    np.testing.assert_array_equal(store[0], targets[0])
    np.testing.assert_array_equal(store[1], targets[2])


def test_values_stay_on_disk(tmp_path):
    frame_of(LENGTHS).to_csv(tmp_path / "series.csv", index=False)
    values = SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")[0]
    assert not values.flags.writeable
    while isinstance(values, np.ndarray):
        values = values.base
    assert isinstance(values, mmap.mmap)


def test_short_series_only(tmp_path):
    frame_of({"a": 7, "b": 3}).to_csv(tmp_path / "series.csv", index=False)
    with pytest.raises(FlowrankError, match=r"training_data_paths.*8 values"):
        SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["series.csv"]


def test_no_such_file(tmp_path):
    with pytest.raises(FlowrankError, match=r"series\.csv"):
        SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")
    assert not list(tmp_path.iterdir())


def test_faults_in_the_source_leave_nothing_behind(tmp_path):
    frame = frame_of({"a": 40, "b": 40}).astype({"target": object})
    frame.loc[70, "target"] = "many"
    frame.to_csv(tmp_path / "series.csv", index=False)
    with pytest.raises(FlowrankError, match="many"):
        SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["series.csv"]


def test_unchanged_source_is_not_read_again(tmp_path, monkeypatch):
    frame_of(LENGTHS).to_csv(tmp_path / "series.csv", index=False)
    first = SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")
    monkeypatch.setattr(module, "read_series", lambda _: pytest.fail("it was read again"))
    again = SeriesStore.written(tmp_path / "series.csv", tmp_path / "store")
    np.testing.assert_array_equal(again[0], first[0])


def test_changed_source_is_refused_in_the_middle_of_a_training(tmp_path):
    path = tmp_path / "series.csv"
    frame_of({"a": 20}).to_csv(path, index=False)
    first = SeriesStore.written(path, tmp_path / "store")[0].copy()
    frame_of({"a": 20, "b": 9}).to_csv(path, index=False)
    with pytest.raises(FlowrankError, match="which has changed since"):
        SeriesStore.written(path, tmp_path / "store", unchanged=True)
    np.testing.assert_array_equal(SeriesStore(tmp_path / "store")[0], first)


def test_changed_source_is_read_again(tmp_path):
    path = tmp_path / "series.csv"
    frame_of({"a": 20}).to_csv(path, index=False)
    assert len(SeriesStore.written(path, tmp_path / "store")) == 1
    frame_of({"a": 20, "b": 20}).to_csv(path, index=False)
    assert len(SeriesStore.written(path, tmp_path / "store")) == 2


def test_correction_of_the_same_size_is_read_again(tmp_path):
    path = tmp_path / "series.csv"
    frame = frame_of({"a": 20}).assign(target=[float(i % 9) for i in range(20)])
    frame.to_csv(path, index=False)
    assert SeriesStore.written(path, tmp_path / "store")[0][3] == 3
    before = path.stat()
    frame.assign(target=9.0 - frame.target).to_csv(path, index=False)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == before.st_size
    assert SeriesStore.written(path, tmp_path / "store")[0][3] == 6


def test_another_source_is_read(tmp_path):
    for name, value in (("one", 1.0), ("two", 2.0)):
        frame_of({"a": 20}).assign(target=value).to_csv(tmp_path / f"{name}.csv", index=False)
        assert SeriesStore.written(tmp_path / f"{name}.csv", tmp_path / "store")[0][0] == value


@pytest.fixture
def numbered(tmp_path) -> SeriesStore:
    """Value = 1000 · number of the series + place in it."""
    lengths = [8, 20, 50, 200]
    targets = [1000.0 * number + np.arange(length) for number, length in enumerate(lengths)]
    pd.DataFrame({"item_id": list("abcd"), "target": targets}).to_parquet(tmp_path / "series.parquet")
    return SeriesStore.written(tmp_path / "series.parquet", tmp_path / "store")


@pytest.mark.parametrize("length", [5, 8, 30, 64, 300])
def test_windows_are_pieces_of_one_series(numbered, length):
    windows = numbered.windows(np.random.default_rng(length), 400, length)
    assert windows.shape == (400, length)
    for window in windows:
        seen = ~np.isnan(window)
        start = int(seen.argmax())
        assert seen[start:].all()  # missing on the left only
        series, place = divmod(int(window[start]), 1000)
        whole = numbered[series]
        assert seen.sum() == min(length, len(whole)) or (place == 0 and seen.sum() >= SHORTEST)
        np.testing.assert_array_equal(window[start:], whole[place : place + seen.sum()])


def test_every_series_and_every_place_is_as_likely(numbered):
    windows = numbered.windows(np.random.default_rng(0), 12_000, 40)
    series, places = np.divmod(windows[:, -1].astype(int), 1000)
    assert chi_squared(np.bincount(series, minlength=4)) < 6
    ends = [range(7, 8), range(7, 20), range(39, 50), range(39, 200)]
    for number, expected in enumerate(ends):
        counts = np.bincount(places[series == number], minlength=expected.stop)
        assert counts[: expected.start].sum() == 0
        assert len(expected) == 1 or chi_squared(counts[expected.start :]) < 6


def test_no_rows(numbered):
    assert numbered.windows(np.random.default_rng(0), 0, 10).shape == (0, 10)


def test_missing_values_of_a_series_stay_missing(tmp_path):
    target = np.where(np.arange(30) % 5 == 2, np.nan, np.arange(30.0))
    pd.DataFrame({"item_id": ["a"], "target": [target]}).to_parquet(tmp_path / "series.parquet")
    store = SeriesStore.written(tmp_path / "series.parquet", tmp_path / "store")
    for window in store.windows(np.random.default_rng(0), 50, 10):
        place = int(np.nanmin(window - np.arange(10)))
        np.testing.assert_array_equal(window, target[place : place + 10])
