"""The function from Arrow to Arrow, against `forecast` of the whole source."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowrank
from flowrank import FlowrankError
from flowrank.distributed import Forecaster
from flowrank.forecasting import forecast
from tests.distributed.conftest import MODEL, as_long

LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def forecaster():
    return Forecaster(MODEL, horizon=5, quantile_levels=LEVELS)


def test_a_table_is_forecast_as_by_forecast(forecaster, rows):
    found = forecaster(rows)
    assert found.schema.equals(forecaster.schema(rows.schema))
    options = {"horizon": 5, "quantile_levels": LEVELS, "batch_size": 64, "batch_invariant": True}
    for source in (rows, as_long(rows).assign(freq=None).drop(columns="freq")):
        further = {"freq": "MS"} if isinstance(source, pd.DataFrame) else {}
        theirs = forecast(flowrank.load(MODEL), source, **options, **further)
        pd.testing.assert_frame_equal(found.to_pandas(), theirs, check_dtype=False, check_exact=True)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(60)), cuts=st.sets(st.integers(1, 59), max_size=6))
def test_the_batch_does_not_matter(forecaster, rows, order, cuts):
    whole = forecaster(rows)
    shuffled = rows.take(pa.array(order))
    ends = [0, *sorted(cuts), 60]
    batches = [shuffled.slice(a, b - a) for a, b in pairwise(ends)]
    found = pa.concat_tables([forecaster(one.combine_chunks().to_batches()[0]) for one in batches])
    by = [("item_id", "ascending"), ("timestamp", "ascending")]
    assert found.sort_by(by).equals(whole.sort_by(by))


def test_lists_of_times_numbers_as_ids_and_no_times(forecaster):
    times = [list(pd.date_range("2024-01-31", periods=n, freq="ME", tz="UTC")) for n in (8, 4)]
    kind = pa.list_(pa.timestamp("us", "UTC"))
    table = pa.table({"item_id": pa.array([7, 3], pa.int32()), "target": [[1.0, 2, 3, 5, 4, 6, 7, 1], [1.0, 2, 4, 3]]})
    found = forecaster(table.append_column("timestamp", pa.array(times, kind)))
    assert found.schema.field("item_id").type == pa.int32()
    assert found["timestamp"][5].as_py() == pd.Timestamp("2024-05-31", tz="UTC")
    assert forecaster(table)["timestamp"].to_pylist() == [*range(8, 13), *range(4, 9)]


def test_series_that_cannot_be_forecast_have_a_row_with_the_reason():
    forecaster = Forecaster(MODEL, horizon=2, skip_bad=True)
    table = pa.table({"item_id": ["good", "empty", "endless"], "target": [[1.0, 2, 3], [None], [1.0, float("inf")]]})
    found = forecaster(table).to_pylist()
    told = {one["item_id"]: one["error"] for one in found}
    assert [one["item_id"] for one in found[:2]] == ["good", "good"]
    assert (len(found), told["good"]) == (4, None)
    assert "infinite" in told["endless"]
    assert "observed" in told["empty"]
    assert found[3]["predictions"] is None
    assert {one["item_id"] for one in forecaster(table.slice(1)).to_pylist()} == {"endless", "empty"}
    with pytest.raises(FlowrankError, match=r"endless|empty"):
        Forecaster(MODEL, horizon=2)(table)


def test_nothing_in_nothing_out(forecaster, rows):
    found = forecaster(rows.slice(0, 0))
    assert (found.num_rows, found.schema) == (0, forecaster.schema(rows.schema))


def test_tables_whose_forecasts_would_depend_on_the_rest_are_refused(forecaster):
    good = pa.table({"item_id": ["A", "B"], "target": [[1.0, 2.0], [3.0, 4.0, 5.0]]})
    text = pa.array([["2024-01-02", "2024-01-03"]] * 2)
    stamps = pa.array([list(pd.date_range("2024-01-01", periods=n)) for n in (2, 3)], pa.list_(pa.timestamp("us")))
    wrong = {
        "id_column: expected one of the columns 'target', found 'item_id'": good.select(["target"]),
        "one row a series, with a list of values in 'target', found a column of double": pa.table(
            {"item_id": ["A"], "target": [1.0]}
        ),
        "each once, found 'A' in 2 rows": pa.concat_tables([good.slice(0, 1)] * 2),
        "found texts in 'timestamp'": good.append_column("timestamp", text),
        "freq: .* found series 'A' of 2 values": good.append_column("timestamp", stamps),
    }
    for message, table in wrong.items():
        with pytest.raises(FlowrankError, match=message):
            forecaster(table)


def test_children_of_uneven_widths_too(tmp_path):
    """In a process of its own: MKL is to be told before its first product."""
    method = flowrank.JointHeads(flowrank.Budget(0.3), per_head=True)
    child = flowrank.compress(flowrank.load("flow-2-mini"), method, calibration_series=12, calibration_points=64)
    child.save_pretrained(tmp_path / "child")
    run = [sys.executable, "-c", UNEVEN, str(tmp_path / "child")]
    subprocess.run(run, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_CBWR": branch()})


def branch():
    """What MKL has for this processor."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return "AVX512,STRICT" if "avx512f" in flags else "AVX2,STRICT" if "avx2" in flags else "COMPATIBLE"


