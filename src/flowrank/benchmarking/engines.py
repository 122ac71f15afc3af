"""Engines side by side: the same forecasts by each of them, every one in a process of its own, in turns.

Threads of some runtimes spin for a while after their work, and in one process would slow the next engine that is timed.
So each model and engine has a process of its own, and there is a pause between two of them.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flowrank.benchmarking.workload import call_of, series_of
from flowrank.errors import FlowrankError, check_count
from flowrank.graphs import RUNTIMES, check_installed, installed, is_export
from flowrank.stopwatch import seconds_taken
from flowrank.versions import versions

COMPILED = "compiled"
"""The stock code under torch.compile: no engine of flowrank, but one to compare with."""

PAUSE = 0.3  # seconds; OpenMP's threads spin for a while after their last work
ROUNDS = 4
WARM_UP = 3  # forecasts; the first one may make a graph
MEASURES: dict[str, Callable[[list[float]], float]] = {"least": min, "median": statistics.median}


def compare_engines(
    models: str | Path | Sequence[str | Path],
    *,
    engines: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1, 8, 32),
    context_length: int | None = None,
    horizon: int | None = None,
    num_samples: int = 20,
    repeats: int = 31,
    threads: int | None = None,
    seed: int = 0,
    device_map: str = "cpu",
    dtype: str = "auto",
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Time the same forecasts by several engines, each in a process of its own, in turns.

    All processes live until the end: each holds the model once. Forecasts go through ``predict``, as users call it.

    Parameters
    ----------
    models
        Names, hub ids or folders, exported ones too; the first is what the others are compared with.
    engines
        Names that `flowrank.load` takes ("stock", "exact", "onnxruntime", "openvino", "fastest"), or "compiled", the
        stock code under torch.compile. None: stock, exact and the runtimes that are installed, for each model those
        that it can use.
    batch_sizes
        Numbers of series forecast at once.
    context_length
        Observations of each series; default: what the first model's context holds.
    horizon
        Steps forecast; default: the first model's own prediction length.
    num_samples
        Sample paths a series; models that forecast quantiles have none and ignore it.
    repeats
        Timed forecasts of each model, engine and batch size, after some to warm up.
    threads
        CPU threads of each engine; default: as many as torch uses in this process.
    seed
        Seed of the series and of the sampling.
    device_map, dtype
        As of `flowrank.load`. Graph runtimes run on the CPU only; exported models have their own precision.
    on_row
        Called with each row as soon as it is there.

    Returns
    -------
    dict
        Ready for JSON: ``workload``, ``device``, ``versions`` and ``rows``. A row is one model, engine and batch size,
        with ``least_s`` and ``median_s``, seconds of a forecast, and ``least_over_stock`` and ``median_over_stock``,
        those over the stock code's of the first model for this batch size (None if that was not measured). Where an
        engine could not run a model the numbers are None, and ``why`` says what stood in the way.

    Raises
    ------
    FlowrankError
        If a model is not there, an engine is unknown or not installed, or a number is not positive.

    Notes
    -----
    A script must call this below ``if __name__ == "__main__":``, as for everything that starts processes: each of them
    imports the script.

    Examples
    --------
    >>> found = compare_engines("flow-bolt-mini", batch_sizes=[1], repeats=1)  # doctest: +SKIP
    >>> [row["engine"] for row in found["rows"]]  # doctest: +SKIP
    ['stock', 'exact', 'onnxruntime', 'openvino']
    """
    import torch

    names = _names(models)
    usual = engines is None
    asked = ("stock", "exact", *installed()) if engines is None else check_engines(engines)
    sizes = _sizes(batch_sizes)
    for argument, count in {"num_samples": num_samples, "repeats": repeats}.items():
        check_count(count, argument)
    for argument, given in {"context_length": context_length, "horizon": horizon, "threads": threads}.items():
        if given is not None:
            check_count(given, argument)
    opened = {"device_map": device_map, "dtype": dtype}
    settings = {"threads": threads or torch.get_num_threads(), "num_samples": num_samples, "seed": seed}
    with _processes(names, asked, opened | settings) as sides:
        for side in sides:
            side.await_opening()
        sides = [side for side in sides if not (usual and side.unfit)]
        facts = next((side.facts for side in sides if side.facts), {})
        context = context_length or facts.get("context_length")
        steps = horizon or facts.get("horizon")
        rows = []
        for size in sizes:
            for row in _rows(sides, names[0], (size, context, steps), repeats):
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return {
        "workload": {
            "batch_sizes": sizes,
            "context_length": context,
            "horizon": steps,
            "num_samples": num_samples if any(side.facts.get("samples") for side in sides) else None,
            "repeats": repeats,
            "seed": seed,
            "dtype": dtype,
        },
        "device": {**facts.get("device", {}), "threads": settings["threads"]},
        "versions": versions() | {RUNTIMES[one].package: version(RUNTIMES[one].package) for one in installed()},
        "rows": rows,
    }


