"""What reading costs: milliseconds a series, and the memory of a large table.

python benchmarks/reading.py speed [--series 3000] [--points 36]
python benchmarks/reading.py memory FOLDER [--rows 2000000]

`speed` reads a long data frame for each calendar, with and without its frequency told, five times: median (min … max).
`memory` writes a CSV file twice, sorted by series and by time, and reads each in a process of its own: how far its
resident memory rises above that before (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from flowrank.series import read_series

CALENDARS = ("h", "D", "W-SUN", "MS", "ME", "QE")
EACH = 200  # values a series of the large table


def speed(series: int, points: int) -> dict[str, str]:
    found = {}
    for freq in CALENDARS:
        times = np.tile(pd.date_range("2020-01-31", periods=points, freq=freq).to_numpy(), series)
        ids = np.repeat(np.arange(series), points).astype(str)
        frame = pd.DataFrame({"item_id": ids, "timestamp": times, "target": np.arange(float(len(ids)))})
        for told in (None, freq):
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                assert sum(1 for _ in read_series(frame, freq=told)) == series
                seconds.append(1e3 * (time.perf_counter() - began) / series)
            name = f"{freq}, freq {'told' if told else 'found'}"
            found[name] = f"{statistics.median(seconds):.3f} ({min(seconds):.3f} … {max(seconds):.3f}) ms"
    return found


def memory(folder: Path, rows: int) -> dict[str, float]:
    series = rows // EACH
    times = pd.date_range("2024-01-01", periods=EACH, freq="h")
    by_series = pd.DataFrame(
        {
            "item_id": np.repeat([f"shop-{i:06}" for i in range(series)], EACH),
            "timestamp": np.tile(times, series),
            "target": np.random.default_rng(0).integers(0, 1000, series * EACH),
        }
    )
    tables = {"by series": by_series, "by time": by_series.sort_values("timestamp", kind="stable")}
    found = {}
    for name, table in tables.items():
        path = folder / f"{name.replace(' ', '-')}.csv"
        table.to_csv(path, index=False)
        found[f"{name}: file, MB"] = round(path.stat().st_size / 1e6, 1)
        command = [sys.executable, __file__, "count", str(path)]
        found[f"{name}: above the start, MB"] = float(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
    return found


def count(path: Path) -> float:
    """MB that reading a file takes above what the process had before."""
    small = pd.DataFrame({"item_id": ["A"] * 3, "timestamp": pd.date_range("2024-01-01", periods=3), "target": 1.0})
    small.to_csv(path.with_suffix(".small.csv"), index=False)
    list(read_series(path.with_suffix(".small.csv")))  # what is imported on the way
    before = _peak()
    assert sum(1 for _ in read_series(path)) > 0
    return round(_peak() - before, 1)


def _peak() -> float:
    """The largest resident memory of this process so far, MB; ru_maxrss would begin with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1.024e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "count"))
    parser.add_argument("path", type=Path, nargs="?", default=Path("."))
    parser.add_argument("--series", type=int, default=3000)
    parser.add_argument("--points", type=int, default=36)
    parser.add_argument("--rows", type=int, default=2_000_000)
    settings = parser.parse_args()
    if settings.what == "count":
        print(count(settings.path))
        return
    what = speed(settings.series, settings.points) if settings.what == "speed" else memory(settings.path, settings.rows)
    print(json.dumps(what, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
