"""Series that the command line leaves out, and the files that its options are for."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.calls import run


def long(count: int, faulty: int) -> pd.DataFrame:
    """Series of six days, the first ``faulty`` of them with a word among their values."""
    parts = [
        pd.DataFrame(
            {
                "item_id": f"s{number:02}",
                "timestamp": pd.date_range("2024-01-01", periods=6),
                "target": ["1", "2", "x" if number < faulty else "3", "2", "1", "2"],
            }
        )
        for number in range(count)
    ]
    return pd.concat(parts, ignore_index=True)


def forecast(model, source, *options) -> int:
    return run("forecast", model, source, "--horizon", "1", "--output", "out.csv", "--overwrite", "--quiet", *options)


@pytest.mark.parametrize("faulty", [0, 1, 20, 25])
def test_series_left_out_are_listed(bolt_folder, here, capsys, faulty):
    long(30, faulty).to_csv("in.csv", index=False)
    (here / "out.skipped.csv").write_text("of an earlier run")
    assert forecast(bolt_folder, "in.csv", "--skip-bad") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert sum("'x' at row" in line for line in lines) == min(faulty, 20)
    assert len(pd.read_csv("out.csv")) == 30 - faulty
    if faulty == 0:
        assert not lines
        assert not (here / "out.skipped.csv").exists()
        return
    assert lines[-1] == f"{faulty} series left out" + (", 5 of them not shown" if faulty == 25 else "")
    listed = pd.read_csv("out.skipped.csv")
    assert list(listed["item_id"]) == [f"s{number:02}" for number in range(faulty)]


def test_all_of_them_are_an_error(bolt_folder, here, capsys):
    long(3, 3).to_csv("in.csv", index=False)
    assert forecast(bolt_folder, "in.csv", "--skip-bad") == 2
    assert "none of 3" in capsys.readouterr().err
    assert forecast(bolt_folder, "in.csv") == 2  # without the option, the first is
    assert [path.name for path in here.iterdir()] == ["in.csv"]


def test_evaluation(bolt_folder, here, capsys):
    long(5, 2).to_csv("in.csv", index=False)
    command = ("evaluate", bolt_folder, "seasonal-naive", "--data", "in.csv", "--prediction-length", "2", "--quiet")
    assert run(*command, "--output", "out.csv") == 2
    assert run(*command, "--output", "out.csv", "--skip-bad") == 0
    assert "2 series left out" in capsys.readouterr().err
    assert list(pd.read_csv("out.csv")["series"]) == [3, 3]
    assert pd.read_csv("out.skipped.csv")[["dataset", "item_id"]].to_numpy().tolist() == [["in", "s00"], ["in", "s01"]]
    assert run(*command, "--output", "out.csv", "--skip-bad") == 2  # the files are there


def test_wide_files_other_encodings_and_sheets(bolt_folder, here):
    wide = long(2, 0).pivot(index="timestamp", columns="item_id", values="target").astype(float)
    wide.columns = ["Malmö", "Växjö"]
    wide.to_csv("wide.csv", encoding="latin-1")
    assert forecast(bolt_folder, "wide.csv", "--wide", "--encoding", "latin-1") == 0
    expected = pd.read_csv("out.csv")
    assert list(expected["item_id"]) == ["Malmö", "Växjö"]
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter("book.xlsx") as book:
        pd.DataFrame({"notes": ["by hand"]}).to_excel(book, sheet_name="Notes", index=False)
        wide.to_excel(book, sheet_name="Sales")
    assert forecast(bolt_folder, "book.xlsx", "--wide") == 2
    assert forecast(bolt_folder, "book.xlsx", "--wide", "--sheet", "Sales") == 0
    pd.testing.assert_frame_equal(pd.read_csv("out.csv"), expected)


def test_ids_keep_their_type_from_file_to_file(bolt_folder, here):
    table = pa.table({"item_id": pa.array([7] * 4 + [8] * 4, pa.int16()), "target": [1.0, 2.0, 3.0, 2.0] * 2})
    pq.write_table(table, "in.parquet")
    options = ("--horizon", "1", "--output", "out.parquet", "--timestamp-column", "", "--quiet")
    assert run("forecast", bolt_folder, "in.parquet", *options) == 0
    assert pq.read_table("out.parquet")["item_id"] == pa.chunked_array([pa.array([7, 8], pa.int16())])
