"""Chronos-2 of the published shapes, random weights: the engine against stock code, and children at several sizes.

python benchmarks/chronos2.py equality|flops|time|memory|children [--shape base] [--repeats 9] [--output result.json]

Times are of pairs in turns, stock code and engine on the same inputs; ratios are of each pair.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos2.config import Chronos2CoreConfig
from torch.utils.flop_counter import FlopCounterMode

import flowrank
from flowrank.cost import Workload
from flowrank.family import cost, family_of_model

SHAPES = {
    "base": {"d_model": 768, "num_heads": 12, "d_kv": 64, "num_layers": 12, "d_ff": 3072},
    "small": {"d_model": 512, "num_heads": 8, "d_kv": 64, "num_layers": 6, "d_ff": 2048},
}
LEVELS = [0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=STEPS)
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--engine", default="exact")
    parser.add_argument("--factor", type=float, default=0.05, help="of the random weights, for equality")
    parser.add_argument("--univariate", action="store_true", help="children for single series")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for row in STEPS[settings.what](settings):
        rows.append(row)
        print(row, flush=True)
    if settings.output is not None:
        settings.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def pipeline_of(shape: str, factor: float = 0.05):
    """A model of a published shape; at factor 0.05 of the config's defaults, attention is nearly even."""
    torch.manual_seed(0)
    chronos = {
        **{"context_length": 8192, "input_patch_size": 16, "input_patch_stride": 16, "output_patch_size": 16},
        **{"quantiles": LEVELS, "use_reg_token": True, "use_arcsinh": True, "max_output_patches": 64},
        "time_encoding_scale": 8192,
    }
    config = Chronos2CoreConfig(**SHAPES[shape], initializer_factor=factor, chronos_config=chronos)
    config.chronos_pipeline_class = "Chronos2Pipeline"
    model = Chronos2Model(config).eval()
    return family_of_model(model).pipeline_of(model)


def walks(count: int, length: int, seed: int = 0):
    return list(torch.randn(count, length, generator=torch.Generator().manual_seed(seed)).cumsum(1))


def with_covariates(groups: int, length: int, horizon: int):
    rows = iter(torch.randn(groups * 6, max(length, horizon), generator=torch.Generator().manual_seed(1)).cumsum(1))

    def task():
        target = torch.stack([next(rows)[:length] for _ in range(2)])
        past = {name: next(rows)[:length] for name in ("a", "b")}
        return {"target": target, "past_covariates": past, "future_covariates": {n: next(rows)[:horizon] for n in "ab"}}

    return [task() for _ in range(groups)]


def cases():
    """Inputs, horizon and options, by name."""
    holes = torch.stack(walks(3, 400))
    holes[0, 100:190], holes[1, :250], holes[2, -40:] = torch.nan, torch.nan, torch.nan
    for length in (5, 33, 512, 2048, 8192):
        yield f"single series of {length}", walks(3 if length < 4096 else 1, length), 64, {}
    for horizon in (1, 17, 1024, 1500):
        yield f"horizon {horizon}", walks(1, 256), horizon, {}
    for size in range(1, 8):
        yield f"group of {size}", [torch.stack(walks(size, 200, size))], 48, {}
    yield "covariates", with_covariates(3, 300, 48), 48, {}
    yield "covariates beyond the horizon in one pass", with_covariates(1, 100, 1100), 1100, {}
    yield "cross-learning", walks(8, 200), 48, {"cross_learning": True}
    yield "holes", [holes, *walks(2, 100), torch.full((50,), torch.nan)], 48, {}


def equality(settings):
    for dtype in (torch.float32, torch.bfloat16):
        exact = pipeline_of(settings.shape, settings.factor)
        exact.inner_model.to(dtype)
        stock = Chronos2Pipeline(exact.inner_model)
        for name, inputs, horizon, options in cases():
            if dtype == torch.bfloat16 and horizon > 64:
                continue
            mine, theirs = (one.predict(inputs, prediction_length=horizon, **options) for one in (exact, stock))
            gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs, strict=True))
            yield {"shape": settings.shape, "type": str(dtype), "case": name, "gap": float(f"{gap:.2g}")}


def flops(settings):
    """Counted by torch, and by the cost model; products of weights that are kept are not counted again."""
    exact = pipeline_of(settings.shape)
    for module in exact.inner_model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    counted = {}
    for engine in ("stock", "exact"):
        exact.engine = engine
        exact.predict(walks(1, 512), prediction_length=64)
        with (
            torch.backends.mkldnn.flags(enabled=False),
            FlopCounterMode(display=False, custom_mapping=ADDMM) as counter,
        ):
            exact.predict(walks(1, 512), prediction_length=64)
        counted[engine] = counter.get_total_flops()
        yield {
            "shape": settings.shape,
            "engine": engine,
            "GFLOP": round(counted[engine] / 1e9, 3),
            "cost model": round(cost(exact, Workload(1, 512, 64)).flops / 1e9, 3),
            "over stock": round(counted[engine] / counted["stock"], 4),
        }


