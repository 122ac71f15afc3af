"""What a model costs, beside its parent: latency, parameters, weights, key/value cache, peak memory.

Parent and child run in one process, in turns (parent, child, parent, child …), so that a busy machine hits
both alike; a ratio is taken within each such pair, then summarised. Weights, cache and peak memory are three
separate numbers, because a smaller attention shrinks each of them by a different factor.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowrank.cost import Machine, Workload
from flowrank.errors import FlowrankError, check_count
from flowrank.family import cost
from flowrank.randomness import seeded
from flowrank.versions import versions

if TYPE_CHECKING:
    import torch
    from chronos import BaseChronosPipeline as Pipeline

WARM_UP_ROUNDS = 2


def benchmark(
    child: Pipeline,
    parent: Pipeline,
    *,
    batch_size: int = 32,
    context_length: int | None = None,
    horizon: int | None = None,
    num_samples: int = 20,
    repeats: int = 7,
    threads: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure ``child`` and ``parent`` on one workload, in turns.

    Parameters
    ----------
    child, parent
        Pipelines of `flowrank.load` or of chronos-forecasting, on one device. Each takes the code path
        that its ``engine`` says; pipelines that are not flowrank's know the stock one only.
    batch_size
        B, number of series forecast at once.
    context_length
        T, observations of each series; default: what the parent's context holds.
    horizon
        H, steps forecast; default: the parent's own prediction length.
    num_samples
        S, sample paths a series; models that forecast quantiles have none and ignore it.
    repeats
        Timed pairs, after two rounds of warm-up.
    threads
        CPU threads of torch while measuring; default: as they are. Restored afterwards.
    seed
        Seed of the series and of the sampling, see `flowrank.forecasting.forecast`.

    Returns
    -------
    dict
        Ready for JSON: ``workload``, ``device``, ``versions``, ``models`` (``parent`` and ``child``, each
        with ``name``, ``engine``, ``dtype``, ``parameters``, ``attention_parameters``, ``weight_bytes``,
        ``cache_bytes`` of ``self`` and ``cross``, ``peak_bytes`` above the loaded model, ``latency_s`` in seconds,
        ``flops`` and ``floor_s``, the seconds that this machine needs for them at least) and
        ``ratio`` (child over parent; latency pair by pair; None where the parent has 0).

    Raises
    ------
    FlowrankError
        If a pipeline is of another family, the two lie on different devices, or a number is not positive.

    Notes
    -----
    Cache bytes, operations and the floor come from the shapes of the layers, see `flowrank.cost.cost`; what the machine
    does a second is measured on a large matrix product and a large copy. Peak memory is the highest sum of
    live allocations during one ``predict``, read from torch's own allocator (see :func:`peak_memory`), not
    from the process: it does not depend on what ran before.

    Examples
    --------
    >>> from flowrank import load
    >>> pipeline = load("flow-bolt-mini")
    >>> result = benchmark(pipeline, pipeline, batch_size=2, context_length=64, repeats=1)
    >>> result["ratio"]["parameters"], result["models"]["child"]["engine"]
    (1.0, 'exact')
    """
    import torch

    _require_positive(batch_size=batch_size, num_samples=num_samples, repeats=repeats)
    for name, number in {"context_length": context_length, "horizon": horizon, "threads": threads}.items():
        if number is not None:
            _require_positive(**{name: number})
    pipelines = {"parent": parent, "child": child}
    for argument, pipeline in pipelines.items():
        _require_family(pipeline, argument)
    device = _device(parent)
    if _device(child) != device:
        raise FlowrankError(
            "child",
            expected=f"a model on the parent's device, {device}",
            found=f"one on {_device(child)}",
            todo="load both with the same device_map",
        )

    context = context_length or int(parent.model_context_length)
    steps = horizon or int(parent.model_prediction_length)
    series = _series(batch_size, context, seed)
    calls = {key: _call(pipeline, series, steps, num_samples, seed) for key, pipeline in pipelines.items()}
    with _torch_threads(threads):
        seconds = _paired_seconds(calls, repeats=repeats, device=device)
        peaks = {key: peak_memory(call, device=device) for key, call in calls.items()}
        used_threads = torch.get_num_threads()
        machines = {
            dtype: Machine.measure(device, dtype) for dtype in {p.inner_model.dtype for p in pipelines.values()}
        }

    workload = Workload(batch_size=batch_size, context_length=context, horizon=steps, num_samples=num_samples)
    models = {}
    for key, pipeline in pipelines.items():
        counted = cost(pipeline, workload, engine=_engine(pipeline))
        models[key] = {
            "name": _name(pipeline),
            "engine": _engine(pipeline),
            "dtype": str(pipeline.inner_model.dtype).removeprefix("torch."),
            **_sizes(pipeline),
            "cache_bytes": {"self": counted.cache_self, "cross": counted.cache_cross},
            "peak_bytes": peaks[key],
            "latency_s": {**_summary(seconds[key]), "all": seconds[key]},
            "flops": counted.flops,
            "floor_s": counted.roofline(machines[pipeline.inner_model.dtype]),
        }
    return {
        "workload": {
            "batch_size": batch_size,
            "context_length": context,
            "horizon": steps,
            "num_samples": num_samples if any(map(_samples_paths, pipelines.values())) else None,
            "repeats": repeats,
            "seed": seed,
        },
        "device": {"type": device.type, "name": _device_name(device), "threads": used_threads},
        "versions": versions(),
        "models": models,
        "ratio": _ratios(models["child"], models["parent"]),
    }