UNEVEN = """
import sys
import numpy as np, pyarrow as pa
from flowrank.distributed import Forecaster
forecaster = Forecaster(sys.argv[1], horizon=40, threads=1)
rng = np.random.default_rng(0)
values = [rng.normal(size=n).cumsum() for n in rng.choice([20, 50, 90], 24)]
table = pa.table({"item_id": list(range(24)), "target": values})
whole = forecaster(table).sort_by("item_id")
order = rng.permutation(24)
parts = [forecaster(table.take(pa.array(some))) for some in np.array_split(order, 3)]
assert pa.concat_tables(parts).sort_by("item_id").equals(whole)
"""


@pytest.mark.parametrize("option", ["cross_learning", "wide", "day_first", "colour"])
def test_options_that_take_the_whole_source_are_refused(option):
    with pytest.raises(FlowrankError, match=f"{option}: expected options that hold for each series by itself"):
        Forecaster(MODEL, horizon=2, **{option: True})


VALUES = [1.0, 2, 3, 5, 4]
STAMP = pa.timestamp("us")


def rows_of(count=1, **columns):
    """Series of the same values, named by their number, with further columns."""
    return pa.table({"item_id": [f"g{i}" for i in range(count)], "target": [VALUES] * count, **columns})


def asked(**options):
    return Forecaster(MODEL, horizon=2, quantile_levels=[0.5], **options)


def days(*texts, kind=STAMP):
    return pa.array([None if one is None else pd.Timestamp(one) for one in texts], kind)


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"timestamp": pa.array([[*pd.date_range("2024-01-01", periods=5)]], pa.list_(STAMP))}, {}),
        ({"timestamp": days("2024-01-01")}, {"timestamp_column": "timestamp"}),
        ({"start": pa.nulls(1)}, {"timestamp_column": "timestamp"}),
    ],
)
def test_columns_of_times_that_are_not_read_give_steps(columns, options):
    """Lists of times that are not asked for, one time beside a list of values, and a column of nothing."""
    found = asked(**{"timestamp_column": None, **options})(rows_of(**columns))
    assert found["timestamp"].to_pylist() == [5, 6]


