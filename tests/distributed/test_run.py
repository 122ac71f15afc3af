"""Folders of Parquet files, forecast part by part: interrupted, resumed, refused, at other addresses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowrank import FlowrankError
from flowrank.cli.program import main
from flowrank.distributed import forecast_files, run
from tests.distributed.conftest import MODEL, OPTIONS, as_long, in_order, written


def test_every_series_once_and_counts_that_add_up(folder, tmp_path, expected):
    manifest = forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert manifest == {
        "series": 60,
        "forecast": 60,
        "skipped": 0,
        "rows": 240,
        "partitions": 6,
        "quarantined": {},
    }
    assert json.loads((tmp_path / "out/_flowrank/manifest.json").read_text()) == manifest
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 6
    pd.testing.assert_frame_equal(written(tmp_path / "out"), expected, check_exact=True)


def test_long_files_are_forecast_whole(rows, tmp_path, expected):
    (tmp_path / "long").mkdir()
    for i in range(2):
        part = pa.Table.from_pandas(as_long(rows.slice(30 * i, 30)), preserve_index=False)
        pq.write_table(part, tmp_path / f"long/{i}.parquet", row_group_size=100)
    manifest = forecast_files(tmp_path / "long", MODEL, tmp_path / "out", freq="MS", **OPTIONS)
    assert (manifest["partitions"], manifest["forecast"], manifest["rows"]) == (2, 60, 240)
    pd.testing.assert_frame_equal(written(tmp_path / "out"), expected, check_exact=True, check_dtype=False)


def test_a_run_goes_on_where_it_was_interrupted(folder, tmp_path, expected, monkeypatch):
    real, done = run.forecast_partition, []

    def interrupted(forecaster, source, output, one):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(one.number)
        return real(forecaster, source, output, one)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run, "forecast_partition", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forecast_files(folder, MODEL, output, **OPTIONS)
    assert not (output / "_flowrank/manifest.json").exists()
    kept = (output / "part-00001.parquet").stat().st_mtime_ns
    (output / "part-00000.parquet").write_bytes(b"cut off")
    forecast_files(folder, MODEL, output, **OPTIONS)
    assert (output / "part-00001.parquet").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(written(output), expected, check_exact=True)


def test_outputs_of_another_run_are_refused(folder, tmp_path):
    forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    with pytest.raises(FlowrankError, match="holds one with another horizon, seed"):
        forecast_files(folder, MODEL, tmp_path / "out", **{**OPTIONS, "horizon": 5}, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("mine")
    with pytest.raises(FlowrankError, match=r"holds thesis\.tex"):
        forecast_files(folder, MODEL, tmp_path / "mine", **OPTIONS)


def test_a_model_in_a_folder_is_told_by_its_files(folder, bolt_folder, t5_folder, tmp_path):
    options = {**OPTIONS, "horizon": 2}
    for place, source in (("bolt", bolt_folder), ("same", bolt_folder), ("t5", t5_folder)):
        shutil.copytree(source, tmp_path / place / "model")
    for place in ("bolt", "same"):
        assert forecast_files(folder, tmp_path / place / "model", tmp_path / "out", **options)["forecast"] == 60
    with pytest.raises(FlowrankError, match="holds one with another model"):
        forecast_files(folder, tmp_path / "t5/model", tmp_path / "out", **options)


def test_sample_paths_of_a_model_that_draws_none_are_refused(folder, tmp_path):
    with pytest.raises(FlowrankError, match="num_samples: expected a model that draws sample paths"):
        forecast_files(folder, MODEL, tmp_path / "out", predict_kwargs={"num_samples": 5}, **OPTIONS)


def test_files_of_another_schema_are_refused(folder, rows, tmp_path):
    pq.write_table(rows.set_column(0, "item_id", pa.array(range(60))), folder / "3.parquet")
    with pytest.raises(FlowrankError, match=r"'3\.parquet' \('item_id': int64, not string\)"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    with pytest.raises(FlowrankError, match="expected Parquet files, found none"):
        forecast_files(tmp_path / "nowhere", MODEL, tmp_path / "out", **OPTIONS)


def test_a_series_in_two_files_is_refused(folder, rows, tmp_path):
    pq.write_table(rows.slice(5, 1), folder / "3.parquet")
    with pytest.raises(FlowrankError, match=r"series 's05' in 0\.parquet, row groups 0 to 1 and in 3\.parquet"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out/_flowrank/manifest.json").exists()


def test_a_frequency_that_other_series_decide_is_refused(rows, tmp_path):
    (tmp_path / "long").mkdir()
    pq.write_table(pa.Table.from_pandas(as_long(rows), preserve_index=False), tmp_path / "long/0.parquet")
    with pytest.raises(FlowrankError, match=r"freq: .*found in 0\.parquet: series 's\d\d' of [12] values"):
        forecast_files(tmp_path / "long", MODEL, tmp_path / "out", **OPTIONS)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_what_cannot_be_forecast_stops_the_run_or_is_told(folder, rows, tmp_path):
    bad = pa.table({**{n: rows[n].slice(0, 1) for n in ("start", "freq")}, "item_id": ["bad"], "target": [[None]]})
    pq.write_table(bad.select(rows.column_names).cast(rows.schema), folder / "3.parquet")
    data = bytearray((folder / "1.parquet").read_bytes())
    data[4:400] = bytes(396)  # pages of the first row groups
    (folder / "1.parquet").write_bytes(data)
    with pytest.raises(FlowrankError, match=r"(?s)found in 1\.parquet, row groups 0 to 1: .*--skip-bad"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    manifest = forecast_files(folder, MODEL, tmp_path / "told", skip_bad=True, **OPTIONS)
    assert (manifest["series"], manifest["forecast"], manifest["skipped"]) == (45, 44, 1)
    assert list(manifest["quarantined"]) == ["1.parquet, row groups 0 to 1"]
    [told] = written(tmp_path / "told").query("error.notna()").to_dict("records")
    assert told["item_id"] == "bad"
    assert "observed" in told["error"]


def test_bad_rows_are_told_of_one_by_one_whatever_part_they_are_in(folder, rows, tmp_path):
    bad = rows.slice(0, 3).set_column(0, "item_id", pa.array([None, "again", "again"]))
    for name in ("3", "4"):
        pq.write_table(bad if name == "3" else bad.slice(0, 1), folder / f"{name}.parquet")
    manifest = forecast_files(folder, MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)
    assert (manifest["series"], manifest["forecast"], manifest["skipped"]) == (63, 60, 3)
    errors = written(tmp_path / "out").query("error.notna()")
    assert sorted(errors["item_id"].fillna("").tolist()) == ["", "", "again"]


def test_errors_tell_the_rows_of_the_file(folder, rows, tmp_path):
    ids = pa.array([None, "bad", *(f"new{i}" for i in range(18))])
    bad = rows.slice(0, 20).set_column(0, "item_id", ids)
    targets = bad["target"].to_pylist()
    targets[1] = [1.0, float("inf")]
    bad = bad.set_column(3, "target", pa.array(targets, bad.schema.field("target").type))
    pq.write_table(pa.concat_tables([rows.slice(0, 20), bad]), folder / "0.parquet", row_group_size=10)
    forecast_files(folder, MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)
    first, second = written(tmp_path / "out").query("error.notna()")["error"]
    assert "series 'bad' (record 21)" in first
    assert "none in row 20" in second


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 5, 2, 6, 3, 1, 7, 4]], ids=["grouped", "interleaved"])
def test_errors_tell_the_rows_of_long_files(order, tmp_path):
    ids, values = [None, "short", "bad", "bad", "bad", "A", "A", "A"], [1, 1, 1, 2, np.inf, 1, 2, 3]
    times = pd.to_datetime([f"2024-01-{day:02}" for day in (1, 1, 1, 2, 3, 1, 2, 3)])
    frame = pd.DataFrame({"item_id": ids, "timestamp": times, "target": values}).iloc[order]
    frame.to_parquet(tmp_path / "0.parquet", index=False)
    forecast_files(tmp_path / "0.parquet", MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)
    errors = written(tmp_path / "out").dropna(subset="error").set_index("item_id")["error"]
    assert len(errors) == 3
    assert f"row {order.index(4)} (series 'bad')" in errors["bad"]


def test_long_files_without_rows_and_with_bad_series(rows, tmp_path):
    (tmp_path / "long").mkdir()
    table = pa.Table.from_pandas(as_long(rows), preserve_index=False)
    pq.write_table(table.slice(0, 0), tmp_path / "long/0.parquet")
    assert forecast_files(tmp_path / "long", MODEL, tmp_path / "empty", **OPTIONS)["rows"] == 0
    ids = table["item_id"].to_pylist()
    ids[-2:] = [None, None]
    pq.write_table(table.set_column(0, "item_id", pa.array(ids)), tmp_path / "long/1.parquet")
    pq.write_table(table.slice(0, 1).set_column(0, "item_id", pa.nulls(1, pa.string())), tmp_path / "long/2.parquet")
    manifest = forecast_files(tmp_path / "long", MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)
    errors = written(tmp_path / "out").query("error.notna()")
    assert manifest["series"] == 62
    assert manifest["skipped"] == len(errors) == 62 - manifest["forecast"] < 40
    assert errors["item_id"].isna().sum() == 2
    assert errors["error"].str.contains("of [12] values|none in [12] rows").all()


def test_addresses_of_fsspec(rows, expected):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with memory.open("/bucket/series/a.parquet", "wb") as file:
        pq.write_table(rows, file, row_group_size=20)
    forecast_files("memory://bucket/series", MODEL, "memory://bucket/out", **OPTIONS)
    again = forecast_files("memory://bucket/series", MODEL, "memory://bucket/out", **OPTIONS)
    assert again["forecast"] == 60
    found = pa.concat_tables([pq.read_table(memory.open(one)) for one in sorted(memory.glob("/bucket/out/*.parquet"))])
    pd.testing.assert_frame_equal(in_order(found), expected, check_exact=True)


def test_the_command(folder, tmp_path, capsys, expected):
    command = ["forecast", MODEL, str(folder), "--horizon", "4", "--quantile", "0.5", "--quiet"]
    assert main([*command, "--output", str(tmp_path / "out"), "--partition-series", "16"]) == 0
    assert "60 series forecast, 0 left out" in capsys.readouterr().out
    pd.testing.assert_frame_equal(written(tmp_path / "out"), expected, check_exact=True)
    assert main([*command, "--output", str(tmp_path / "other"), "--cross-learning"]) != 0
    assert "cross_learning" in capsys.readouterr().err
