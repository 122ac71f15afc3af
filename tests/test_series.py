"""Readers against hand-made truths; every kind of bad input is refused by name."""

from __future__ import annotations

import gzip
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.series import Series, SeriesSource, read_series
from flowrank.series.columns import Columns
from flowrank.series.frequency import anchored_frequency, normalize_frequency
from flowrank.series.grids import future_timestamps
from flowrank.series.inference import infer_frequency
from flowrank.series.numbers import as_numbers
from flowrank.series.tables import LongTable


def long_frame(**lengths: int) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range("2024-01-01", periods=length, freq="D"),
                "target": np.arange(length) + 0.1,
            }
        )
        for name, length in lengths.items()
    ]
    return pd.concat(parts, ignore_index=True)


def contents(source) -> list[tuple]:
    return [(s.item_id, s.target.tolist(), s.start, s.freq) for s in source]


def assert_same(left: list[Series], right: list[Series]) -> None:
    assert [(s.item_id, s.start, s.freq) for s in left] == [(s.item_id, s.start, s.freq) for s in right]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.target, other.target)


def refused(source, *words: str, **options) -> None:
    with pytest.raises(FlowrankError) as caught:
        list(read_series(source, **options))
    for word in words:
        assert word in str(caught.value)


# Long tables


def test_frame_is_read_lazily_and_again():
    source = read_series(long_frame(A=4, B=3))
    assert isinstance(source, SeriesSource)
    expected = [
        ("A", [0.1, 1.1, 2.1, 3.1], pd.Timestamp("2024-01-01"), "D"),
        ("B", [0.1, 1.1, 2.1], pd.Timestamp("2024-01-01"), "D"),
    ]
    assert contents(source) == expected
    assert contents(source) == expected
    assert read_series(source) is source


def test_columns_can_have_other_names_or_be_absent():
    frame = long_frame(A=3).rename(columns={"item_id": "id", "timestamp": "day", "target": "y"})
    [series] = read_series(frame, id_column="id", timestamp_column="day", target="y")
    assert (series.item_id, series.freq) == ("A", "D")
    [series] = read_series(frame, id_column=None, timestamp_column=None, target="y", freq="H")
    assert (series.item_id, series.start, series.freq) == ("0", None, "h")


def test_integer_ids_and_integer_or_boolean_targets():
    frame = pd.DataFrame({"item_id": [3, 3, 4, 4], "target": [1, 2, 3, 4]})
    assert [s.item_id for s in read_series(frame, timestamp_column=None)] == [3, 4]
    for column in (
        [True, False, True, True],
        pd.array([1, None, 1, 1], dtype="Int64"),
        pd.Categorical([1, 0, 1, 1]),
        ["1", "true", "NA", " 2 "],
        [1, True, None, 2.5],
    ):
        for series in read_series(frame.assign(target=column), timestamp_column=None):
            assert series.target.dtype == np.float64


@pytest.mark.parametrize("suffix", ["csv", "parquet", "csv.gz"])
def test_files_equal_their_frame(tmp_path, suffix):
    frame = long_frame(A=5, B=1, C=2)
    frame.loc[1, "target"] = np.nan
    path = tmp_path / f"long.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    assert_same(list(read_series(path)), list(read_series(frame)))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators(tmp_path, separator):
    frame = long_frame(A=3)
    frame.to_csv(tmp_path / "a.csv", index=False, sep=separator)
    assert_same(list(read_series(str(tmp_path / "a.csv"))), list(read_series(frame)))


def test_series_go_on_over_pieces():
    frame = long_frame(A=7, B=9, C=4)
    pieces = [frame.iloc[i : i + 3] for i in range(0, len(frame), 3)]
    table = LongTable(lambda names: (piece[names] for piece in [frame.iloc[:0], *pieces]), Columns(), argument="series")
    assert_same(list(table), list(read_series(frame)))


def test_interleaved_rows_are_grouped(tmp_path):
    frame = long_frame(A=4, B=4, C=3).sort_values("timestamp", kind="stable")
    frame.to_csv(tmp_path / "a.csv", index=False)
    expected = list(read_series(long_frame(A=4, B=4, C=3)))
    assert_same(list(read_series(frame)), expected)
    assert_same(list(read_series(tmp_path / "a.csv")), expected)
    frame.iloc[5, 2] = np.inf
    refused(frame, "infinite", "series 'C'")


