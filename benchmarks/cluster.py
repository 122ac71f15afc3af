"""Forecasts over Ray and Spark on this machine: the same bits, how fast, what a kill costs, how much memory.

python benchmarks/cluster.py speed flow-bolt [CHILD …] [--series 100000] [--engine exact] --work FOLDER
python benchmarks/cluster.py kill flow-bolt [--series 4000] [--times 10] [--what actor raylet driver] --work FOLDER
python benchmarks/cluster.py memory flow-bolt-mini [--series 10000 100000 1000000] [--ways folder ray1 …] --work FOLDER

Monthly series of 36 values, one row a series, 10 000 a file, 12 steps ahead. The Ray cluster has two nodes, with two
CPUs by name each (ray.cluster_utils); Spark is local[1] or local[2]. Every run is a command in a process of its own,
one thread a process. *whole*: series over seconds from its start to its end. *steady*: of the parts after the first of
each worker, by when they were written; of Spark, of the job that forecasts and writes, with the start of its workers.
Equal: to the last bit, what `flowrank forecast FILE --batch-invariant` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

VALUES, HORIZON, FILE, GROUP = 36, 12, 10_000, 1_000
ACTOR = "ray::_Actor"  # how processes of workers are called
FLOWRANK = [sys.executable, "-m", "flowrank.cli"]
SPARK = """
import sys, time
import flowrank.distributed
from pyspark.sql import SparkSession
master, series, model, output, horizon, engine = sys.argv[1:]
session = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
session = session.config("spark.sql.session.timeZone", "UTC").getOrCreate()
found = flowrank.distributed.spark_forecast(
    session.read.parquet(series), model, horizon=int(horizon), engine=engine, quantile_levels=[0.1, 0.5, 0.9]
)
start = time.perf_counter()
found.write.parquet(output)
print("seconds", time.perf_counter() - start)
"""


def written(folder: Path, count: int) -> Path:
    """A folder of series; what is there is not written again."""
    made = folder / f"series-{count}"
    for number in range(0, count, FILE):
        path = made / f"{number // FILE:04}.parquet"
        if path.exists():
            continue
        made.mkdir(parents=True, exist_ok=True)
        rows = min(FILE, count - number)
        rng = np.random.default_rng(number)
        season = 1 + 0.3 * np.sin(np.arange(VALUES) * 2 * np.pi / 12)
        values = (rng.lognormal(3, 1, (rows, 1)) * season * rng.lognormal(0, 0.2, (rows, VALUES))).round(2)
        table = {
            "item_id": [f"series_{i:07}" for i in range(number, number + rows)],
            "start": pa.array([pd.Timestamp("2020-01-01")] * rows, pa.timestamp("us")),
            "freq": ["MS"] * rows,
            "target": pa.FixedSizeListArray.from_arrays(values.ravel(), VALUES).cast(pa.list_(pa.float64())),
        }
        temporary = path.with_suffix(".new")
        pq.write_table(pa.table(table), temporary, row_group_size=GROUP)
        temporary.rename(path)
    return made


def cluster() -> Any:
    """Two nodes, each a raylet of its own."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    return made


class Run:
    """A command in a process of its own, the memory of which, and of its workers, is looked at."""

    def __init__(self, command: list[str], watch: bool = False) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYSPARK_PYTHON": sys.executable}
        self.started = time.time()
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.peaks: dict[str, float] = {}
        self._over = threading.Event()
        if watch:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            with suppress(psutil.Error):
                self._look("driver", psutil.Process(self.process.pid))
            for one in psutil.Process().children(recursive=True):  # of this run and of this cluster alone
                with suppress(psutil.Error, IndexError):
                    command = one.cmdline()
                    if command[0].startswith(ACTOR) or "pyspark.daemon" in command:
                        self._look("worker", one)
                    elif Path(command[0]).name == "java":
                        self._look("java", one)

    def _look(self, who: str, process: psutil.Process) -> None:
        told = process.memory_info()
        self.peaks[who] = max(self.peaks.get(who, 0.0), (told.rss - told.shared) / 2**20)

    def end(self) -> tuple[int, float]:
        """Exit status, and seconds."""
        self.said, _ = self.process.communicate()
        self._over.set()
        return self.process.returncode, time.time() - self.started


