"""A cache of the hub as huggingface_hub lays it out, with a tiny model and a few tiny data sets."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MODEL = "some-lab/tiny-model"
DATA = "autogluon/chronos_datasets"
COMMIT = {"models": "a" * 40, "datasets": "d" * 40}


def series(name: str, count: int, length: int, season: int) -> list[np.ndarray]:
    rng = np.random.default_rng([len(name), count, length])
    steps = np.arange(length)
    waves = [10 + 3 * np.sin(2 * np.pi * steps / season + row) + rng.normal(0, 0.5, length) for row in range(count)]
    waves[0][3:5] = np.nan
    return waves


def table(name: str, count: int, length: int, season: int, freq: str, columns: tuple[str, ...] = ("target",)):
    """Rows as the hub has them: id, a list of times, lists of values, and a text that is none of them."""
    values = {column: series(name + column, count, length, season) for column in columns}
    times = [list(pd.date_range("2015-01-01", periods=length, freq=freq).to_pydatetime())] * count
    return pa.table(
        {
            "id": [f"{name}-{row}" for row in range(count)],
            "timestamp": pa.array(times, pa.list_(pa.timestamp("ms"))),
            "category": ["x"] * count,
            **{
                column: pa.array([list(one) for one in rows], pa.list_(pa.float32())) for column, rows in values.items()
            },
        }
    )


TABLES = {
    "monash_cif_2016": table("cif", 3, 60, 12, "MS"),
    "monash_tourism_yearly": table("tourism", 2, 30, 1, "YS"),
    "ercot": table("ercot", 4, 100, 24, "h"),
    "ETTh": table("ett", 2, 90, 24, "h", ("HUFL", "OT")),
}
HORIZONS = {"monash_cif_2016": (12, 12), "monash_tourism_yearly": (4, 1), "ercot": (24, 24), "ETTh": (24, 24)}
"""How far ahead each is forecast, and its season."""

CARD = """---
configs:
- config_name: ETT_1H
  data_files:
  - split: train
    path: ETT/1H/train*
---
# Data
"""


def written(rows: pa.Table) -> bytes:
    memory = io.BytesIO()
    pq.write_table(rows, memory)
    return memory.getvalue()


def add_repo(cache: Path, kind: str, repo: str, files: dict[str, bytes]) -> Path:
    """A repository of the cache: blobs, and a snapshot of links to them, to which ``refs/main`` points."""
    home = cache / f"{kind}--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT[kind]
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT[kind])
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        place = snapshot / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blob)
    return snapshot


def make_cache(cache: Path, model: Path) -> Path:
    """The whole cache; "ercot" comes in two files, and "ETTh" from another repository, where its card says."""
    add_repo(cache, "models", MODEL, {path.name: path.read_bytes() for path in model.iterdir()})
    whole = TABLES["ercot"]
    halves = {
        "ercot/train-00000-of-00002.parquet": written(whole.slice(0, 3)),
        "ercot/train-00001-of-00002.parquet": written(whole.slice(3)),
    }
    single = {
        f"{name}/train-00000-of-00001.parquet": written(TABLES[name])
        for name in ("monash_cif_2016", "monash_tourism_yearly")
    }
    add_repo(cache, "datasets", DATA, {"README.md": b"# Data\n", **single, **halves})
    extra = {"README.md": CARD.encode(), "ETT/1H/train-00000-of-00001.parquet": written(TABLES["ETTh"])}
    add_repo(cache, "datasets", "autogluon/fev_datasets", extra)
    return cache


def flat_folder(folder: Path) -> Path:
    """The same data sets as one file each."""
    folder.mkdir()
    for name, rows in TABLES.items():
        pq.write_table(rows, folder / f"{name}.parquet")
    return folder
