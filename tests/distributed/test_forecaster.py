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
