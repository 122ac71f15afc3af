"""Tables in which series take turns: what pandas' groupby gives, whatever the order, in little memory."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.series import read_series, spilling


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Buckets of 8 rows and files from 256 bytes, so that small tables go through all of it."""
    monkeypatch.setattr(spilling, "_BUCKET", 8)
    monkeypatch.setattr(spilling, "_MEMORY", 256)


def interleaved(lengths, seed):
    """A table whose rows are in random order, but for those of each series among themselves."""
    generator = np.random.default_rng(seed)
    codes = generator.permutation(np.repeat(np.arange(len(lengths)), lengths))
    frame = pd.DataFrame({"item_id": codes, "target": generator.normal(size=len(codes))})
    steps = frame.groupby("item_id").cumcount()
    frame["timestamp"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(steps + 24 * codes, unit="h")
    return frame


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(3, 20), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_interleaved_rows_are_as_pandas_groups_them(lengths, seed):
    frame = interleaved(lengths, seed)
    found = list(read_series(frame))
    truth = list(frame.groupby("item_id", sort=False))
    assert [series.item_id for series in found] == [name for name, _ in truth]
    for series, (_, rows) in zip(found, truth, strict=True):
        np.testing.assert_array_equal(series.target, rows["target"])
        assert series.start == rows["timestamp"].iloc[0]
        assert series.freq == "h"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_in_order_of_time_in_many_pieces(tmp_path, kind, monkeypatch):
    times = pd.date_range("2024-03-30", periods=500, freq="h", tz="Europe/Berlin")
    ids = [f"shop-{i:03}" for i in range(300)]
    frame = pd.DataFrame({"item_id": np.tile(ids, 500), "timestamp": np.repeat(times, 300)})
    frame["target"] = np.arange(float(len(frame)))
    path = tmp_path / f"by-time.{kind}"
    if kind == "csv":
        frame.assign(timestamp=frame["timestamp"].dt.tz_convert("UTC")).to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    monkeypatch.setattr(spilling, "_BUCKET", 1 << 13)
    monkeypatch.setattr(spilling, "_MEMORY", 1 << 20)
    source = read_series(path)
    for _ in range(2):  # each iteration begins anew
        found = list(source)
        assert [series.item_id for series in found] == ids
        np.testing.assert_array_equal(found[7].target, np.arange(7.0, 150_000, 300))
        assert {series.start for series in found} == {times[0]}
        assert {len(series) for series in found} == {500}


def test_what_is_wrong_is_named_by_its_row_in_the_file_and_the_others_are_read():
    frame = interleaved([5, 5, 5], 1).astype({"target": object})
    bad = int(frame.index[frame["item_id"] == 1][3])
    frame.loc[bad, "target"] = "many"
    with pytest.raises(FlowrankError, match=rf"'many' at row {bad} \(series 1\)"):
        list(read_series(frame))
    left_out = []
    found = list(read_series(frame, on_bad=lambda name, error: left_out.append((name, str(error)))))
    assert {series.item_id for series in found} == {0, 2}
    assert [name for name, _ in left_out] == [1]
    assert f"row {bad} (series 1)" in left_out[0][1]


def test_times_out_of_order_in_one_of_the_series_are_named_by_their_row():
    frame = interleaved([6, 6], 2)
    first, second = frame.index[frame["item_id"] == 0][2:4]
    frame.loc[[first, second], "timestamp"] = frame.loc[[second, first], "timestamp"].to_numpy()
    with pytest.raises(FlowrankError, match=rf"at row {second} \(series 0\)"):
        list(read_series(frame))


def test_a_series_that_is_new_takes_the_calendar_of_others_in_a_table_in_order_of_time():
    old = pd.DataFrame(
        {"item_id": "old", "timestamp": pd.date_range("2024-01-01", periods=4, freq="MS"), "target": 1.0}
    )
    new = pd.DataFrame({"item_id": "new", "timestamp": [pd.Timestamp("2024-03-01")], "target": 2.0})
    frame = pd.concat([new, old]).sort_values("timestamp", kind="stable")
    assert {series.item_id: series.freq for series in read_series(frame)} == {"old": "MS", "new": "MS"}


def test_a_source_that_was_read_can_be_sent_to_a_process():
    source = read_series(interleaved([5, 5], 3))
    before = [(series.item_id, series.target.tolist()) for series in source]
    again = pickle.loads(pickle.dumps(source))
    assert [(series.item_id, series.target.tolist()) for series in again] == before


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(spilling, "_BUCKET", 1 << 12)
    monkeypatch.setattr(spilling, "_MEMORY", 1 << 18)

    def peak(rows):
        tracemalloc.start()
        grouped = spilling.GroupedRows()
        for _ in range(rows // 1000):
            part = np.zeros(1000, spilling.ROW)
            part["code"] = np.arange(1000)
            grouped.add(part)
        assert sum(len(bucket) for bucket in grouped) == rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(400_000) < 1.5 * peak(40_000)  # 12.8 MB of rows and 1.3 MB
