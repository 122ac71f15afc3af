"""A small long table with two series, and the ways to hand it over."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from flowrank.series import read_series


def long(ids: Any = (101, 202)) -> pd.DataFrame:
    """Two series of four days each, from different days on."""
    one, two = ids
    first, second = pd.date_range("2024-01-30", periods=4), pd.date_range("2024-02-10", periods=4)
    return pd.DataFrame(
        {
            "item_id": pd.Series([one] * 4 + [two] * 4),
            "timestamp": [*first, *second],
            "target": [1.0, 2.5, np.nan, 4.0, 10.0, 20.0, 30.0, 40.5],
        }
    )


NAN = None
TWO = [
    (101, [1.0, 2.5, NAN, 4.0], "2024-01-30", "D"),
    (202, [10.0, 20.0, 30.0, 40.5], "2024-02-10", "D"),
]
TEXT = [(str(name), *rest) for name, *rest in TWO]


def read(source: Any, **options: Any) -> list[tuple]:
    """What is read, in values that compare."""
    return [
        (
            one.item_id,
            [NAN if np.isnan(value) else value for value in one.target.tolist()],
            None if one.start is None else str(one.start.date()),
            one.freq,
        )
        for one in read_series(source, **options)
    ]


def polars(frame: pd.DataFrame) -> Any:
    import pytest

    return pytest.importorskip("polars").from_pandas(frame)


def excel(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    import pytest

    pytest.importorskip("openpyxl")
    frame.to_excel(path, index=False, **options)
    return path


def csv(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    return path


def packed(frame: pd.DataFrame, path: Path) -> Path:
    """CSV, compressed by the standard library or Arrow, not by pandas."""
    text = frame.to_csv(index=False).encode()
    kind = path.suffix
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside.csv", text)
    elif kind == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(text)
    else:
        path.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[kind].compress(text))
    return path


TYPED: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, folder: frame,
    "pandas nullable": lambda frame, folder: frame.convert_dtypes(),
    "pandas Arrow": lambda frame, folder: frame.convert_dtypes(dtype_backend="pyarrow"),
    "pandas MultiIndex": lambda frame, folder: frame.set_index(["item_id", "timestamp"]),
    "pandas times in the index": lambda frame, folder: frame.set_index("timestamp").rename_axis(None),
    "polars": lambda frame, folder: polars(frame),
    "polars lazy": lambda frame, folder: polars(frame).lazy(),
    "pyarrow Table": lambda frame, folder: pa.Table.from_pandas(frame),
    "pyarrow RecordBatch": lambda frame, folder: pa.RecordBatch.from_pandas(frame),
    "pyarrow reader": lambda frame, folder: pa.Table.from_pandas(frame).to_reader(3),
    "pyarrow dataset": lambda frame, folder: pyarrow.dataset.dataset(pa.Table.from_pandas(frame)),
    "Parquet by pyarrow": lambda frame, folder: parquet(frame, folder / "a.parquet"),
    "Parquet by pandas, with an index": lambda frame, folder: _indexed_parquet(frame, folder / "b.parquet"),
    "Parquet by polars": lambda frame, folder: _polars_file(frame, folder / "c.parquet"),
    "Excel": lambda frame, folder: excel(frame, folder / "a.xlsx"),
}
"""Sources that know the types of their columns."""

TEXTS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "CSV by pandas": lambda frame, folder: csv(frame, folder / "a.csv"),
    "CSV by polars": lambda frame, folder: _polars_file(frame, folder / "b.csv"),
    "tabs": lambda frame, folder: csv(frame, folder / "a.tsv", sep="\t"),
    "semicolons": lambda frame, folder: csv(frame, folder / "c.csv", sep=";"),
    "UTF-16": lambda frame, folder: csv(frame, folder / "d.csv", encoding="utf-16"),
    "byte order mark": lambda frame, folder: csv(frame, folder / "e.csv", encoding="utf-8-sig"),
    **{
        f"CSV in {kind}": lambda frame, folder, kind=kind: packed(frame, folder / f"p.csv.{kind}")
        for kind in ("gz", "bz2", "xz", "zst", "zip")
    },
    "gz without the ending": lambda frame, folder: packed(frame, folder / "q.gz").rename(folder / "q.csv"),
}
"""Sources in which everything is text."""


def _indexed_parquet(frame: pd.DataFrame, path: Path) -> Path:
    frame.set_index(["item_id", "timestamp"]).to_parquet(path)
    return path


def _polars_file(frame: pd.DataFrame, path: Path) -> Path:
    table = polars(frame)
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)
    return path