@pytest.mark.parametrize(("name", "kind"), [("timestamp", STAMP), ("start", STAMP), ("start", pa.string())])
def test_long_tables_whose_times_are_not_read_give_steps(name, kind):
    table = pa.table({"item_id": ["A"] * 5, "target": VALUES, name: days(*pd.date_range("2024-01-01", periods=5))})
    table = table.set_column(2, name, table[name].cast(kind))
    [found] = asked(timestamp_column=None).tables(table)
    assert found["timestamp"].to_pylist() == [5, 6]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [1, 2, 0]])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_series_without_times_among_others_are_left_out_however_they_are_divided(order, cut):
    table = rows_of(3, start=days(None, "2024-01-01", "2024-01-02"), freq=["D"] * 3).take(pa.array(order))
    forecaster = asked(skip_bad=True)
    found = pa.concat_tables([forecaster(one) for one in (table.slice(0, cut), table.slice(cut))]).to_pylist()
    told = [one for one in found if one["error"] is not None]
    assert [one["item_id"] for one in told] == ["g0"]
    assert "time stamps for all series" in told[0]["error"]
    assert sorted(str(one["timestamp"])[:10] for one in found if one["error"] is None) == [
        "2024-01-06",
        "2024-01-07",
        "2024-01-07",
        "2024-01-08",
    ]
    with pytest.raises(FlowrankError, match="no time stamps for series 'g0', in place of time stamps without"):
        asked()(table)


BERLIN = pa.timestamp("us", "Europe/Berlin")


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"start": ["2024-01-01 00:00+0200"]}, {"date_format": "%Y-%m-%d %H:%M%z"}, "2024-01-05T22:00Z"),
        ({"start": ["2024-01-01"]}, {"date_format": "%Y-%m-%d"}, "2024-01-06"),
        ({"start": ["2024-01-01"]}, {"date_format": "%Y-%m-%d", "utc": True}, "2024-01-06T00:00Z"),
        ({"start": days("2024-01-01")}, {"utc": True}, "2024-01-06T00:00Z"),
        ({"start": days("2024-01-01", kind=BERLIN)}, {"utc": True}, "2024-01-06T00:00Z"),
        ({"start": days("2024-01-01", kind=BERLIN), "timestamp": days("2020-01-01")}, {}, "2024-01-06T00:00Z"),
    ],
)
def test_zones_of_forecasts_are_those_that_times_are_read_in(columns, options, expected):
    found = asked(freq="D", **options)(rows_of(**columns))["timestamp"]
    assert (found.type.tz is None) == ("Z" not in expected)
    assert pd.Timestamp(found[0].as_py()) == pd.Timestamp(expected)


def test_texts_of_several_offsets_are_told_in_one_zone():
    starts = ["2024-01-01 00:00+0200", "2024-01-01 00:00-0500"]
    found = asked(freq="D", date_format="%Y-%m-%d %H:%M%z")(rows_of(2, start=starts))["timestamp"]
    assert [str(one.as_py()) for one in found][::2] == ["2024-01-05 22:00:00+00:00", "2024-01-06 05:00:00+00:00"]


@pytest.mark.parametrize(
    "texts",
    [pa.array(["05/03/2024"]).dictionary_encode(), pa.array(["05/03/2024"], pa.string_view())],
    ids=["dictionary", "view"],
)
def test_texts_of_dates_are_refused_in_whatever_form(texts):
    with pytest.raises(FlowrankError, match="found texts in 'start'"):
        asked(freq="D")(rows_of(start=texts))
    with pytest.raises(FlowrankError, match="found texts in 'timestamp'"):
        asked(freq="D")(rows_of(timestamp=pa.array([["05/03/2024"] * 5], pa.list_(texts.type))))


def told(table, **options):
    """Reasons of the series that are left out, and ids of those that are forecast."""
    found = asked(skip_bad=True, **options)(table).to_pylist()
    forecasts = [one["item_id"] for one in found if one["error"] is None]
    assert forecasts[::2] == forecasts[1::2]
    return [(one["item_id"], one["error"]) for one in found if one["error"] is not None], forecasts[::2]


def test_rows_without_an_id_or_with_that_of_another_are_left_out_alone():
    ids = ["bad", None, "g1", "twice", "g2", "twice", None]
    table = pa.table({"item_id": ids, "target": [[None], *[VALUES] * 6]})
    reasons, forecasts = told(table)
    assert forecasts == ["g1", "g2"]
    assert [item_id for item_id, _ in reasons] == [None, None, "twice", "bad"]
    for (_, reason), part in zip(reasons, ("none in row 1", "none in row 6", "in 2 rows", "observed"), strict=True):
        assert part in reason
    assert told(table.slice(0, 2)) == ([(None, reasons[0][1]), reasons[3]], [])
    with pytest.raises(FlowrankError, match="an id in every row, and each once, found none in row 1"):
        asked()(table)