def test_a_long_file_is_not_held_in_memory(tmp_path):
    """Peak memory of a file 20 times as long grows by far less than the file does."""
    code = (
        "import sys, resource\n"
        "from flowrank.series import read_series\n"
        "n = sum(len(s) for s in read_series(sys.argv[1], timestamp_column=None))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for count in (100, 3000):
        path = tmp_path / f"{count}.csv"
        ids = np.repeat(np.arange(count), 500)
        pd.DataFrame({"item_id": ids, "target": np.arange(len(ids)) * 1.000001}).to_csv(path, index=False)
        out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        length, peak = map(int, out.stdout.split())
        assert length == count * 500
        peaks.append(peak / 1024)
    assert peaks[1] - peaks[0] < 110  # MiB; the whole table takes 400 MiB and more


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    targets=st.lists(
        st.lists(st.floats(allow_infinity=False, width=64), min_size=1, max_size=12), min_size=1, max_size=6
    ),
    freq=st.sampled_from(["h", "D", "MS", "ME", "W-WED", "B", "QS-JAN", "YS-JAN", "15min"]),
)
def test_round_trips(tmp_path, targets, freq):
    """CSV, Parquet and frames give back what was written, to the last bit."""
    written = [Series(f"s{i}", np.array(values)) for i, values in enumerate(targets)]
    frame = pd.concat(
        pd.DataFrame(
            {
                "item_id": series.item_id,
                "timestamp": pd.date_range("2019-12-25", periods=len(series), freq=freq),
                "target": series.target,
            }
        )
        for series in written
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for source in (frame, tmp_path / "a.csv", tmp_path / "a.parquet"):
        found = list(read_series(source, freq=freq))
        assert [s.item_id for s in found] == [s.item_id for s in written]
        for one, other in zip(found, written, strict=True):
            np.testing.assert_array_equal(one.target, other.target)
            assert one.freq == freq


# Times


@pytest.mark.parametrize(
    "freq", ["h", "D", "W-MON", "W-SUN", "MS", "ME", "QS-OCT", "QE-DEC", "YS-JAN", "B", "15min", "2h"]
)
def test_frequency_is_inferred_and_continued(freq):
    times = pd.date_range("2021-03-04", periods=12, freq=freq)
    frame = pd.DataFrame({"item_id": "A", "timestamp": times[:8], "target": 1.0})
    [series] = read_series(frame)
    future = future_timestamps(series.start, len(series), series.freq, 4)
    assert list(future) == list(times[8:])


def test_months_with_equal_steps_are_months():
    assert infer_frequency(pd.DatetimeIndex(["2024-07-01", "2024-08-01", "2024-09-01"])) == "MS"


def test_zoned_days_stay_days_over_a_clock_change():
    times = pd.date_range("2024-03-28", periods=8, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame({"item_id": "A", "timestamp": times[:6], "target": 1.0})
    for options in ({}, {"freq": "D"}):
        [series] = read_series(frame, **options)
        assert len(series) == 6
        assert list(future_timestamps(series.start, 6, series.freq, 2)) == list(times[6:])


def test_short_series_take_the_frequency_of_the_others():
    frame = long_frame(A=1, B=2, C=5)
    assert [s.freq for s in read_series(frame)] == ["D", "D", "D"]
    assert [s.freq for s in read_series(long_frame(A=1))] == [None]
    month = pd.DataFrame({"item_id": "A", "timestamp": ["2024-01-31", "2024-02-29"], "target": 1})
    assert [s.freq for s in read_series(month)] == ["ME"]
    month["timestamp"] = ["2024-01-01", "2024-03-01"]
    assert [s.freq for s in read_series(month)] == ["2MS"]
    assert [s.freq for s in read_series(long_frame(A=2))] == ["D"]


def test_gaps_need_a_frequency():
    frame = long_frame(A=5, B=5).drop(index=[2, 7])
    refused(frame, "series 'A'", "row 2", "freq=")
    found = list(read_series(frame, freq="d"))
    for series in found:
        np.testing.assert_array_equal(series.target, [0.1, 1.1, np.nan, 3.1, 4.1])
    monthly = pd.DataFrame({"item_id": "A", "timestamp": ["2024-01-01", "2024-02-01", "2024-05-01"], "target": 1.0})
    [series] = read_series(monthly, freq="M")
    assert (series.freq, np.isnan(series.target).tolist()) == ("MS", [False, False, True, True, False])
    refused(monthly.assign(timestamp=["2024-01-01", "2024-02-01", "2024-05-03"]), "row 2", "series 'A'", freq="M")
    refused(monthly, "a frequency near", freq="ms")


@pytest.mark.parametrize(
    ("times", "first"),
    [
        (["2024-01-01", "2024-01-01 12:00", "2024-01-02"], "2024-01-01"),
        (["01/31/2024", "02/01/2024", "02/02/2024"], "2024-01-31"),
        (["31/01/2024", "01/02/2024", "02/02/2024"], "2024-01-31"),
        (["2021", "2022", "2023"], "2021-01-01"),
        (["2024Q1", "2024Q2", "2024Q3"], "2024-01-01"),
        (pd.period_range("2024-01", periods=3, freq="M"), "2024-01-01"),
        (pd.Categorical(["2024-01-01", "2024-01-02", "2024-01-03"]), "2024-01-01"),
    ],
)
def test_forms_of_times(times, first):
    [series] = read_series(pd.DataFrame({"item_id": "A", "timestamp": times, "target": 1.0}))
    assert series.start == pd.Timestamp(first)
    assert series.freq is not None


def test_frequency_names():
    with pytest.raises(FlowrankError, match="freq: expected a pandas frequency"):
        normalize_frequency("fortnight")
    with pytest.raises(FlowrankError, match="freq"):
        read_series([[1.0]], freq="-1h")
    assert anchored_frequency("Q", pd.Timestamp("1984-01-01")) == "QS-JAN"
    assert anchored_frequency("2Y", pd.Timestamp("1984-12-31")) == "2YE-DEC"
    assert anchored_frequency("A-JAN", pd.Timestamp("1984-06-30")) == "YE-JUN"
    assert anchored_frequency("M", pd.Timestamp("1984-06-15")) == "MS-15"
    assert anchored_frequency("B", pd.Timestamp("2024-06-15")) == "B"


def test_times_beyond_nanoseconds():
    [series] = read_series([{"target": [1.0], "start": "0001-12-01", "freq": "M"}])
    [future] = future_timestamps(series.start, 1, series.freq, 1)
    assert (future.year, future.month, future.day) == (2, 1, 1)
    with pytest.raises(FlowrankError, match="year 9999"):
        future_timestamps(pd.Timestamp("2024-01-01"), 10**6, "YS", 1)
    with pytest.raises(FlowrankError, match="year 9999"):
        future_timestamps(pd.Timestamp("2024-01-01", tz="UTC"), 10**6, "YS", 1)


# Arrays and records


def test_arrays_and_tensors():
    rows = [[np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [np.nan] * 3]
    for padded in (np.array(rows), torch.tensor(rows)):
        found = [s.target for s in read_series(padded)]
        np.testing.assert_array_equal(found[0], [1.0, 2.0])
        np.testing.assert_array_equal(found[1], rows[1])
        assert len(found[2]) == 0
    for one in (np.arange(3), torch.arange(3), [0, 1, 2], [np.float32(0), 1, 2]):
        assert contents(read_series(one)) == [("0", [0.0, 1.0, 2.0], None, None)]
    ragged = [torch.tensor([1, 2], dtype=torch.bfloat16), np.array([np.nan, True]), [3, None]]
    assert [len(s) for s in read_series(ragged, freq="H")] == [2, 2, 2]
    assert [len(s) for s in read_series(iter(ragged))] == [2, 2, 2]


def test_functions_and_series_are_sources():
    source = read_series(lambda: (Series(str(i), np.ones(i)) for i in (1, 2)))
    assert [len(s) for s in source] == [1, 2]
    assert [len(s) for s in source] == [1, 2]
    assert [s.item_id for s in read_series([Series("A", np.ones(1))])] == ["A"]


def test_gluonts_records():
    records = [
        {"target": np.array([1.0, 2.0]), "start": pd.Period("2024-01", "M"), "item_id": "A"},
        {"target": [1, 2], "start": pd.Timestamp("2024-01-01")},
        {"target": [1, 2], "item_id": 7},
        {"target": [1, 2], "timestamp": ["2024-01-01", "2024-01-02"]},
        {"target": [], "timestamp": []},
    ]
    found = [(s.item_id, s.start, s.freq) for s in read_series(records)]
    day = pd.Timestamp("2024-01-01")
    assert found == [
        ("A", day, "MS"),
        ("1", day, None),
        (7, None, None),
        ("3", day, "D"),
        ("4", None, None),
    ]
    assert [s.freq for s in read_series(records[1], freq="W")] == ["W-MON"]
    from gluonts.dataset.common import ListDataset

    assert [s.freq for s in read_series(ListDataset(records[:1] * 2, freq="M"))] == ["MS", "MS"]


def test_rows_of_parquet(tmp_path):
    table = pa.table(
        {
            "item_id": ["A", "B", "C"],
            "freq": ["M", "h", "W-SUN"],
            "start": pd.to_datetime(["1998-01-01 00:00", "2024-01-01 05:00", "1996-03-18 00:00"]),
            "target": pa.array([[1.0, None], [2.0], []], pa.list_(pa.float32())),
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=1)
    found = list(read_series(path))
    assert [(s.item_id, s.freq, len(s)) for s in found] == [("A", "MS", 2), ("B", "h", 1), ("C", "W-MON", 0)]
    np.testing.assert_array_equal(found[0].target, [1.0, np.nan])
    assert [s.item_id for s in read_series(path, id_column=None)] == ["0", "1", "2"]
    refused(path, "columns:", id_column="id")
    for kind in (pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)):
        pq.write_table(pa.table({"item_id": ["A"], "target": pa.array([[1, 2]], kind)}), path)
        assert contents(read_series(path)) == [("A", [1.0, 2.0], None, None)]
    pq.write_table(pa.table({"item_id": ["A", "A"], "target": [[1], [2]]}), path)
    refused(path, "'A' again in row 1")
    pq.write_table(pa.table({"item_id": ["A", None], "target": [[1], [2]]}), path)
    refused(path, "none in row 1")
    pq.write_table(pa.table({"item_id": ["A"], "target": [["x"]]}), path)
    refused(path, "'x'", "series 'A'")
    pq.write_table(table.slice(0, 0), path)
    refused(path, "no rows")


def test_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    days = pd.date_range("2024-01-01", periods=3, freq="D").to_list()
    rows = datasets.Dataset.from_dict(
        {"id": ["A", "B"], "timestamp": [days, days], "target": [[1, 2, 3], [4, 5, None]]}
    )
    found = list(read_series(rows.select([1, 0]), id_column="id"))
    assert [(s.item_id, s.freq) for s in found] == [("B", "D"), ("A", "D")]
    np.testing.assert_array_equal(found[0].target, [4, 5, np.nan])
    refused(rows, "columns:", "'id'")
    frame = long_frame(A=3, B=4)
    assert_same(list(read_series(datasets.Dataset.from_pandas(frame))), list(read_series(frame)))
    refused(datasets.DatasetDict({"train": rows}), 'dataset["train"]')
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"target": [1.0, 2.0]}]))
    assert contents(read_series(stream)) == [("0", [1.0, 2.0], None, None)]