def command(model: str, series: Path, output: Path, engine: str, *more: str) -> list[str]:
    """The command of a run in parts."""
    given = {"--output": output, "--horizon": HORIZON, "--engine": engine, "--threads": 1}
    options = [str(text) for pair in given.items() for text in pair]
    levels = [text for level in ("0.1", "0.5", "0.9") for text in ("--quantile", level)]
    return [*FLOWRANK, "forecast", model, str(series), "--quiet", *options, *levels, *more]


def steady(output: Path, workers: int) -> float:
    """Series a second of the parts after the first of each worker."""
    parts = sorted(output.glob("_flowrank/part-*.json"), key=lambda one: one.stat().st_mtime)
    counts = [json.loads(one.read_text())["series"] for one in parts]
    times = [one.stat().st_mtime for one in parts]
    if len(parts) <= 2 * workers:
        return float("nan")
    return sum(counts[workers:]) / (times[-1] - times[workers - 1])


def same(output: Path, truth: pd.DataFrame) -> bool:
    """Whether a folder holds each forecast once, to the last bit."""
    files = [one for one in output.glob("*.parquet") if not one.name.startswith(".")]
    mine = pd.concat([pd.read_parquet(one) for one in files]).sort_values(["item_id", "timestamp"])
    mine["timestamp"] = mine["timestamp"].dt.tz_localize(None).astype("datetime64[us]")
    equal = [np.array_equal(mine[name].to_numpy(), truth[name].to_numpy()) for name in truth.columns]
    return list(mine.columns) == list(truth.columns) and all(equal)


def truth(work: Path, model: str, series: Path, engine: str) -> tuple[pd.DataFrame, float]:
    """What one process writes of one file, and the seconds it took."""
    file, output = work / f"{series.name}.parquet", work / f"{series.name}-{Path(model).name}-{engine}.parquet"
    seconds = float("nan")
    if not file.exists():
        with pq.ParquetWriter(file, pq.read_schema(next(series.iterdir()))) as writer:
            for one in sorted(series.iterdir()):
                writer.write_table(pq.read_table(one))
    if not output.exists():
        run = Run(command(model, file, output, engine, "--batch-invariant"))
        status, seconds = run.end()
        if status:
            raise SystemExit(run.said)
    read = pd.read_parquet(output).sort_values(["item_id", "timestamp"])
    read["timestamp"] = read["timestamp"].astype("datetime64[us]")
    return read, seconds


WAYS = ("folder", "ray1", "ray2", "spark1", "spark2")


def started(way: str, model: str, series: Path, output: Path, engine: str, address: str, watch: bool) -> Run:
    """Start a run of a way."""
    shutil.rmtree(output, ignore_errors=True)
    if way.startswith("spark"):
        model = str(Path(model).absolute()) if Path(model).exists() else model
        given = [f"local[{way[-1]}]", str(series), model, str(output), str(HORIZON), engine]
        return Run([sys.executable, "-c", SPARK, *given], watch)
    more = () if way == "folder" else ("--on", address, "--workers", way[-1])
    part = str(GROUP if way == "folder" else 2 * GROUP)
    return Run(command(model, series, output, engine, "--partition-series", part, *more), watch)


def speed(arguments: argparse.Namespace) -> None:
    """Every way once for each model: series a second, and whether the bits are those of one process."""
    nodes = cluster()
    for model in arguments.models:
        for count in arguments.series:
            series = written(arguments.work, count)
            read, seconds = truth(arguments.work, model, series, arguments.engine)
            print(f"{model} {count} file: whole {count / seconds:,.0f}/s", flush=True)
            rates: dict[str, list[float]] = {}
            for _ in range(arguments.repeats):
                for way in arguments.ways:
                    output = arguments.work / "out"
                    run = started(way, model, series, output, arguments.engine, nodes.address, False)
                    status, seconds = run.end()
                    if status:
                        raise SystemExit(run.said)
                    if way.startswith("spark"):
                        rate = count / float(run.said.split()[-1])
                    else:
                        rate = steady(output, int(way[-1]) if way[-1].isdigit() else 1)
                    rates.setdefault(way, []).append(rate)
                    told = f"whole {count / seconds:,.0f}/s steady {rate:,.0f}/s equal {same(output, read)}"
                    print(f"{model} {count} {way}: {told}", flush=True)
            for kind in ("ray", "spark"):
                if {f"{kind}1", f"{kind}2"} <= set(rates):
                    ratio = np.array(rates[f"{kind}2"]) / np.array(rates[f"{kind}1"])
                    told = ", ".join(f"{one:.2f}" for one in ratio)
                    print(f"{model} {count} {kind}, one worker to two: x {told}", flush=True)
    nodes.shutdown()


