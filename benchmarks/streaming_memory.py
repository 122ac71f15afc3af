"""Peak memory of streaming second moments over few and over many series, each in a process of its own.

python benchmarks/streaming_memory.py [--model flow-bolt-mini] [--series 100 10000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time


def measure(model: str, count: int) -> None:
    import torch

    import flowrank
    from flowrank.family import family_of
    from flowrank.measure import head_moments, input_moments
    from flowrank.synthetic import synthetic_series

    family = family_of(flowrank.load(model))

    def contexts():
        for series in synthetic_series(count, length=512):
            yield torch.as_tensor(series.target, dtype=torch.float32)

    start = time.perf_counter()
    head_moments(family, contexts())
    input_moments(family, contexts())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{count} {peak:.1f} {time.perf_counter() - start:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flow-bolt-mini")
    parser.add_argument("--series", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.model, arguments.measure)
        return
    peaks = []
    for count in arguments.series:
        command = [sys.executable, __file__, "--model", arguments.model, "--measure", str(count)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        _, peak, seconds = run.stdout.split()
        peaks.append(float(peak))
        print(f"{count:>8} series: peak resident {float(peak):8.1f} MiB, {float(seconds):6.1f} s", flush=True)
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