def test_fev_tasks(tmp_path):
    fev = pytest.importorskip("fev")
    datasets = pytest.importorskip("datasets")
    days = pd.date_range("2024-01-01", periods=20, freq="D").to_list()
    path = str(tmp_path / "task.parquet")
    datasets.Dataset.from_dict({"id": ["A"], "timestamp": [days], "target": [list(map(float, range(20)))]}).to_parquet(
        path
    )
    one = list(read_series(fev.Task(dataset_path=path, horizon=4)))
    assert [(s.item_id, len(s), s.freq) for s in one] == [("A", 16, "D")]
    two = list(read_series(fev.Task(dataset_path=path, horizon=4, num_windows=2)))
    assert [(s.item_id, len(s)) for s in two] == [("A@0", 12), ("A@1", 16)]


# Sources on their way to a worker process


def three_series():
    """A function of a module, which a source of its own series can be."""
    return iter([Series("A", np.ones(2)), Series("B", np.arange(3.0), pd.Timestamp("2024-01-01"), "D")])


def _csv(folder):
    long_frame(A=4, B=3).to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def _parquet(folder):
    long_frame(A=4, B=3).to_parquet(folder / "a.parquet")
    return str(folder / "a.parquet")


def _rows_of_parquet(folder):
    pq.write_table(pa.table({"item_id": ["A"], "target": [[1.0, None]]}), folder / "rows.parquet")
    return folder / "rows.parquet"


