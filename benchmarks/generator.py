"""Speed of the generators of synthetic series: series a second of processor time, of 1024 points by default.

OMP_NUM_THREADS=1 python benchmarks/generator.py [--series 2000] [--length 1024] [--repeats 5]
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from statistics import median

import numpy as np

from flowrank.synthetic import Mixture, synthetic_series
from flowrank.synthetic.kernels import kernel_synth
from flowrank.synthetic.mixup import tsmixup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    count, length = arguments.series, arguments.length
    source = list(synthetic_series(count, length=length))
    generators = {
        "mixture": lambda seed: Mixture().series(count, length=length, seed=seed),
        "synthetic_series": lambda seed: synthetic_series(count, length=length, seed=seed),
        "kernel_synth": lambda seed: kernel_synth(np.random.default_rng(seed), count, length),
        "tsmixup": lambda seed: tsmixup(source, count, length=length, seed=seed),
    }
    print(f"{count} series of {length} points, series a second of one core\n")
    print(f"{'generator':<18}{'min':>9}{'median':>9}{'max':>9}")
    for name, generate in generators.items():
        rates = []
        for repeat in range(arguments.repeats + 1):
            start = time.process_time()
            deque(generate(repeat), maxlen=0)
            rates.append(count / (time.process_time() - start))
        rates = rates[1:]  # the first fills caches
        print(f"{name:<18}{min(rates):>9,.0f}{median(rates):>9,.0f}{max(rates):>9,.0f}", flush=True)


if __name__ == "__main__":
    main()
