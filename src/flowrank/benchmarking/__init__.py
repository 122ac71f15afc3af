"""What a model costs, compared with its parent: latency, parameters, weights, key/value cache, peak memory.

Parent and child run in one process, in turns (parent, child, parent, child …), so that a busy machine hits
both alike; a ratio is taken within each such pair, then summarised. Weights, cache and peak memory are three
separate numbers, because a smaller attention shrinks each of them by a different factor. Engines are compared apart
from that, each in a process of its own.
"""

from __future__ import annotations

from flowrank.benchmarking.comparison import benchmark
from flowrank.benchmarking.engines import compare_engines
from flowrank.benchmarking.memory import peak_memory

__all__ = ["benchmark", "compare_engines", "peak_memory"]