def _addmm(self_shape, a_shape, b_shape, *_args, out_shape=None, **_kwargs):
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


ADDMM = {torch.ops.aten.addmm_: _addmm}


WORK = {
    "T 512, B 32": lambda: (walks(32, 512), 64),
    "ragged 16 to 512, B 32": lambda: (
        [one[: 16 + int(n)] for one, n in zip(walks(32, 512), torch.linspace(0, 496, 32), strict=True)],
        64,
    ),
    "T 2048, B 32": lambda: (walks(32, 2048), 64),
    "8 groups of 4 with covariates, T 512": lambda: (with_covariates(8, 512, 64), 64),
    "T 512, B 1": lambda: (walks(1, 512), 64),
}


def time_of(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired(first, second, repeats: int):
    """Seconds of two calls in turns, after one of each."""
    first(), second()
    pairs = [(time_of(first), time_of(second)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "least s": round(min(a for a, _ in pairs), 4),
        "stock least s": round(min(b for _, b in pairs), 4),
        "ratio min": round(ratios[0], 3),
        "ratio median": round(statistics.median(ratios), 3),
        "ratio max": round(ratios[-1], 3),
    }


def timed(settings):
    exact = pipeline_of(settings.shape)
    stock = Chronos2Pipeline(exact.inner_model)
    for name, make in WORK.items():
        inputs, horizon = make()
        found = paired(
            lambda x=inputs, h=horizon: exact.predict(x, prediction_length=h),
            lambda x=inputs, h=horizon: stock.predict(x, prediction_length=h),
            settings.repeats,
        )
        yield {"shape": settings.shape, "work": name, **found}


def peak(settings):
    """In a process of its own: the most memory above the model that a long batch takes."""
    pipeline = pipeline_of(settings.shape)
    pipeline.engine = settings.engine
    pipeline.predict(walks(1, 64), prediction_length=64)
    series = walks(64, 8192)
    before = _high()
    Path("/proc/self/clear_refs").write_text("5")
    before = _high()
    pipeline.predict(series, prediction_length=64)
    yield {"shape": settings.shape, "engine": settings.engine, "MiB above the model": round((_high() - before) / 1024)}


def _high() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(settings):
    for engine in ("stock", "exact"):
        command = [sys.executable, __file__, "peak", "--shape", settings.shape, "--engine", engine]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        yield json.loads(done.stdout.strip().splitlines()[-1].replace("'", '"'))


def children(settings):
    parent = pipeline_of(settings.shape)
    stock = Chronos2Pipeline(parent.inner_model)
    series = walks(32, 512)
    dense = cost_of(parent, "stock")
    size = sum(one.nbytes for one in parent.inner_model.parameters())
    for univariate in (True,) if settings.univariate else (False,):
        for kept in (0.5, 0.237, 0.15):
            Path("/proc/self/clear_refs").write_text("5")
            before = _high()
            method = flowrank.JointHeads(flowrank.Budget(kept))
            took = time.perf_counter()
            child = flowrank.compress(parent, method, calibration_series=256, univariate=univariate)
            took = time.perf_counter() - took
            counts = child.recipe["parameters"]
            row = {
                "shape": settings.shape,
                "univariate": univariate,
                "attention kept": kept,
                "compress s": round(took, 1),
                "peak over model's bytes": round((_high() - before) * 1024 / size, 2),
                "parameters": round(counts["child"] / counts["parent"], 4),
                "bytes": round(sum(one.nbytes for one in child.inner_model.parameters()) / size, 4),
            }
            for engine in ("stock", "exact"):
                child = copy.copy(child)
                child.engine = engine
                found = paired(
                    lambda c=child: c.predict(series, prediction_length=64),
                    lambda: stock.predict(series, prediction_length=64),
                    settings.repeats,
                )
                row |= {
                    f"{engine}: FLOPs": round(cost_of(child, engine) / dense, 4),
                    f"{engine}: time": found["ratio median"],
                }
            yield row


def cost_of(pipeline, engine: str) -> float:
    before, pipeline.engine = pipeline.engine, engine
    found = cost(pipeline, Workload(32, 512, 64)).flops
    pipeline.engine = before
    return found


STEPS = {
    "equality": equality,
    "flops": flops,
    "time": timed,
    "memory": memory,
    "peak": peak,
    "children": children,
}


if __name__ == "__main__":
    main()
