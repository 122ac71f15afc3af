"""Engines side by side: stock code, the exact engine, ONNX Runtime, OpenVINO; each in a process of its own, in turns.

python benchmarks/runtimes.py flow-bolt [CHILD …] [--batches 1 8 32] [--context 512] [--horizon 64] [--threads 2]
    [--engines stock compiled exact onnxruntime openvino] [--repeats 31] [--busy] [--output runtimes.json]
python benchmarks/runtimes.py --memory EXPORT     start-up and memory of a process that serves an exported folder

`flowrank.compare_engines` measures: seconds of a forecast, least and median, and both over the stock code's of the
first model. `compiled` is the stock code under torch.compile. --busy keeps one core at work all the while. Batch sizes
that are in the output file are not measured again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

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


def burn() -> None:
    """Keep one core at work until the process that asked for it has ended."""
    parent = parent_process()
    while parent is not None and parent.is_alive():
        sum(range(1_000_000))


def measured(options: argparse.Namespace) -> None:
    """Rows of the batch sizes that are not in the output file yet."""
    import torch

    import flowrank
    from flowrank.benchmarking.comparison import device_name
    from shared import Rows, told

    asked = ("context", "horizon", "threads", "repeats", "busy", "engines")
    what: dict[str, Any] = {name: getattr(options, name) for name in asked}
    names = {model: Path(model).name for model in options.models}
    what |= {"models": list(names.values()), "machine": device_name(torch.device("cpu"))}
    rows = Rows(options.output, what)

    def keep(row: dict[str, Any]) -> None:
        row = row | {"model": names[row["model"]]}
        key = f"{row['model']} {row['engine']} {row['batch_size']}"
        rows.put(key, row)
        print(told(rows[key]), row["why"] or "", flush=True)

    done = {row["batch_size"] for row in rows}
    if left := [size for size in options.batches if size not in done]:
        flowrank.compare_engines(
            options.models,
            engines=options.engines,
            batch_sizes=left,
            context_length=options.context,
            horizon=options.horizon,
            repeats=options.repeats,
            threads=options.threads,
            dtype="float32",
            on_row=keep,
        )


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
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.memory:
        subprocess.run([sys.executable, "-c", STARTED, options.memory], check=True)
        return
    if not options.models:
        parser.error("name a model")
    if options.busy:
        get_context("spawn").Process(target=burn, daemon=True).start()
    measured(options)


if __name__ == "__main__":
    main()