def _hugging_face(folder):
    return pytest.importorskip("datasets").Dataset.from_pandas(long_frame(A=3, B=4))


def _hugging_face_rows(folder):
    return pytest.importorskip("datasets").Dataset.from_dict({"item_id": ["A", "B"], "target": [[1, 2, 3], [4, 5]]})


def _fev_task(folder):
    fev = pytest.importorskip("fev")
    long = long_frame(A=20).groupby("item_id").agg(list).reset_index().rename(columns={"item_id": "id"})
    long.to_parquet(folder / "task.parquet")
    return fev.Task(dataset_path=str(folder / "task.parquet"), horizon=4, num_windows=2)


SOURCES = {
    "csv": _csv,
    "parquet": _parquet,
    "parquet rows": _rows_of_parquet,
    "frame": lambda folder: long_frame(A=4, B=3),
    "interleaved frame": lambda folder: long_frame(A=4, B=3).sort_values("timestamp"),
    "list": lambda folder: [np.arange(3.0), [1, 2]],
    "array": lambda folder: np.array([[np.nan, 1.0], [2.0, 3.0]]),
    "tensor": lambda folder: torch.tensor([[float("nan"), 1.0], [2.0, 3.0]]),
    "iterator": lambda folder: iter([[1.0, 2.0], [3.0]]),
    "dict": lambda folder: {"target": [1, 2], "start": pd.Period("2024-01", "M"), "item_id": "A"},
    "dicts": lambda folder: [{"target": [1, 2]}, {"target": [3, 4], "item_id": 7}],
    "series": lambda folder: list(three_series()),
    "function": lambda folder: three_series,
    "hugging face": _hugging_face,
    "hugging face rows": _hugging_face_rows,
    "fev": _fev_task,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_can_be_pickled(kind, tmp_path):
    source = read_series(SOURCES[kind](tmp_path))
    fresh = pickle.dumps(source)
    expected = list(source)
    assert expected
    for written in (fresh, pickle.dumps(source)):  # before it was read, and after
        copied = pickle.loads(written)
        assert_same(list(copied), expected)
        assert_same(list(copied), expected)


def test_a_source_is_read_in_another_process(tmp_path):
    source = read_series(_csv(tmp_path))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.apply_async(list, (source,)).get(120), list(source))