VIEWS = pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 20, reason="Arrow cannot work with views yet")


@pytest.mark.parametrize(
    "kind",
    [
        pa.float64(),
        pa.dictionary(pa.int32(), pa.int64()),
        pytest.param(pa.string_view(), marks=VIEWS),
        pa.null(),
    ],
)
def test_ids_of_any_type_may_lack_or_come_twice(kind):
    ids = pa.nulls(4) if pa.types.is_null(kind) else pa.array([None, 1, 1, 2]).cast(pa.string()).cast(kind)
    reasons, forecasts = told(pa.table({"item_id": ids, "target": [VALUES] * 4}))
    assert (len(reasons), len(forecasts)) == ((4, 0) if pa.types.is_null(kind) else (2, 1))


def test_not_a_number_is_no_id():
    reasons, forecasts = told(pa.table({"item_id": [float("nan"), 1.0], "target": [VALUES] * 2}))
    assert (len(reasons), forecasts) == (1, [1.0])


def test_errors_of_the_model_are_raised_though_series_were_left_out():
    pipeline = flowrank.load(MODEL)
    for weights in pipeline.model.parameters():
        weights.data.fill_(float("nan"))
    forecaster = Forecaster(pipeline, horizon=2, skip_bad=True)
    with pytest.raises(FlowrankError, match="expected finite"):
        forecaster(pa.table({"item_id": ["bad", "g"], "target": [[None], VALUES]}))


@pytest.mark.parametrize("freq", [["D", None, "D"], None])
def test_short_series_without_a_frequency_are_left_out_alone(freq):
    times = pa.array([list(pd.date_range("2024-01-01", periods=n)) for n in (5, 2, 3)], pa.list_(STAMP))
    table = pa.table({"item_id": ["A", "B", "C"], "target": [VALUES[:n] for n in (5, 2, 3)], "timestamp": times})
    table = table if freq is None else table.append_column("freq", pa.array(freq))
    reasons, forecasts = told(table)
    assert ([item_id for item_id, _ in reasons], forecasts) == (["B"], ["A", "C"])
    assert "found series 'B' of 2 values" in reasons[0][1]
    with pytest.raises(FlowrankError, match=r"freq: .* found series 'B' of 2 values"):
        asked()(table)


@pytest.mark.parametrize("ids", [[{"a": 1}], [["a"]]])
def test_ids_of_several_values_are_refused(ids):
    with pytest.raises(FlowrankError, match="id_column: expected ids that are one value each"):
        asked()(pa.table({"item_id": ids, "target": [VALUES]}))


@pytest.mark.parametrize("argument", ["id_column", "timestamp_column"])
def test_columns_that_are_named_as_that_of_the_reasons_are_refused(argument):
    with pytest.raises(FlowrankError, match=f"{argument}: expected another name than 'error'"):
        asked(skip_bad=True, **{argument: "error"})
    asked(**{argument: "error"})


@pytest.mark.parametrize("argument", ["engine", "dtype"])
def test_what_each_process_would_choose_for_itself_is_refused(argument):
    with pytest.raises(FlowrankError, match=f"{argument}: expected one by name"):
        Forecaster(MODEL, horizon=2, **{argument: "fastest"})


def test_times_between_microseconds_are_refused():
    times = pd.date_range("2024-01-01", periods=5, freq="300ns")
    table = pa.table({"item_id": ["A"], "target": [[1.0, 2.0, 3.0, 4.0, 5.0]], "timestamp": [times.to_numpy()]})
    with pytest.raises(FlowrankError, match=r"series: expected .* times of whole microseconds"):
        Forecaster(MODEL, horizon=2)(table)
