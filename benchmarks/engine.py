"""The exact engine against chronos-forecasting's own code, on published shapes with random weights.

python benchmarks/engine.py t5 --shape base [--batch 8] [--models dense schedule] [--dtypes float32 bfloat16]
python benchmarks/engine.py bolt --shape base --batch 32 --context 2048 [--ragged]
python benchmarks/engine.py scaling --shape tiny [--memory-budget 1000000000]
python benchmarks/engine.py memory --shape base [--models dense schedule]

`t5` and `bolt` time all in one process, in turns, and print the ratios to the dense stock model, peak memory above the
loaded model, the floor of the cost model, and the share of time in matrix products (torch's profiler; the rate they
reach next to the rate of a large product). `schedule` narrows the heads to the paper's d_i = 3 (1 + i)^0.27.
`scaling` times the exact engine alone for 8, 32, 128 and 512 series. `memory` runs each Chronos-T5 model once in a
process of its own and prints how far its resident memory rises above that of the loaded model.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from flowrank.benchmarking import peak_memory
from flowrank.compression import FlowOfRanks
from flowrank.compression.children import pipeline_of
from flowrank.cost import Machine, Workload
from flowrank.family import anatomy_of, cost, family_of
from flowrank.nn.shapes import Shapes
from flowrank.pretraining.schedule import attention_shapes, layer_widths
from memory import PeakMemory
from shapes import bolt, t5

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
FUSED = ("aten::_scaled_dot_product_flash_attention_for_cpu",)


def scheduled(parent: Any) -> Any:
    """A model of the parent's shape whose heads follow the paper's schedule; random weights too."""
    config, anatomy = parent.inner_model.config, anatomy_of(parent.inner_model)
    depths = {"layers": config.num_layers, "decoder_layers": config.num_decoder_layers}
    widths = layer_widths(FlowOfRanks(d0=3, alpha=0.27), **depths, d_kv=config.d_kv)
    named = {layer.name: layer.depth for layer in anatomy.attention}
    family = family_of(parent)
    narrow = family.narrowed_config(config, Shapes(attention_shapes(widths, named, config.num_heads)))
    return pipeline_of(family.model_class(narrow)(narrow).eval())


def series_of(batch: int, context: int, ragged: bool) -> torch.Tensor | list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(batch, context, generator=generator).cumsum(1)
    if not ragged:
        return series
    lengths = torch.randint(context // 8, context + 1, (batch,), generator=generator)
    return [row[-length:] for row, length in zip(series, lengths, strict=True)]


def products(call: Any) -> dict[str, float]:
    """Share of the time in matrix products, attention kernels apart and included."""
    with torch.profiler.profile() as profiler:
        call()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    plain = sum(times.get(name, 0) for name in PRODUCTS)
    return {
        "products": plain / total,
        "products and fused attention": (plain + sum(times.get(name, 0) for name in FUSED)) / total,
        "largest others": {
            name: round(value / total, 3)
            for name, value in sorted(times.items(), key=lambda item: -item[1])[:10]
            if name not in PRODUCTS
        },
    }


def rivals(arguments: argparse.Namespace) -> dict[str, Any]:
    """The exact side: each model in each number type, by name."""
    made = {}
    for kind in arguments.models:
        for dtype in arguments.dtypes:
            model = (t5 if arguments.family == "t5" else bolt)(arguments.shape)
            if kind == "schedule":
                model = scheduled(model)
            model.inner_model.to(getattr(torch, dtype))
            made[f"{kind} {dtype}"] = model
    return made


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    sampling = arguments.family == "t5"
    stock = (t5 if sampling else bolt)(arguments.shape)
    stock.engine = "stock"
    pipelines = {"stock": stock, **rivals(arguments)}
    inputs = series_of(arguments.batch, arguments.context, arguments.ragged)
    options = {"num_samples": arguments.samples} if sampling else {}

    def run(pipeline: Any) -> None:
        torch.manual_seed(0)
        pipeline.predict(inputs, prediction_length=arguments.horizon, **options)

    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for pipeline in pipelines.values():
        run(pipeline)
    for _ in range(arguments.repeats):
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            run(pipeline)
            seconds[name].append(time.perf_counter() - start)
        print({name: round(times[-1], 4) for name, times in seconds.items()}, file=sys.stderr, flush=True)
    workload = Workload(arguments.batch, arguments.context, arguments.horizon, arguments.samples)
    result: dict[str, Any] = {"what": vars(arguments)}
    for name, pipeline in pipelines.items():
        machine = Machine.measure(dtype=pipeline.inner_model.dtype)
        counted = cost(pipeline, workload, engine="stock" if pipeline is stock else "exact")
        row: dict[str, Any] = {"s": spread(seconds[name])}
        row["of stock"] = spread([a / b for a, b in zip(seconds[name], seconds["stock"], strict=True)])
        row |= {"floor s": counted.roofline(machine), "TFLOP": counted.flops / 1e12}
        row["large product GFLOP/s, copy GB/s"] = (machine.flops_per_second / 1e9, machine.bytes_per_second / 1e9)
        row["weights, self cache, cross cache MB"] = [
            round(held / 1e6, 1)
            for held in (
                sum(p.nbytes for p in pipeline.inner_model.parameters()),
                counted.cache_self,
                counted.cache_cross,
            )
        ]
        if not arguments.no_memory:
            row["peak MB"] = (peak_memory(lambda pipeline=pipeline: run(pipeline)) or 0) / 1e6
        if pipeline is not stock:
            share = products(lambda pipeline=pipeline: run(pipeline))
            rate = counted.flops / min(seconds[name])
            busy = rate / share["products and fused attention"]
            row["time in"] = share
            row["GFLOP/s, share of a large product's"] = (rate / 1e9, rate / machine.flops_per_second)
            row["while in products and attention"] = (busy / 1e9, busy / machine.flops_per_second)
        result[name] = row
    return result


def spread(values: list[float]) -> str:
    return f"{median(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    pipeline = t5(arguments.shape)
    pipeline.memory_budget = arguments.memory_budget
    rows = {}
    counts = (8, 32, 128, 512)
    for count in counts:
        inputs = series_of(count, arguments.context, ragged=False)

        def call(inputs: torch.Tensor = inputs) -> None:
            pipeline.predict(inputs, prediction_length=arguments.horizon, num_samples=arguments.samples)

        if count == counts[0]:
            call()
        times = []
        for _ in range(max(1, arguments.repeats if count < 128 else 1)):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        rows[count] = {"s": median(times)}
        if not arguments.no_memory:
            rows[count]["peak"] = peak_memory(call)
        print(count, rows[count], flush=True)
    x, y = ([math.log(v) for v in values] for values in (counts, [row["s"] for row in rows.values()]))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return {"what": vars(arguments), "rows": rows, "slope": slope}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"what": vars(arguments)}
    names = ["stock", *(f"{kind} {dtype}" for kind in arguments.models for dtype in arguments.dtypes)]
    for name in names:
        with get_context("spawn").Pool(1) as pool:
            result[name] = pool.apply(resident_peak, (arguments, name))
    return result


def resident_peak(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """MB that the process holds at most while it forecasts, above what it held before."""
    torch.set_num_threads(arguments.threads)
    pipeline = t5(arguments.shape)
    if name == "stock":
        pipeline.engine = "stock"
    else:
        kind, dtype = name.split()
        pipeline = scheduled(pipeline) if kind == "schedule" else pipeline
        pipeline.inner_model.to(getattr(torch, dtype))
    inputs = series_of(arguments.batch, arguments.context, arguments.ragged)
    with PeakMemory() as peak:
        pipeline.predict(inputs, prediction_length=arguments.horizon, num_samples=arguments.samples)
    return {"loaded MB": peak.start / 1e6, "peak MB above": peak.above / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["t5", "bolt", "scaling", "memory"])
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=["dense", "schedule"], default=["dense"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="of the exact side; stock stays in float32")
    parser.add_argument("--ragged", action="store_true", help="lengths between an eighth of the context and all of it")
    parser.add_argument("--memory-budget", type=int)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {"scaling": scaling, "memory": memory}.get(arguments.family, compare)(arguments)
    print(json.dumps(result, indent=1, default=str, ensure_ascii=False))


if __name__ == "__main__":
    main()
