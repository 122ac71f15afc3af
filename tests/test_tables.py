"""Tables of the documentation that name a file are those of the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("**/*.md")) if "<!-- table: " in p.read_text()]


def tables(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_tables_in_pages_are_those_of_their_files():
    assert PAGES
    assert tables(*PAGES, "--check").returncode == 0


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("method,ratio,WQL\nA,0.5,1.0\nA,0.15,2.51\nB,0.5,0.9965\nB,0.15,1234.5\n")
    return path


def test_pivot(scores):
    expected = "| method | 0.5 | 0.15 |\n| --- | --- | --- |\n| A | 1.000 | 2.510 |\n| B | 0.997 | 1234.500 |\n"
    assert tables(scores, "--pivot", "method", "ratio", "WQL", "--decimals", 3).stdout == expected


def test_group(scores):
    printed = tables(scores, "--group", "method", "--columns", "WQL").stdout
    assert "| A | 1.75 (1.00 … 2.51) |\n" in printed
    assert "| B | 618 (0.997 … 1230) |\n" in printed


def test_a_column_that_is_not_there(scores):
    assert "no column MASE: there are method, ratio, WQL" in tables(scores, "--columns", "MASE").stderr


def test_a_page_that_is_not_its_file(tmp_path, scores):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: scores.csv --group method --columns WQL -->\nold\n<!-- end of table -->\n")
    assert "page.md: a table is not that of its file" in tables(page, "--check").stderr
    assert tables(page).returncode == 0
    assert "old" not in page.read_text()
    assert tables(page, "--check").returncode == 0
