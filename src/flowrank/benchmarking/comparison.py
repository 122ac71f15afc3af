"""A child and its parent on one workload."""

from __future__ import annotations

import os
import platform
import statistics
from typing import TYPE_CHECKING, Any

from flowrank.cost import Machine, Workload
from flowrank.errors import FlowrankError, check_count
from flowrank.family import cost, family_of
from flowrank.versions import versions

if TYPE_CHECKING:
    import torch
    from chronos import BaseChronosPipeline as Pipeline

from flowrank.benchmarking.memory import peak_memory
from flowrank.benchmarking.workload import call_of, paired_seconds, samples_paths, series_of, torch_threads


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
    Cache bytes, operations and the roofline come from the shapes of the layers, see `flowrank.cost.cost`; the rates of
    the machine are measured on a large matrix product and a large copy. Peak memory is the highest sum of
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
    steps = horizon or family_of(parent).usual_horizon(parent.inner_model.config)
    series = series_of(batch_size, context, seed)
    calls = {key: call_of(pipeline, series, steps, num_samples, seed) for key, pipeline in pipelines.items()}
    with torch_threads(threads):
        seconds = paired_seconds(calls, repeats=repeats, device=device)
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
            "num_samples": num_samples if any(map(samples_paths, pipelines.values())) else None,
            "repeats": repeats,
            "seed": seed,
        },
        "device": {"type": device.type, "name": device_name(device), "threads": used_threads},
        "versions": versions(),
        "models": models,
        "ratio": _ratios(models["child"], models["parent"]),
    }


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


def _device(pipeline: Pipeline) -> torch.device:
    return next(pipeline.inner_model.parameters()).device


def device_name(device: torch.device) -> str:
    """Name of a GPU, or of the processor with its number of cores."""
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
