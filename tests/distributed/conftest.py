"""Series as tables of one row a series, and as long tables."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flowrank.distributed import Forecaster

MODEL = "flow-bolt-mini"
OPTIONS = {"horizon": 4, "quantile_levels": [0.5], "partition_series": 16}


@pytest.fixture(scope="session")
def cluster():
    """Ray on this machine, one for all tests of a process."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def one_thread():
    """As workers have it: sums of several threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dies_once(mark):
    """Kill this process, if it is the first to come here with this mark."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def rows():
    """Series of several lengths, some of them constant or with holes, as one row each."""
    rng = np.random.default_rng(0)
    lengths = rng.choice([1, 2, 20, 20, 20, 33, 70], 60)
    values = [rng.normal(size=n).cumsum() + 5 for n in lengths]
    for place, one in enumerate(values):
        one[len(one) // 2 :] = one[0] if place % 11 == 0 else one[len(one) // 2 :]
        if place % 7 == 3 and len(one) > 2:
            one[1] = np.nan
    targets = pa.array([pa.scalar([None if np.isnan(x) else x for x in one], pa.list_(pa.float64())) for one in values])
    starts = pa.array([pd.Timestamp("2020-01-01")] * 60, pa.timestamp("us"))
    ids = pa.array([f"s{i:02}" for i in range(60)])
    return pa.table({"item_id": ids, "start": starts, "freq": ["MS"] * 60, "target": targets})


def as_long(rows):
    """The same with a row a value."""
    frames = []
    for one in rows.to_pylist():
        times = pd.date_range(one["start"], periods=len(one["target"]), freq=one["freq"])
        frames.append(pd.DataFrame({"item_id": one["item_id"], "timestamp": times, "target": one["target"]}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def folder(rows, tmp_path):
    """Series as three files of twenty series, in row groups of eight."""
    made = tmp_path / "series"
    made.mkdir()
    for i in range(3):
        pq.write_table(rows.slice(20 * i, 20), made / f"{i}.parquet", row_group_size=8)
    return made


@pytest.fixture
def expected(rows):
    return in_order(Forecaster(MODEL, horizon=4, quantile_levels=[0.5])(rows))


def in_order(table):
    return table.to_pandas().sort_values(["item_id", "timestamp"]).reset_index(drop=True)


def written(output):
    return in_order(pq.ParquetDataset(output).read())
