"""Folders in an object store: an S3-compatible server on this machine, credentials from its standard chain."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flowrank import FlowrankError
from flowrank.cli.program import main
from flowrank.distributed import forecast_files, run
from flowrank.distributed.addresses import Folder
from tests.distributed.conftest import MODEL, OPTIONS

ACCESS = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}


@pytest.fixture(scope="module")
def store():
    """The server, and its access in the environment; a bucket of the name "shop"."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ACCESS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        boto3 = pytest.importorskip("boto3")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="shop")
        yield boto3.resource("s3").Bucket("shop")
    server.stop()


@pytest.fixture
def series(store, folder):
    """Address of the series."""
    for file in folder.iterdir():
        store.upload_file(str(file), f"{folder.parent.name}/{file.name}")
    return f"s3://shop/{folder.parent.name}"


def found(store, address):
    """The objects of a folder, by their names in it."""
    prefix = address.removeprefix("s3://shop/") + "/"
    return {one.key.removeprefix(prefix): one for one in store.objects.filter(Prefix=prefix)}


def forecasts(address):
    files = Folder(address)
    tables = []
    for one in files.files():
        with files.open(one.name) as file:
            tables.append(pq.read_table(file).to_pandas())
    return pd.concat(tables).sort_values(["item_id", "timestamp"]).reset_index(drop=True)


def test_series_from_a_store_and_forecasts_into_it(store, series, expected):
    output = f"{series}-forecasts"
    command = ["forecast", MODEL, series, "--output", output, "--horizon", "4", "--quantile", "0.5"]
    assert main([*command, "--partition-series", "16", "--quiet"]) == 0
    pd.testing.assert_frame_equal(forecasts(output), expected, check_exact=True)
    assert "_flowrank/manifest.json" in found(store, output)


def test_a_run_in_a_store_goes_on(store, series, expected, monkeypatch):
    output, done = f"{series}-forecasts", []

    def interrupted(forecaster, source, output, one):
        if len(done) == 2:
            with output.writing(one.output) as stream:
                stream.write(b"cut off")
                raise KeyboardInterrupt
        done.append(one)
        return whole(forecaster, source, output, one)

    whole = run.forecast_partition
    with monkeypatch.context() as patch:
        patch.setattr(run, "forecast_partition", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forecast_files(series, MODEL, output, **OPTIONS)
    assert {name for name in found(store, output) if name.endswith(".parquet")} == {one.output for one in done}
    kept = found(store, output)[done[0].output].last_modified
    forecast_files(series, MODEL, output, **OPTIONS)
    assert found(store, output)[done[0].output].last_modified == kept
    pd.testing.assert_frame_equal(forecasts(output), expected, check_exact=True)
    with pytest.raises(FlowrankError, match="another seed"):
        forecast_files(series, MODEL, output, **OPTIONS, seed=1)


def test_a_store_on_ray(store, series, expected):
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("this process belongs to a cluster that does not know the store")
    output = f"{series}-forecasts"
    forecast_files(series, MODEL, output, on="ray", workers=2, **OPTIONS)
    pd.testing.assert_frame_equal(forecasts(output), expected, check_exact=True)


def test_a_bucket_that_is_not_there(store, tmp_path):
    with pytest.raises(FlowrankError, match=r"s3://nowhere/series"):
        forecast_files("s3://nowhere/series", MODEL, tmp_path / "out", **OPTIONS)


def test_access_that_is_refused(store, series, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(FlowrankError, match=series):
        forecast_files(series, MODEL, tmp_path / "out", **OPTIONS)
