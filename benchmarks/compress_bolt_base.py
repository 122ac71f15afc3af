"""Wall time and peak memory of compressing a Bolt-base shape with JointHeads(Budget) on 256 calibration series.

python benchmarks/compress_bolt_base.py [--series 256] [--ratio 0.25]
"""

from __future__ import annotations

import argparse
import resource
import time

from flowrank import Budget, JointHeads, compress
from memory import PeakMemory
from shapes import bolt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.25)
    arguments = parser.parse_args()
    parent = bolt("base")
    size = sum(p.numel() * p.element_size() for p in parent.inner_model.parameters())
    with PeakMemory() as memory:
        start = time.perf_counter()
        child = compress(parent, JointHeads(Budget(arguments.ratio)), calibration_series=arguments.series)
        seconds = time.perf_counter() - start
    counts = (child.recipe or {})["parameters"]
    print(f"wall time               {seconds:8.1f} s for {arguments.series} series")
    print(f"model                   {size / 2**20:8.0f} MiB")
    print(f"peak above the model    {memory.above / 2**20:8.0f} MiB = {memory.above / size:.2f} × the model")
    print(f"attention kept          {counts['attention_child'] / counts['attention_parent']:8.3f}")
    print(f"highest resident, whole {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:8.0f} MiB")


if __name__ == "__main__":
    main()