def workers_now() -> list[psutil.Process]:
    """The actors that forecast, of the clusters of this process."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, IndexError):
            if one.cmdline()[0].startswith(ACTOR):
                found.append(one)
    return found


def kill(arguments: argparse.Namespace) -> None:
    """Kill at random moments; run again where that ended the run; compare."""
    (model,), (count,) = arguments.models, arguments.series
    series = written(arguments.work, count)
    read, _ = truth(arguments.work, model, series, arguments.engine)
    nodes, chance = cluster(), random.Random(arguments.seed)
    output = arguments.work / "out"

    def run() -> Run:
        more = ("--on", nodes.address, "--workers", "2", "--partition-series", str(GROUP // 4))
        return Run(command(model, series, output, arguments.engine, *more))

    shutil.rmtree(output, ignore_errors=True)
    status, usual = run().end()
    print(f"undisturbed: {usual:.1f} s, status {status}, equal {same(output, read)}", flush=True)
    for what in arguments.what:
        for number in range(arguments.times):
            shutil.rmtree(output, ignore_errors=True)
            moment, current = chance.uniform(0, 0.8 * usual), run()  # later it may have nothing left to do
            time.sleep(moment)
            whom = ""
            if what == "driver":
                current.process.send_signal(signal.SIGKILL)
            elif what == "actor":
                while not (found := workers_now()) and current.process.poll() is None:
                    time.sleep(0.1)
                if found:
                    os.kill(chance.choice(found).pid, signal.SIGKILL)
                whom = "" if found else "none left"
            else:
                victim = chance.choice([nodes.head_node, *nodes.worker_nodes])
                whom = "of the head" if victim is nodes.head_node else "of the other node"
                os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            done = len(list(output.glob("_flowrank/part-*.json")))
            status, _ = current.end()
            again = 0
            if what == "raylet":
                with suppress(Exception):
                    nodes.shutdown()
                nodes = cluster()
            while status and again < 3:
                again += 1
                status, _ = run().end()
            manifest = json.loads((output / "_flowrank/manifest.json").read_text())
            whole = manifest["series"] == manifest["forecast"] == count and same(output, read)
            print(
                f"{what} {number}: after {moment:.1f} s {whom}, {done} parts done; started again {again} x; "
                f"{manifest['series']} series, equal {whole}",
                flush=True,
            )
    nodes.shutdown()


def memory(arguments: argparse.Namespace) -> None:
    """Peaks of private memory of the driver and of the largest worker."""
    (model,) = arguments.models
    nodes = cluster() if any(way.startswith("ray") for way in arguments.ways) else None
    for count in arguments.series:
        series = written(arguments.work, count)
        for way in arguments.ways:
            output = arguments.work / "out"
            address = nodes.address if nodes else ""
            run = started(way, model, series, output, arguments.engine, address, True)
            status, seconds = run.end()
            told = ", ".join(f"{who} {peak:,.0f} MiB" for who, peak in run.peaks.items())
            print(f"{model} {count} {way}: {told}; {count / seconds:,.0f}/s, status {status}", flush=True)
    if nodes:
        nodes.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds: dict[str, Callable[[argparse.Namespace], None]] = {"speed": speed, "kill": kill, "memory": memory}
    parser.add_argument("kind", choices=list(kinds))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--series", type=int, nargs="+")
    parser.add_argument("--engine", default="exact")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument(
        "--what", nargs="+", choices=["actor", "raylet", "driver"], default=["actor", "raylet", "driver"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    usual = {"speed": [100_000], "kill": [4_000], "memory": [10_000, 100_000, 1_000_000]}
    arguments.series = arguments.series or usual[arguments.kind]
    arguments.work.mkdir(parents=True, exist_ok=True)
    kinds[arguments.kind](arguments)


if __name__ == "__main__":
    main()
