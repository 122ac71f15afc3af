"""Where histories are cut, and the data sets that are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flowrank.errors import FlowrankError, check_count

_SUFFIXES = (".csv", ".parquet", ".pq", ".xlsx", ".tsv", ".gz", ".zst", ".bz2", ".zip")
_BACKTEST_COLUMNS = ["dataset", "offset", "prediction_length", "num_rolls"]


@dataclass(frozen=True)
class Backtest:
    """Where the histories of a data set are cut, and what is forecast from there.

    Roll ``r`` cuts each series ``-offset - r · prediction_length`` values before its end (for a negative
    offset; a positive one counts from the beginning) and scores the next ``prediction_length`` values.

    Parameters
    ----------
    dataset
        Name of the data set.
    offset
        Place of the first cut, not 0.
    prediction_length
        Steps to forecast in each roll, and between the rolls.
    num_rolls
        Number of rolls.
    suite
        Name of the benchmark that this belongs to.

    Raises
    ------
    FlowrankError
        If the rolls do not fit behind the offset.

    Examples
    --------
    >>> Backtest("ETTm", offset=-96, prediction_length=24, num_rolls=1).cuts(1000)
    [904]
    """

    dataset: str
    offset: int
    prediction_length: int
    num_rolls: int = 1
    suite: str = ""

    def __post_init__(self) -> None:
        check_count(self.prediction_length, "prediction_length")
        check_count(self.num_rolls, "num_rolls")
        needed = self.prediction_length * self.num_rolls
        if isinstance(self.offset, bool) or self.offset == 0 or -needed < self.offset < 0:
            raise FlowrankError(
                "offset",
                expected=f"at most {-needed} (prediction_length × num_rolls), or a positive number",
                found=f"{self.offset} for data set {self.dataset!r}",
            )

    def cuts(self, length: int) -> list[int]:
        """Return the length of the history in each roll, for a series of ``length`` values."""
        first = self.offset if self.offset > 0 else length + self.offset
        return [first + roll * self.prediction_length for roll in range(self.num_rolls)]


def read_backtests(path: str | Path) -> list[Backtest]:
    r"""Read backtests from a CSV file.

    Its columns are ``dataset``, ``offset``, ``prediction_length``, ``num_rolls`` and, if there is one,
    ``suite``.

    Raises
    ------
    FlowrankError
        If the file is not there, is no CSV file, lacks a column, names a data set twice, or has a
        value that is not a whole number.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "backtests.csv"
    >>> _ = path.write_text("dataset,offset,prediction_length,num_rolls\nm5,-28,28,1\n")
    >>> read_backtests(path)
    [Backtest(dataset='m5', offset=-28, prediction_length=28, num_rolls=1, suite='')]
    """
    expected = f"a CSV file with columns {', '.join(_BACKTEST_COLUMNS)}"
    if not Path(path).is_file():
        raise FlowrankError("backtests", expected=expected, found=f"no file {str(path)!r}", todo="check the path")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise FlowrankError("backtests", expected=expected, found=f"{str(path)!r} ({error})") from error
    missing = [name for name in _BACKTEST_COLUMNS if name not in table.columns]
    if missing or len(table) == 0:
        found = f"columns: {', '.join(map(str, table.columns))}; {len(table)} rows"
        raise FlowrankError("backtests", expected=expected + " and rows", found=found)
    repeated = table["dataset"].duplicated()
    if repeated.any():
        name = table["dataset"][repeated].iloc[0]
        raise FlowrankError("backtests", expected="each data set once", found=f"{name!r} again in {str(path)!r}")
    backtests = []
    for row in table.to_dict("records"):
        try:
            offset, prediction_length, num_rolls = (int(row[name]) for name in _BACKTEST_COLUMNS[1:])
        except ValueError as error:
            raise FlowrankError(
                "backtests",
                expected="whole numbers",
                found=f"{error} for data set {row['dataset']!r} in {str(path)!r}",
            ) from None
        backtests.append(Backtest(row["dataset"], offset, prediction_length, num_rolls, row.get("suite", "")))
    return backtests


def datasets_in(paths: str | Path | Iterable[str | Path]) -> dict[str, Path]:
    """Return the CSV, Parquet and Excel files of folders, and files themselves, by their names without the ending.

    Raises
    ------
    FlowrankError
        If a path is not there, a folder holds no such file, or two files share a name.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "m5.csv").write_text("")
    >>> list(datasets_in(folder))
    ['m5']
    """
    found: dict[str, Path] = {}
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files or not path.exists():
            raise FlowrankError(
                "data",
                expected="folders with CSV or Parquet files, or such files",
                found=f"{str(path)!r}, " + ("which has none" if path.exists() else "which is not there"),
                todo="check the path",
            )
        for file in files:
            name = _name(file)
            if name in found and found[name] != file:
                raise FlowrankError(
                    "data",
                    expected="files with names of their own",
                    found=f"{str(found[name])!r} and {str(file)!r}",
                    todo="rename one",
                )
            found[name] = file
    return found


def _name(file: Path) -> str:
    """Return the name without its ending; without both, if it ends as in .csv.gz."""
    return Path(file.stem).stem if file.suffix.lower() in _SUFFIXES[5:] and "." in file.stem else file.stem
