"""Cost of a compressed Chronos-T5 shape against the dense one, both under chronos-forecasting's own code path.

python benchmarks/t5_shape.py [--shape base] [--ratio 0.237] [--batch 4] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json

from flowrank import Budget, JointHeads, benchmark, compress
from shapes import t5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="base")
    parser.add_argument("--ratio", type=float, default=0.237)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--series", type=int, default=8, help="calibration series")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    parent = t5(arguments.shape)
    method = JointHeads(Budget(arguments.ratio))
    child = compress(parent, method, calibration_series=arguments.series)
    child.name = f"{method}"
    result = benchmark(
        child,
        parent,
        batch_size=arguments.batch,
        context_length=512,
        horizon=64,
        num_samples=20,
        repeats=arguments.repeats,
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