def _names(models: Any) -> list[str]:
    """The models, each once; those that are not there are refused before a process is started."""
    from flowrank.family import Checkpoint

    given = [models] if isinstance(models, str | Path) else models
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, str | Path) for one in given):
        kinds = ", ".join(type(one).__name__ for one in given) if isinstance(given, Sequence) else type(given).__name__
        raise FlowrankError(
            "models",
            expected="names, hub ids or folders: each process opens the model itself",
            found=kinds or "none",
            todo="save a model with save_pretrained and pass the folder",
        )
    names = list(dict.fromkeys(map(str, given)))
    for name in names:
        if not is_export(name):
            try:
                Checkpoint.find(name)
            except FlowrankError as error:
                raise FlowrankError("models", expected=error.expected, found=error.found, todo=error.todo) from error
    return names


def check_engines(engines: Any, argument: str = "engines") -> list[str]:
    """Return the names of engines that can be compared, each once.

    Raises
    ------
    FlowrankError
        If one is unknown, or its package is not installed.
    """
    from flowrank.engine.paths import ENGINES

    known = (*ENGINES, COMPILED)
    if isinstance(engines, str) or not engines:
        found = repr(engines) if engines else "none"
        raise FlowrankError(argument, expected=f"a list of some of {', '.join(known)}", found=found)
    for name in engines:
        if name not in known:
            raise FlowrankError(argument, expected=f"some of {', '.join(known)}", found=repr(name))
        if name in RUNTIMES:
            check_installed(name, argument)
    return list(dict.fromkeys(engines))


def _sizes(batch_sizes: Any) -> list[int]:
    if isinstance(batch_sizes, str) or not isinstance(batch_sizes, Sequence) or not batch_sizes:
        raise FlowrankError("batch_sizes", expected="numbers of series, e.g. [1, 32]", found=repr(batch_sizes))
    return list(dict.fromkeys(check_count(one, "batch_sizes") for one in batch_sizes))


class _Side:
    """One model by one engine, in a process that is asked for timings.

    Attributes
    ----------
    facts
        What the process told of the model; empty until it has opened it.
    why
        Why nothing can be asked of it any more; empty while it answers.
    unfit
        Whether the engine is not one for such a model.
    """

    def __init__(self, model: str, engine: str, settings: dict[str, Any]) -> None:
        self.model, self.engine = model, engine
        self.facts: dict[str, Any] = {}
        self.why, self.unfit = "", False
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, model, engine, settings), daemon=True)
        self._process.start()
        there.close()

    def await_opening(self) -> None:
        """Wait until the model is open there, or cannot be."""
        answer = self._answer()
        self.why, self.unfit = answer.get("why", ""), answer.get("unfit", False)
        self.facts = answer if not self.why else {}

    def seconds(self, work: tuple[int, int, int], count: int) -> tuple[list[float], str]:
        """Seconds of so many forecasts of a batch of series, or why there are none."""
        if self.why:
            return [], self.why
        with suppress(OSError):  # where the process has ended, as the answer tells
            self._pipe.send((work, count))
        answer = self._answer()
        return answer.get("seconds", []), answer.get("why", "")

    def _answer(self) -> dict[str, Any]:
        """What the process says next; from one that has ended, that it has."""
        wait([self._pipe, self._process.sentinel])
        with suppress(EOFError, OSError):  # as before
            if self._pipe.poll():
                answer: dict[str, Any] = self._pipe.recv()
                return answer
        self._process.join()
        self.why = f"its process ended with exit code {self._process.exitcode}"
        return {"why": self.why}

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):  # where it has ended
            self._pipe.send(None)
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


