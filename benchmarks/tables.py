"""A Markdown table of what a benchmark wrote, printed or put into a page of the documentation.

python benchmarks/tables.py theory.json
python benchmarks/tables.py table.json --pivot method ratio WQL --decimals 3  compression_table.py --output
python benchmarks/tables.py bolt.csv --group ratio model --columns probe time  pretraining_ablation.py: mean (min … max)
python benchmarks/tables.py flow-bolt-tolerance.jsonl --columns key kept WQL  whole_model.py
python benchmarks/tables.py docs/results/theorems.md [--check]

FILE is CSV, JSON lines, or JSON with its rows under "rows". In a page the table stands between two comments,
`<!-- table: FILE OPTIONS -->` and `<!-- end of table -->`, FILE relative to the page; `--check` writes nothing and
fails if a table is not that of its file. A cell of three numbers [a, b, c] reads a (b … c).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd

TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end of table -->)", flags=re.DOTALL)


def rows_of(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    if path.suffix == ".jsonl":
        return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line])
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])


def number(value: float, digits: int, decimals: int | None) -> str:
    """So many significant digits, or so many decimals; never an exponent."""
    if pd.isna(value):
        return ""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    rounded = float(f"{value:.{digits}g}")
    if rounded and (places := digits - 1 - int(f"{rounded:e}".split("e")[1])) > 0:
        return f"{rounded:.{places}f}"
    return f"{rounded:.0f}"


def cell(value: Any, *places: int | None) -> str:
    if isinstance(value, list | tuple):
        first, low, high = (number(v, *places) for v in value)
        return f"{first} ({low} … {high})"
    return number(value, *places) if isinstance(value, float) else str(value)


def markdown(frame: pd.DataFrame, *places: int | None) -> str:
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [[cell(value, *places) for value in row] for row in frame.itertuples(index=False)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def arranged(frame: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    for names in (options.pivot, options.group, options.columns):
        if missing := sorted(set(names) - set(frame.columns)):
            sys.exit(f"no column {', '.join(missing)}: there are {', '.join(frame.columns)}")
    if options.pivot:
        row, column, value = options.pivot
        return frame.pivot_table(index=row, columns=column, values=value, sort=False).reset_index()
    if options.group:
        columns = options.columns or [c for c in frame.select_dtypes("number") if c not in options.group]
        groups = frame.groupby(options.group, sort=False)[columns]
        return groups.agg(lambda values: [float(values.mean()), values.min(), values.max()]).reset_index()
    return frame[options.columns] if options.columns else frame


def parser() -> argparse.ArgumentParser:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("file", type=Path, nargs="+")
    given.add_argument("--columns", nargs="+", default=[])
    given.add_argument("--pivot", nargs=3, default=[], metavar=("ROW", "COLUMN", "VALUE"))
    given.add_argument("--group", nargs="+", default=[], help="mean (min … max) over all rows alike in these columns")
    given.add_argument("--digits", type=int, default=3, help="significant digits")
    given.add_argument("--decimals", type=int, help="so many decimals instead")
    given.add_argument("--check", action="store_true")
    return given


def table(arguments: list[str], folder: Path = Path()) -> str:
    options = parser().parse_args(arguments)
    places = options.digits, options.decimals
    return "\n".join(markdown(arranged(rows_of(folder / file), options), *places) for file in options.file)


def filled(page: str, folder: Path) -> str:
    """The page with every table that names a file made anew; files are relative to the folder."""
    return TABLE.sub(lambda m: f"{m[1]}\n{table(shlex.split(m[2]), folder)}\n{m[4]}", page)


def main() -> None:
    options = parser().parse_args()
    pages = [file for file in options.file if file.suffix == ".md"]
    if not pages:
        print(table(sys.argv[1:]), end="")
    for page in pages:
        before = page.read_text(encoding="utf-8")
        after = filled(before, page.parent)
        if options.check and after != before:
            sys.exit(f"{page}: a table is not that of its file; run this without --check")
        if not options.check:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