# Bad input


def test_missing_columns():
    refused(long_frame(A=3).drop(columns="target"), "'target'", "columns: 'item_id', 'timestamp'")
    refused(pd.concat([long_frame(A=3)] * 2, axis=1), "repeated")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, "abc", 2], ("'abc'", "row 1", "'A'", "'target'")),
        ([1.0, 2.0, np.inf], ("infinite", "row 2", "'A'")),
        ([1.0, "-Infinity", 2.0], ("infinite", "row 1")),
        (pd.date_range("2024", periods=3), ("datetime64",)),
        (np.ones(3) * 1j, ("complex",)),
        ([1.0, [2.0], 3.0], ("[2.0]", "row 1")),
    ],
)
def test_targets_that_are_not_finite_numbers(values, words):
    refused(long_frame(A=3).assign(target=values), *words)


def test_values_of_any_finite_magnitude():
    values = [1e308, -1e-308, 5e-324]
    [series] = read_series(long_frame(A=3).assign(target=values))
    assert series.target.tolist() == values


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["2024-01-02", "2024-01-01", "2024-01-03"], ("row 1", "'A'", "sort")),
        (["2024-01-01", "2024-01-02", "2024-01-02"], ("again at row 2", "'A'", "duplicate")),
        (["2024-01-01", "soon", "2024-01-03"], ("'soon'", "row 1", "'A'", "'timestamp'")),
        (["soon", "2024-01-02", "2024-01-03"], ("'soon'", "row 0")),
        (["2024-01-01", None, "2024-01-03"], ("row 1",)),
        (["02/13/2024", "13/02/2024", "14/02/2024"], ("'13/02/2024'", "row 1")),
        (["2024-01-01 00:00+01:00", "2024-01-01 01:00+02:00", "2024-01-01 02:00+01:00"], ("row 1", "--utc")),
        ([0, 1, 2], ("number 0", "timestamp_column=None")),
    ],
)
def test_bad_times(times, words):
    refused(long_frame(A=3).assign(timestamp=times), *words)