@contextmanager
def _processes(models: list[str], engines: Sequence[str], settings: dict[str, Any]) -> Iterator[list[_Side]]:
    """A process for each model and engine, all started at once; ended in any case."""
    sides: list[_Side] = []
    try:
        for model in models:
            for engine in engines:
                sides.append(_Side(model, engine, settings))
        yield sides
    finally:
        for side in sides:
            side.close()


def _rows(sides: list[_Side], first: str, work: tuple[int, Any, Any], repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each side and one batch size, measured in turns."""
    rounds = min(ROUNDS, repeats)
    counts = [WARM_UP, *(repeats // rounds + (place < repeats % rounds) for place in range(rounds))]
    taken: list[list[float]] = [[] for _ in sides]
    failed = [side.why for side in sides]
    for round_, count in enumerate(counts):
        for place, side in enumerate(sides):
            if not failed[place]:
                seconds, failed[place] = side.seconds(work, count)
                taken[place] += seconds if round_ else []
                time.sleep(PAUSE)
    good = {(side.model, side.engine): some for side, some, why in zip(sides, taken, failed, strict=True) if not why}
    base = good.get((first, "stock"))
    for side, why in zip(sides, failed, strict=True):
        row: dict[str, Any] = {"model": side.model, "engine": side.engine, "batch_size": work[0]}
        some = good.get((side.model, side.engine))
        for name, measure in MEASURES.items():
            row[f"{name}_s"] = None if some is None else measure(some)
        for name, measure in MEASURES.items():
            row[f"{name}_over_stock"] = None if some is None or base is None else measure(some) / measure(base)
        yield row | {"why": why or None}


def _serve(pipe: Connection, model: str, engine: str, settings: dict[str, Any]) -> None:
    """Answer for one model and engine: what was opened, then seconds of forecasts, until None is asked."""
    warnings.simplefilter("ignore")  # such as that of a horizon beyond the model's, from each process
    try:
        pipeline = _opened(model, engine, settings)
        pipe.send(_facts(pipeline))
    except Exception as error:  # libraries below have errors of their own; each of them is a row
        pipe.send({"why": _told(error), "unfit": isinstance(error, FlowrankError) and error.argument == "engine"})
        return
    while (asked := _next(pipe)) is not None:
        (size, context, steps), count = asked
        try:
            series = series_of(size, context, settings["seed"])
            call = call_of(pipeline, series, steps, settings["num_samples"], settings["seed"])
            pipe.send({"seconds": [seconds_taken(call, _device_of(pipeline)) for _ in range(count)]})
        except Exception as error:
            pipe.send({"why": _told(error)})


def _next(pipe: Connection) -> Any:
    """What is asked next; None where the asking process has ended."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def _opened(model: str, engine: str, settings: dict[str, Any]) -> Any:
    """Open the model; refuse an engine that leaves it to another one."""
    import torch

    from flowrank.pipelines import load

    torch.set_num_threads(settings["threads"])
    name = "stock" if engine == COMPILED else engine
    if is_export(model):
        return load(model, engine=name, threads=settings["threads"])
    pipeline = load(model, engine=name, device_map=settings["device_map"], dtype=settings["dtype"])
    if name != "fastest" and pipeline.path != name:
        raise FlowrankError(
            "model", expected=f"one that the engine {name!r} computes", found=f"one left to {pipeline.path!r}"
        )
    if engine == COMPILED:
        pipeline.inner_model.forward = torch.compile(pipeline.inner_model.forward)
    return pipeline


def _facts(pipeline: Any) -> dict[str, Any]:
    """What the asking process needs to know of a model."""
    from flowrank.benchmarking.comparison import device_name
    from flowrank.benchmarking.workload import samples_paths

    device = _device_of(pipeline)
    return {
        "context_length": int(pipeline.model_context_length),
        "horizon": _usual_horizon(pipeline),
        "samples": samples_paths(pipeline),
        "device": {"type": device.type, "name": device_name(device)},
    }


def _usual_horizon(pipeline: Any) -> int:
    from flowrank.family import family_of

    if not hasattr(pipeline, "inner_model"):  # an exported model
        return int(pipeline.model_prediction_length)
    return int(family_of(pipeline).usual_horizon(pipeline.inner_model.config))


def _device_of(pipeline: Any) -> Any:
    import torch

    model = getattr(pipeline, "inner_model", None)
    return torch.device("cpu") if model is None else model.device


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else "no message"
    return first if isinstance(error, FlowrankError) else f"{type(error).__name__}: {first}"
