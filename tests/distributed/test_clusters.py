"""Ray and Spark, at small size: what one process forecasts, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import flowrank
from flowrank import FlowrankError
from flowrank.distributed import Forecaster, forecast, forecast_files, ray_cluster, run, spark_forecast
from flowrank.distributed.workers import check_workers, looking
from tests.distributed.conftest import MODEL, OPTIONS, dies_once, written

LEVELS = {"quantile_levels": [0.5]}


def test_an_address_where_none_answers():
    pytest.importorskip("ray")
    script = "import ray; from flowrank.distributed.ray_cluster import _join; _join(ray, 'nonsense://x')"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr
    assert "FlowrankError: on: expected" in told
    assert "where none answers" in told


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_none_listens(scheme):
    ray = pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(FlowrankError, match=f"on: .* found '{scheme}127.0.0.1:{port}', where none answers"):
        ray_cluster._join(ray, f"{scheme}127.0.0.1:{port}")


def test_a_cluster_that_is_gone_is_not_waited_for(tmp_path, monkeypatch):
    """Ray keeps the address of the last cluster in a file."""
    ray, asked = pytest.importorskip("ray"), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{port}\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given["address"]))
    assert ray_cluster._join(ray, "ray")
    assert asked == ["local"]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(FlowrankError, match=f"on: .* found '127.0.0.1:{port}', where none answers"):
        ray_cluster._join(ray, "ray")


def test_a_machine_that_is_too_small_for_a_worker():
    has = {"CPU": 2.0}
    ray_cluster._check_room(has, 2, 0)
    with pytest.raises(FlowrankError, match="threads: expected at most 2, as this machine has CPUs, found 3"):
        ray_cluster._check_room(has, 3, 0)
    with pytest.raises(FlowrankError, match="num_gpus: expected at most 0"):
        ray_cluster._check_room(has, 1, 1)


def test_a_worker_that_dies_again_and_again(cluster, monkeypatch):
    monkeypatch.setattr(ray_cluster, "RETRIES", 0)

    def work(task):
        os.kill(os.getpid(), signal.SIGKILL)

    found = ray_cluster.results_of(work, ["one"], on="ray", workers=1, threads=1, num_gpus=0, paths={})
    with pytest.raises(FlowrankError, match=r"workers: .* found one that died 1 times, one \("):
        list(found)


def test_a_full_disk_is_told_as_in_one_process(cluster):
    def work(task):
        raise OSError(28, "No space left on device", task)

    found = ray_cluster.results_of(work, ["one"], on="ray", workers=1, threads=1, num_gpus=0, paths={})
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: 'one'$"):
        list(found)


def test_a_ray_data_set(cluster, folder, expected):
    found = forecast(cluster.data.read_parquet(str(folder)), MODEL, horizon=4, workers=2, rows=7, **LEVELS)
    mine = found.to_pandas().sort_values(["item_id", "timestamp"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, expected, check_exact=True, check_dtype=False)


def dying(forecaster, one, *, series, output, mark):
    """The worker's work; the first that comes here is killed with its process."""
    dies_once(mark)
    return run._work(forecaster, one, series=series, output=output)


def test_partitions_on_ray_survive_a_killed_actor(cluster, folder, tmp_path, expected):
    output, mark = tmp_path / "out", tmp_path / "mark"
    source = run.Folder(str(folder))
    partitions = run.planned(source, source.files(), "target", 16)
    forecaster = Forecaster(MODEL, horizon=4, threads=1, **LEVELS)
    work = partial(dying, forecaster, series=str(folder), output=str(output), mark=str(mark))
    paths = {"series": str(folder)}
    found = ray_cluster.results_of(work, partitions, on="ray", workers=2, threads=1, num_gpus=0, paths=paths)
    assert sorted(one["partition"]["number"] for one in found) == list(range(6))
    assert mark.exists()
    pd.testing.assert_frame_equal(written(output), expected, check_exact=True)


def test_a_folder_on_ray(cluster, folder, tmp_path, expected):
    manifest = forecast_files(folder, MODEL, tmp_path / "out", on="ray", workers=2, **OPTIONS)
    assert (manifest["forecast"], manifest["partitions"]) == (60, 6)
    pd.testing.assert_frame_equal(written(tmp_path / "out"), expected, check_exact=True)


@pytest.fixture(scope="module")
def spark():
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        session = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    yield session
    session.stop()


def test_a_spark_data_frame(spark, folder, expected):
    frame = spark_forecast(spark.read.parquet(str(folder)), MODEL, horizon=4, **LEVELS)
    kinds = [kind for _, kind in frame.dtypes]
    assert (kinds[0], kinds[2:]) == ("string", ["string", "double", "double"])
    mine = frame.toPandas().sort_values(["item_id", "timestamp"]).reset_index(drop=True)
    mine["timestamp"] = mine["timestamp"].astype(expected["timestamp"].dtype)
    pd.testing.assert_frame_equal(mine, expected, check_exact=True, check_dtype=False)


def test_a_spark_whose_python_lacks_flowrank(spark, folder, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    here = Path(flowrank.__file__).parents[1]
    paths = f'export PYTHONPATH=$(echo "$PYTHONPATH" | sed "s#{here}##")'
    bare.write_text(f'#!/bin/sh\n{paths}\nexec {sys.executable} -S "$@"\n')  # without what is installed
    bare.chmod(0o755)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(bare))
    with pytest.raises(FlowrankError, match=r"found none in .* on .*PYSPARK_PYTHON"):
        spark_forecast(spark.read.parquet(str(folder)), MODEL, horizon=4, **LEVELS)


def test_workers_that_lack_something(tmp_path):
    paths = {"model": str(tmp_path), "series": "s3://bucket/series"}
    told = looking(paths)()
    check_workers([told], paths, "install it")
    (tmp_path / "weights").write_text("others")
    with pytest.raises(FlowrankError, match=r"model: expected the same files .* holds others on"):
        check_workers([told], paths, "install it")
    (tmp_path / "weights").unlink()
    with pytest.raises(FlowrankError, match=r"model: expected what every node .* sees"):
        check_workers([told, looking_at(told, missing=["model"])], paths, "install it")
    with pytest.raises(FlowrankError, match=r"workers: expected flowrank .* found 0\.0\.1 in .*install it"):
        check_workers([looking_at(told, version="0.0.1")], paths, "install it")


def looking_at(told, **changed):
    return json.dumps({**json.loads(told), **changed})
