"""Ray and Spark, at small size: what one process forecasts, to the last bit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from functools import partial

import pandas as pd
import pytest

from flowrank import FlowrankError
from flowrank.distributed import forecast, forecast_files, ray_cluster, run, spark_forecast
from flowrank.distributed.workers import check_workers, looking
from tests.distributed.conftest import MODEL, OPTIONS, written

LEVELS = {"quantile_levels": [0.5]}


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def test_an_address_where_none_answers():
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("this process belongs to a cluster already")
    with pytest.raises(FlowrankError, match="where none answers"):
        ray_cluster._join(ray, "nonsense://x")


def test_a_ray_data_set(cluster, folder, expected):
    found = forecast(cluster.data.read_parquet(str(folder)), MODEL, horizon=4, workers=2, rows=7, **LEVELS)
    mine = found.to_pandas().sort_values(["item_id", "timestamp"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, expected, check_exact=True, check_dtype=False)


def dies_once(forecaster, one, *, series, output, mark):
    """The worker's work; the first that comes here is killed with its process."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    return run._work(forecaster, one, series=series, output=output)


def test_partitions_on_ray_survive_a_killed_actor(cluster, folder, tmp_path, expected):
    output = tmp_path / "out"
    partitions = run.planned(run.Folder(str(folder)), "target", 16)
    work = partial(dies_once, series=str(folder), output=str(output), mark=str(tmp_path / "mark"))
    given = {"model": MODEL, "horizon": 4, "threads": 1, **LEVELS}
    records = list(run._on_ray(partitions, work, given, on="ray", workers=2, threads=1, num_gpus=0, sees=str(folder)))
    assert (tmp_path / "mark").exists()
    assert sorted(one["partition"]["number"] for one in records) == list(range(6))
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
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    bare.chmod(0o755)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(bare))
    with pytest.raises(FlowrankError, match=r"found none in .* on .*PYSPARK_PYTHON"):
        spark_forecast(spark.read.parquet(str(folder)), MODEL, horizon=4, **LEVELS)


def test_workers_that_lack_something(tmp_path):
    paths = {"model": str(tmp_path), "series": "s3://bucket/series"}
    told = looking(paths)()
    check_workers([told], paths, "install it")
    tmp_path.rmdir()
    with pytest.raises(FlowrankError, match=r"model: expected what every node .* sees"):
        check_workers([told, looking_at(told, missing=["model"])], paths, "install it")
    with pytest.raises(FlowrankError, match=r"workers: expected flowrank .* found 0\.0\.1 in .*install it"):
        check_workers([looking_at(told, version="0.0.1")], paths, "install it")


def looking_at(told, **changed):
    return json.dumps({**json.loads(told), **changed})