def test_zones_that_change_between_pieces():
    frames = [
        pd.DataFrame({"item_id": ["A"], "timestamp": [f"2024-01-01 0{hour}:00+0{hour}:00"], "target": [1.0]})
        for hour in (1, 2)
    ]
    table = LongTable(lambda names: (frame[names] for frame in frames), Columns(), argument="series")
    with pytest.raises(FlowrankError, match="one time zone"):
        list(table)


def test_missing_ids_and_no_rows(tmp_path):
    refused(long_frame(A=3).assign(item_id=["A", None, "A"]), "none in row 1")
    refused(long_frame(A=3).iloc[:0], "no rows")
    (tmp_path / "a.csv").write_text("item_id,timestamp,target\n")
    refused(tmp_path / "a.csv", "no rows")
    refused([], "at least one series")
    refused(iter([]), "at least one series")


def test_files_that_are_not_series(tmp_path):
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8
    cases = {
        "empty.csv": (b"", "empty"),
        "empty.parquet": (b"", "empty"),
        "image.csv": (png, "PNG"),
        "image.parquet": (png, "PNG"),
        "text.parquet": (b"item_id,timestamp,target\nA,2024-01-01,1\n", "Parquet"),
        "cut.parquet": (b"PAR1" + bytes(100), "cannot be read"),
        "latin.csv": ("item_id,timestamp,target\nMünchen,2024-01-01,1\n".encode("latin-1"), "CSV"),
        "ragged.csv": (b"item_id,timestamp,target\nA,2024-01-01,1\nA,2024-01-02\n", "cannot be read"),
        "other.csv": (b"a,b\n1,2\n", "columns: 'a', 'b'"),
        "words.csv": (b"item_id,timestamp,target\nA,2024-01-01,x\n", "'x'"),
    }
    for name, (content, word) in cases.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, word)
    refused(tmp_path / "absent.csv", "absent.csv", "not there")
    refused(tmp_path, "a folder")


def test_a_parquet_file_that_is_damaged_inside(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"item_id": ["A"] * 5000, "target": np.random.default_rng(0).random(5000)}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:104] = b"\xff" * 100
    path.write_bytes(content)
    refused(path, "cannot be read", timestamp_column=None)


def test_a_text_cut_within_a_character(tmp_path):
    text = "item_id,target\n" + "".join(f"{'é' * 50},{i}\n" for i in range(60))
    for shift in ("", "x"):
        (tmp_path / "a.csv").write_text(shift + text, encoding="utf-8")
        refused(tmp_path / "a.csv", "columns", id_column="no such")
    with gzip.open(tmp_path / "a.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert [len(s) for s in read_series(tmp_path / "a.csv.gz", timestamp_column=None)] == [60]


@pytest.mark.parametrize("source", [None, 3, b"bytes", {"A": [1.0]}])
def test_things_that_are_no_source(source):
    refused(source, "expected a data frame", type(source).__name__)


def test_bad_arrays_and_records():
    refused(np.zeros((2, 3, 4)), "shape (2, 3, 4)")
    refused([np.zeros((2, 3))], "shape (2, 3)")
    refused([[[1.0], [2.0, 3.0]]], "nested lists")
    refused([np.array([1.0, np.inf])], "position 1 of series 0")
    refused(["abc"], "one-dimensional values")
    refused([{"target": [1.0]}, [1.0]], "list at 1")
    refused([{"target": [1.0]}, {"values": [1.0]}], "keys ['values']", "record 1")
    refused([{"target": [1.0], "start": "soon", "item_id": "A"}], "series 'A'", "'soon'")
    refused([{"target": [1.0, 2.0], "timestamp": ["2024-01-01"]}], "1 times, 2 values")
    refused([{"target": [1.0], "start": 5}], "start of series")


def test_the_argument_is_named():
    with pytest.raises(FlowrankError, match=r"^calibration: "):
        read_series(None, argument="calibration")
    with pytest.raises(FlowrankError, match=r"^x: "):
        as_numbers(["a"], argument="x", where="place {}".format)


def test_torch_is_not_imported():
    code = "import sys, flowrank.series, flowrank.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
