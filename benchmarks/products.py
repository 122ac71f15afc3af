"""Rows by a weight: oneDNN (`flowrank.engine.products`) over MKL (`torch.nn.functional.linear`), in turns.

python benchmarks/products.py [--rows 1 33 129] [--repeats 40]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch.nn.functional import linear

from flowrank.engine import products
from flowrank.engine.products import product

SHAPES = ((512, 512), (2048, 512), (512, 2048), (3072, 768), (768, 3072))
WEIGHTS = 24  # more than a cache holds, as in a model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 33, 129])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    products.mkl_is_best = lambda: False  # on Intel's processors, too
    with torch.inference_mode():
        for rows in arguments.rows:
            for shape in SHAPES:
                weights = [torch.randn(shape) for _ in range(WEIGHTS)]
                x = torch.randn(rows, shape[1])
                seconds: dict[str, list[float]] = {"oneDNN": [], "MKL": []}
                for _ in range(arguments.repeats + 1):
                    for name, multiply in (("oneDNN", product), ("MKL", linear)):
                        start = time.perf_counter()
                        for weight in weights:
                            multiply(x, weight)
                        seconds[name].append((time.perf_counter() - start) / WEIGHTS)
                ratios = sorted(a / b for a, b in zip(seconds["oneDNN"][1:], seconds["MKL"][1:], strict=True))
                rate = 2 * rows * shape[0] * shape[1] / median(seconds["oneDNN"][1:]) / 1e9
                spread = f"{median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
                print(f"{rows:5} rows by {shape}: {spread} of MKL's time, {rate:.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
