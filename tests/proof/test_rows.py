"""Series out of tables with one row a series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowrank import FlowrankError
from flowrank.evaluation import season_length
from flowrank.proof.rows import Rows
from tests.proof.stand_in import HORIZONS, TABLES


@pytest.mark.parametrize("name", TABLES)
def test_every_list_of_numbers_is_a_series(flat, name):
    rows = TABLES[name].to_pylist()
    columns = [key for key in rows[0] if key not in ("id", "timestamp", "category")]
    expected = [(row["id"], column, row[column]) for row in rows for column in columns]
    found = list(Rows(name, (flat / f"{name}.parquet",)))
    assert len(found) == len(expected)
    for one, (item, column, values) in zip(found, expected, strict=True):
        assert one.item_id == (item if len(columns) == 1 else f"{item}_{column}")
        np.testing.assert_array_equal(one.target, np.array(values, dtype=np.float64))
        assert season_length(one.freq) == HORIZONS[name][1]


def test_files_follow_one_another(flat, tmp_path):
    pq.write_table(TABLES["ercot"].slice(0, 1), tmp_path / "a.parquet")
    pq.write_table(TABLES["ercot"].slice(1), tmp_path / "b.parquet")
    parts = list(Rows("ercot", (tmp_path / "a.parquet", tmp_path / "b.parquet")))
    whole = list(Rows("ercot", (flat / "ercot.parquet",)))
    assert [one.item_id for one in parts] == [one.item_id for one in whole]


def test_frequencies_may_be_named(tmp_path):
    frame = pd.DataFrame({"item_id": ["a", "b"], "freq": ["M", "h"], "target": [[1.0, 2.0], [3.0, None]]})
    frame.to_parquet(tmp_path / "a.parquet")
    one, two = Rows("toy", (tmp_path / "a.parquet",))
    assert (one.freq, two.freq, one.item_id) == ("ME", "h", "a")
    np.testing.assert_array_equal(two.target, [3.0, np.nan])


DAYS = list(pd.date_range("2020-01-01", periods=3).to_pydatetime())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"id": ["a"], "target": [1.0]},
            "expected a column with a list of numbers in each row, found columns: id,",
        ),
        ({"id": ["a"], "target": [[1.0, 2.0]]}, "expected a column 'freq', or 'timestamp' with lists of times"),
        (
            {"timestamp": [DAYS[:2]], "target": [[1.0, 2.0]]},
            "regular frequency in the first row, found 2 times",
        ),
        ({"timestamp": [[DAYS[0], DAYS[1], DAYS[1]]], "target": [[1.0] * 3]}, "regular frequency"),
    ],
)
def test_tables_of_another_form(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "toy.parquet")
    with pytest.raises(FlowrankError, match=f"data set 'toy': .*{message}"):
        list(Rows("toy", (tmp_path / "toy.parquet",)))


def test_files_of_another_form(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "b.txt").write_text("id,target\n")
    for name, message in (("a.parquet", "a whole Parquet file"), ("b.txt", "a Parquet file, found a text file")):
        with pytest.raises(FlowrankError, match=message):
            list(Rows("toy", (tmp_path / name,)))
