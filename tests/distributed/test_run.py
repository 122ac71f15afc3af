"""Folders of Parquet files, forecast part by part: interrupted, resumed, refused, at other addresses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

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
        "passed_over": [],
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


def test_a_series_that_comes_twice_is_refused_before_anything_is_forecast(folder, rows, tmp_path):
    pq.write_table(rows.slice(5, 1), folder / "3.parquet")
    with pytest.raises(FlowrankError, match=r"series 's05' in 0\.parquet, row groups 0 to 1 and in 3\.parquet"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    pq.write_table(pa.concat_tables([rows.slice(40, 20), rows.slice(41, 1)]), folder / "2.parquet")
    (folder / "3.parquet").unlink()
    with pytest.raises(FlowrankError, match=r"series 's41' in 2\.parquet, row groups 0 to 0, twice"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_other_series_are_another_run(folder, tmp_path):
    """Though their files have the same names and sizes."""
    shutil.copytree(folder, tmp_path / "later")
    forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    with pytest.raises(FlowrankError, match=r"holds one with another .*input"):
        forecast_files(tmp_path / "later", MODEL, tmp_path / "out", **OPTIONS)
    file = folder / "1.parquet"
    file.write_bytes(file.read_bytes())
    with pytest.raises(FlowrankError, match=r"holds one with another file 1\.parquet;"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)


def test_series_that_change_while_they_are_forecast_are_refused(folder, tmp_path, monkeypatch):
    real = run.forecast_partition

    def changing(forecaster, source, output, one):
        (folder / "2.parquet").touch()
        return real(forecaster, source, output, one)

    monkeypatch.setattr(run, "forecast_partition", changing)
    with pytest.raises(FlowrankError, match=r"series: .* found another file 2\.parquet than at the start"):
        forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out/_flowrank/manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "flow-blot-mini"}, "flow-blot-mini"),
        ({"id_column": "shop"}, "id_column: "),
        ({"device": "cuda:77"}, "device"),
        ({"predict_kwargs": {"num_samples": 5}}, "num_samples"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_wrong_calls_are_no_bad_series_and_leave_nothing(folder, tmp_path, options, words, skip_bad):
    given = {"model": MODEL, **OPTIONS, **options}
    with pytest.raises(FlowrankError, match=words) as told:
        forecast_files(folder, given.pop("model"), tmp_path / "out", skip_bad=skip_bad, **given)
    assert "skip" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_what_nobody_chose_is_as_its_default(folder, tmp_path):
    forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    given = {"dtype": "auto", "seed": 0, "non_negative": False, "predict_kwargs": {}, "engine": None, "batch_size": 7}
    assert forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS, **given)["forecast"] == 60


def test_calendars_that_pandas_writes_alike_are_other_runs(rows, tmp_path):
    (tmp_path / "long").mkdir()
    pq.write_table(pa.Table.from_pandas(as_long(rows.slice(0, 2)), preserve_index=False), tmp_path / "long/0.parquet")

    def days(names):
        return pd.offsets.CustomBusinessDay(weekmask=names)

    with pytest.raises(FlowrankError, match="freq"):
        forecast_files(tmp_path / "long", MODEL, tmp_path / "out", freq=days("Mon Tue"), **OPTIONS)
    assert run._chosen({"freq": days("Mon Tue")}) != run._chosen({"freq": days("Mon Wed")})


def test_what_is_no_parquet_is_told(folder, rows, tmp_path, capsys):
    (folder / "notes.csv").write_text("mine")
    (folder / "_SUCCESS").touch()
    pq.write_table(pa.concat_tables([rows.slice(0, 1)]).set_column(0, "item_id", pa.array(["new"])), folder / "B.PQ")
    manifest = forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert (manifest["forecast"], manifest["passed_over"]) == (61, ["notes.csv"])
    assert main(["forecast", MODEL, str(folder), "--horizon", "4", "--output", str(tmp_path / "told"), "--quiet"]) == 0
    assert "not read, as they are no Parquet files: notes.csv" in capsys.readouterr().out


def test_columns_in_names_of_folders(folder, rows, tmp_path):
    for name, words in (("freq=W", "'freq' as a column"), ("year=2024", None)):
        (folder / name).mkdir()
        pq.write_table(rows.slice(0, 1).set_column(0, "item_id", pa.array(["new"])), folder / name / "0.parquet")
        if words:
            with pytest.raises(FlowrankError, match=f"series: expected {words} of each file"):
                forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
            shutil.rmtree(folder / name)
        else:
            assert forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)["forecast"] == 61


def test_one_series_without_an_id_is_one_file(rows, tmp_path):
    (tmp_path / "long").mkdir()
    part = pa.Table.from_pandas(as_long(rows.slice(2, 1)).drop(columns="item_id"), preserve_index=False)
    options = {**OPTIONS, "id_column": None, "freq": "MS"}
    pq.write_table(part, tmp_path / "long/0.parquet")
    assert forecast_files(tmp_path / "long", MODEL, tmp_path / "out", **options)["series"] == 1
    pq.write_table(part, tmp_path / "long/1.parquet")
    with pytest.raises(FlowrankError, match=r"id_column: .* found None, and 2 files"):
        forecast_files(tmp_path / "long", MODEL, tmp_path / "other", **options)


def test_an_output_in_the_input_is_refused(folder):
    for output in (folder, folder / "out"):
        with pytest.raises(FlowrankError, match="output: expected a folder outside"):
            forecast_files(folder, MODEL, output, **OPTIONS)


def test_what_killed_writers_left_goes(folder, tmp_path):
    (tmp_path / "out").mkdir()
    left = tmp_path / "out/.part-00000.parquet.a7de091b"
    left.write_bytes(b"cut off")
    forecast_files(folder, MODEL, tmp_path / "out", **OPTIONS)
    assert not left.exists()


def test_nothing_that_can_be_forecast_is_an_error(rows, tmp_path):
    (tmp_path / "in").mkdir()
    bad = rows.slice(0, 2).set_column(3, "target", pa.array([[None], []], pa.list_(pa.float64())))
    pq.write_table(bad, tmp_path / "in/0.parquet")
    with pytest.raises(FlowrankError, match=r"series: expected at least one .* found none of 2 \(2 left out\)"):
        forecast_files(tmp_path / "in", MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)


def test_threads_are_afterwards_as_they_were(folder, tmp_path):
    before = torch.get_num_threads()
    forecast_files(folder, MODEL, tmp_path / "out", threads=before + 1, **OPTIONS)
    assert torch.get_num_threads() == before


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
    (folder / "2.parquet").write_bytes(b"")
    with pytest.raises(FlowrankError, match=r"expected a Parquet file that can be read, found '2\.parquet'"):
        forecast_files(folder, MODEL, tmp_path / "empty", **OPTIONS)
    manifest = forecast_files(folder, MODEL, tmp_path / "empty", skip_bad=True, **OPTIONS)
    assert (manifest["series"], list(manifest["quarantined"])) == (25, ["1.parquet, row groups 0 to 1", "2.parquet"])
    [told] = written(tmp_path / "told").query("error.notna()").to_dict("records")
    assert told["item_id"] == "bad"
    assert "observed" in told["error"]


def test_bad_rows_are_told_of_one_by_one_whatever_part_they_are_in(folder, rows, tmp_path):
    bad = rows.slice(0, 2).set_column(0, "item_id", pa.nulls(2, pa.string()))
    for name, count in (("3", 2), ("4", 1)):
        pq.write_table(bad.slice(0, count), folder / f"{name}.parquet")
    manifest = forecast_files(folder, MODEL, tmp_path / "out", skip_bad=True, **OPTIONS)
    assert (manifest["series"], manifest["forecast"], manifest["skipped"]) == (63, 60, 3)
    errors = written(tmp_path / "out").query("error.notna()")
    assert errors["item_id"].isna().sum() == len(errors) == 3


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
    with pytest.raises(FlowrankError, match="expected at least one that can be forecast, found none of 0"):
        forecast_files(tmp_path / "long", MODEL, tmp_path / "empty", **OPTIONS)
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
    assert main([*command, "--output", str(tmp_path / "other"), "--workers", "2"]) != 0
    assert "--workers: expected --on with it" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "other"), "--threads", "0"]) != 0
    assert "threads: expected" in capsys.readouterr().err
