"""Rows by a weight: MKL, oneDNN, and oneDNN from a packed copy of the weight, in turns; and which flowrank takes.

python benchmarks/products.py [--rows 1 33 129] [--repeats 40] [--threads 2]

Weights of 16 MB are gone through, as in a model: of one that lies in a core's own cache the times are other ones.
"""

from __future__ import annotations

import argparse
import time

import torch

from flowrank.engine.products import Weight, by_mkl, by_onednn, by_packed, way

SHAPES = ((256, 256), (512, 256), (512, 512), (2048, 512), (512, 2048), (3072, 768), (768, 3072))
BYTES = 1 << 24
WAYS = {"MKL": by_mkl, "oneDNN": by_onednn, "packed": by_packed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 33, 129])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = {by: name for name, by in WAYS.items()}
    with torch.inference_mode():
        for rows in arguments.rows:
            for shape in SHAPES:
                weights = [Weight(torch.randn(shape)) for _ in range(max(2, BYTES // (4 * shape[0] * shape[1])))]
                x = torch.randn(rows, shape[1])
                least = dict.fromkeys(WAYS, float("inf"))
                for turn in range(arguments.repeats + 1):
                    for name, multiply in WAYS.items():
                        start = time.perf_counter()
                        for weight in weights:
                            multiply(x, weight, None, False)
                        if turn:  # the first packs
                            least[name] = min(least[name], (time.perf_counter() - start) / len(weights))
                times = "  ".join(f"{name} {seconds * 1e6:.0f} μs" for name, seconds in least.items())
                rate = 2 * rows * shape[0] * shape[1] / min(least.values()) / 1e9
                taken = names[way(x, weights[0])]
                print(f"{rows:5} rows by {shape}: {times}; taken: {taken}; {rate:.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
