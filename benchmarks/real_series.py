"""Windows of real series in one shuffled file, on which other benchmarks calibrate, heal and compare.

python benchmarks/real_series.py FOLDER OUT.parquet [--window 1024] [--most 20] [--seed 0]

FOLDER holds Parquet files with the columns item_id, freq and target. A series of more than one window gives its last
ones, whole, at most so many.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file
from flowrank.series.frequency import normalize_frequency


def windows(folder: Path, window: int, most: int) -> Iterator[dict[str, Any]]:
    """Every window of every file, in order."""
    for path in sorted(folder.glob("*.parquet")):
        for row in pd.read_parquet(path).itertuples():
            values = np.asarray(row.target, dtype=np.float32)
            for back in range(max(1, min(most, len(values) // window))):
                end = len(values) - back * window
                part = values[max(0, end - window) : end]
                yield {"item_id": f"{path.stem}/{row.item_id}/{back}", "freq": known(row.freq), "target": part}


def known(freq: str) -> str | None:
    """A frequency; None where it is none (some files name a negative step)."""
    try:
        return normalize_frequency(freq)
    except FlowrankError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--most", type=int, default=20, help="windows a series")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    arguments = parser.parse_args()
    if min(arguments.window, arguments.most) < 1:
        parser.error("--window and --most: expected at least 1")
    found = pd.DataFrame(windows(arguments.folder, arguments.window, arguments.most))
    if found.empty:
        parser.error(f"no series in {arguments.folder}")
    found = found.sample(frac=1.0, random_state=arguments.seed)
    with atomic_file(arguments.output) as temporary:
        found.to_parquet(temporary, index=False)
    print(f"{len(found)} windows")


if __name__ == "__main__":
    main()