def peak_memory(call: Callable[[], object], *, device: torch.device | None = None) -> int | None:
    """Highest number of bytes that ``call`` holds at one time, above what was held before it.

    Parameters
    ----------
    call
        What to run, once.
    device
        Where it computes; default: the CPU.

    Returns
    -------
    int or None
        Bytes. On the CPU, the peak of the running sum over every allocation and release that torch's CPU
        allocator reports, temporaries inside kernels included; on CUDA, torch's own peak counter. None for
        other devices, which report neither.

    Examples
    --------
    >>> import torch
    >>> peak_memory(lambda: torch.zeros(1000).sum().item()) >= 4000
    True
    """
    import torch

    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device is not None and device.type != "cpu":
        return None
    with _quiet_profiler(), torch.autograd.profiler.profile(profile_memory=True) as profiler:
        call()
    results = profiler.kineto_results
    assert results is not None  # the profiler has just ended
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own log lines off the terminal; it reads its level when it first runs."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _engine(pipeline: Pipeline) -> str:
    """The code path that the pipeline takes; pipelines of chronos-forecasting itself know one only."""
    return getattr(pipeline, "path", "stock")


def _sizes(pipeline: Pipeline) -> dict[str, int]:
    """Count parameters, attention parameters (q, k, v, o; position biases apart) and bytes of all weights."""
    from flowrank.family import anatomy_of

    model = pipeline.inner_model
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "attention_parameters": anatomy_of(model).parameters_of_attention(),
        "weight_bytes": sum(p.numel() * p.element_size() for p in parameters),
    }


def _ratios(child: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    def ratio(part: float | None, whole: float | None) -> float | None:
        return part / whole if part is not None and whole else None

    plain = ("parameters", "attention_parameters", "weight_bytes", "peak_bytes")
    cache, cache_parent = child["cache_bytes"], parent["cache_bytes"]
    times = zip(child["latency_s"]["all"], parent["latency_s"]["all"], strict=True)
    return {
        **{key: ratio(child[key], parent[key]) for key in plain},
        "cache_bytes": ratio(sum(cache.values()), sum(cache_parent.values())),
        "cache_bytes_self": ratio(cache["self"], cache_parent["self"]),
        "cache_bytes_cross": ratio(cache["cross"], cache_parent["cross"]),
        "latency": _summary([mine / theirs for mine, theirs in times]),
    }


def _summary(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _paired_seconds(
    calls: dict[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    import torch

    synchronise = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for round_ in range(WARM_UP_ROUNDS + repeats):
        for key, call in calls.items():
            synchronise()
            start = time.perf_counter()
            call()
            synchronise()
            elapsed = time.perf_counter() - start
            if round_ >= WARM_UP_ROUNDS:
                seconds[key].append(elapsed)
    return seconds


def _call(pipeline: Pipeline, series: torch.Tensor, horizon: int, samples: int, seed: int) -> Callable[[], object]:
    paths: dict[str, Any] = {"num_samples": samples} if _samples_paths(pipeline) else {}

    def predict() -> object:
        with seeded(pipeline, seed) as options:
            return pipeline.predict(series, prediction_length=horizon, **paths, **options)

    return predict


def _series(batch: int, length: int, seed: int) -> torch.Tensor:
    """Random walks with a season of 24 and a level, (B, T) in fp32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(batch, length, generator=generator).cumsum(dim=1)
    phase = 2 * math.pi * torch.rand(batch, 1, generator=generator)
    return 100 + walk + 10 * torch.sin(2 * math.pi * torch.arange(length) / 24 + phase)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _samples_paths(pipeline: Pipeline) -> bool:
    from chronos import ForecastType

    return pipeline.forecast_type is ForecastType.SAMPLES


def _device(pipeline: Pipeline) -> torch.device:
    return next(pipeline.inner_model.parameters()).device


def _device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _name(pipeline: Pipeline) -> str:
    return getattr(pipeline, "name", None) or pipeline.inner_model.name_or_path or type(pipeline).__name__


def _require_family(pipeline: object, argument: str) -> None:
    from flowrank.family import family_of

    try:
        family = family_of(pipeline)
    except FlowrankError as error:
        found = str(error.found)
    else:
        if family.pipeline_class is not None:
            return
        found = f"a pipeline around {type(family.model).__name__}"
    raise FlowrankError(
        argument,
        expected="a pipeline of a model family that forecasts",
        found=found,
        todo="open the model with flowrank.load(…)",
    )


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        check_count(number, name)
