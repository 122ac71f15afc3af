"""``flowrank forecast`` on many short series: series a second, the share of reading, and peak memory.

python benchmarks/throughput.py flow-bolt [MODEL …] [--series 20000 200000] [--values 36] [--horizon 12]
    [--engines exact onnxruntime] [--format parquet] [--batch-size 256] [--threads 2] [--output throughput.json]

Monthly series with a date column, one row a value, in a file that this script writes once. Each command runs in a
process of its own; its seconds are those from its start to its end, start-up with them. Reading is timed apart, in
another process: the series that the command reads, and nothing done with them. Peak memory is the resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

READ = """
import sys, time
import flowrank
from flowrank.series import read_series
start = time.perf_counter()
count = sum(1 for _ in read_series(sys.argv[1]))
print(time.perf_counter() - start, count)
"""


def written(folder: Path, count: int, values: int, form: str) -> Path:
    """A file of monthly series, ``item_id,timestamp,target``."""
    path = folder / f"{count}.{form}"
    rng = np.random.default_rng(0)
    season = 1 + 0.3 * np.sin(np.arange(values) * 2 * np.pi / 12)
    made = rng.lognormal(3, 1, (count, 1)) * season * rng.lognormal(0, 0.2, (count, values))
    dates = pd.date_range("2020-01-01", periods=values, freq="MS")
    names = [f"series_{number:06}" for number in range(count)]
    frame = pd.DataFrame(
        {
            "item_id": pd.Categorical.from_codes(np.repeat(np.arange(count), values), categories=names).astype(str),
            "timestamp": np.tile(dates.to_numpy(), count),
            "target": made.round(2).ravel(),
        }
    )
    frame.to_parquet(path, index=False) if form == "parquet" else frame.to_csv(path, index=False)
    return path


def run(command: list[str], threads: int) -> tuple[float, float, str]:
    """Seconds, peak resident MiB and output of a command."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--series", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--values", type=int, default=36)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--engines", nargs="+", default=["exact", "onnxruntime"])
    parser.add_argument("--format", default="parquet", choices=["parquet", "csv"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in arguments.series:
            # in a process of its own: what this one holds would count as the peak of those that it starts
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
                path = apart.submit(written, folder, count, arguments.values, arguments.format).result()
            reading = float(run([sys.executable, "-c", READ, str(path)], arguments.threads)[2].split()[0])
            for model in arguments.models:
                for engine in arguments.engines:
                    output = folder / "forecasts.parquet"
                    command = [sys.executable, "-m", "flowrank.cli", "forecast", model, str(path)]
                    command += ["--horizon", str(arguments.horizon), "--output", str(output), "--overwrite", "--quiet"]
                    command += ["--engine", engine, "--threads", str(arguments.threads)]
                    command += ["--batch-size", str(arguments.batch_size)]
                    seconds, peak, _ = run(command, arguments.threads)
                    assert pq.read_metadata(output).num_rows == count * arguments.horizon
                    row = {"model": Path(model).name, "engine": engine, "series": count, "seconds": seconds}
                    row |= {"a second": count / seconds, "reading": reading / seconds, "peak MiB": peak}
                    rows.append(row)
                    shown = (
                        f"{k} {v:.3g}" if isinstance(v, float) and v < 1000 else f"{k} {v}" for k, v in row.items()
                    )
                    print("  ".join(shown), flush=True)
    if arguments.output:
        what = {key: getattr(arguments, key) for key in ("values", "horizon", "format", "batch_size", "threads")}
        arguments.output.write_text(json.dumps({"what": what, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
