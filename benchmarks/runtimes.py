"""Engines side by side: stock code, the exact engine, ONNX Runtime, OpenVINO; each in a process of its own, in turns.

python benchmarks/runtimes.py flow-bolt [CHILD …] [--batches 1 8 32] [--context 512] [--horizon 64] [--threads 2]
    [--engines stock compiled exact onnxruntime openvino] [--repeats 31] [--busy] [--output runtimes.json]
python benchmarks/runtimes.py --memory EXPORT     start-up and memory of a process that serves an exported folder

Seconds of a forecast, least and median, and both over the stock code's of the first model. Forecasts go through
``predict``, as users call it. `compiled` is the stock code under torch.compile. Between two engines there is a pause,
in which the threads of the last one go to sleep. --busy keeps one core at work all the while.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

PAUSE = 0.3  # seconds; OpenMP's threads spin for a while after their last work
ROUNDS = 4
ENGINES = ("stock", "exact", "onnxruntime", "openvino")
STARTED = """
import time
start = time.perf_counter()
import sys
import numpy
import flowrank
model = flowrank.load(sys.argv[1], threads=1)
model.predict([numpy.arange(512.0)])
seconds = time.perf_counter() - start
resident = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
told = f"{seconds:.2f} s from the first import to the first forecast, {int(resident.split()[1]) // 1024} MiB resident,"
print(told, "with torch" if "torch" in sys.modules else "without torch")
"""


def worker(pipe: Connection, model: str, engine: str, options: dict[str, Any]) -> None:
    """Forecast on demand: batch sizes in, seconds of some forecasts out."""
    import torch

    import flowrank
    from flowrank.benchmarking.workload import series_of

    torch.set_num_threads(options["threads"])
    pipeline = flowrank.load(model, dtype="float32", engine="stock" if engine == "compiled" else engine)
    if engine == "compiled":
        pipeline.inner_model.forward = torch.compile(pipeline.inner_model.forward)
    while (asked := pipe.recv()) is not None:
        batch, repeats = asked
        series = list(series_of(batch, options["context"], 0))
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            pipeline.predict(series, prediction_length=options["horizon"])
            taken.append(time.perf_counter() - start)
        pipe.send(taken)


def burn() -> None:
    while True:
        pass


def timed(models: list[str], options: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each model, engine and batch size."""
    context = get_context("spawn")
    sides: dict[tuple[str, str], Connection] = {}
    for model in models:
        for engine in options["engines"]:
            here, there = context.Pipe()
            context.Process(target=worker, args=(there, model, engine, options), daemon=True).start()
            sides[model, engine] = here
    rows = []
    each = -(-options["repeats"] // ROUNDS)
    for batch in options["batches"]:
        seconds: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
        for round_ in range(ROUNDS + 1):  # the first one warms up
            for side, pipe in sides.items():
                pipe.send((batch, each if round_ else 3))
                taken = pipe.recv()
                seconds[side] += taken if round_ else []
                time.sleep(PAUSE)
        base = seconds.get((models[0], "stock"))
        for (model, engine), taken in seconds.items():
            row = {"model": model, "engine": engine, "batch": batch, "busy": options["busy"]}
            row |= {"threads": options["threads"], "least": min(taken), "median": statistics.median(taken)}
            if base is not None:
                row["least over stock"] = min(taken) / min(base)
                row["median over stock"] = statistics.median(taken) / statistics.median(base)
            rows.append(row)
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
    for pipe in sides.values():
        pipe.send(None)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=[*ENGINES, "compiled"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--memory")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    if arguments.memory:
        subprocess.run([sys.executable, "-c", STARTED, arguments.memory], check=True)
        return
    if arguments.busy:
        get_context("spawn").Process(target=burn, daemon=True).start()
    rows = timed(arguments.models, vars(arguments))
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump({"machine": platform.processor() or platform.machine(), "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
