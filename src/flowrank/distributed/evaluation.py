"""Scores of models on data sets, each model and data set a task of a cluster."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.distributed.addresses import absolute, model_path
from flowrank.distributed.ray_cluster import check_cluster, results_of, sent
from flowrank.distributed.workers import check_model, opened, refusal
from flowrank.errors import FlowrankError
from flowrank.evaluation import SEASONAL_NAIVE, Backtest
from flowrank.evaluation.scoring import COLUMNS, Scorer, plan_of
from flowrank.forecasting import Corrections, Skipped
from flowrank.forecasting.skipping import Skipping
from flowrank.progress import progress_bar
from flowrank.series import read_series


def evaluate(
    models: Mapping[str, str | Path] | Sequence[str],
    sources: Mapping[str, Any],
    backtests: Sequence[Backtest] | Mapping[str, Backtest] | None = None,
    *,
    on: str | None = "ray",
    workers: int = 1,
    threads: int = 1,
    num_gpus: float = 0,
    engine: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    prediction_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_series: int | None = None,
    progress: bool = False,
    corrections: Corrections | None = None,
    skip_bad: bool = False,
    skipped: list[Skipped] | None = None,
    **reading: Any,
) -> pd.DataFrame:
    """Score models on data sets, as `flowrank.evaluate` does, on a Ray cluster.

    Each model on each data set is a task. Tasks are handed out model by model, so that a worker opens a model once,
    and holds one at a time. A worker that dies is started again, and its task is done again.

    Parameters
    ----------
    models
        What `flowrank.load` opens, by name, or a list of such names: embedded or hub models, or folders that every
        node sees; or the text ``"seasonal-naive"``.
    sources
        Of `flowrank.evaluate`, by the data set's name: paths that every node sees, or what can be pickled, such as
        data frames and lists of arrays.
    backtests, prediction_length, batch_size, seed, max_series, progress, corrections, skip_bad, skipped
        Of `flowrank.evaluate`.
    on
        "ray": the Ray cluster that this process or machine belongs to, or a new one on this machine;
        "ray://HOST:PORT" or "HOST:PORT": the one there. None: this process, which opens models in the same way.
    workers, threads, num_gpus
        Processes on Ray, and CPU threads and GPUs of each.
    engine, device, dtype
        Of `flowrank.load`, which calls the second ``device_map``. No device: "cuda" with ``num_gpus``, else "cpu".
    **reading
        Of `flowrank.series.read_series`.

    Returns
    -------
    pd.DataFrame
        The rows of `flowrank.evaluate`, in their order and with the same scores; ``seconds`` are those of the worker.

    Raises
    ------
    FlowrankError
        If a model or a source cannot be sent to workers, a node lacks flowrank or a path, or for what
        `flowrank.evaluate` refuses; the message names the model and the data set.

    Examples
    --------
    >>> models = ["flow-bolt", "flow-t5", "seasonal-naive"]
    >>> evaluate(models, {"sales": "sales.parquet"}, prediction_length=12, workers=3)  # doctest: +SKIP
    """
    check_cluster(workers, threads, num_gpus)
    places = _places(models)
    plan = plan_of(sources, backtests, prediction_length)
    inspect.signature(read_series).bind(None, **reading)  # refuses options that are none before anything starts
    opening = {"engine": engine, "device": device or ("cuda" if num_gpus else "cpu"), "dtype": dtype}
    context = _shortest_context(places.values(), opening) if skip_bad else 0
    sources = {name: absolute(one) if isinstance(one, str | Path) else one for name, one in sources.items()}
    paths = {f"data set {name!r}": one for name, one in sources.items() if isinstance(one, str)}
    pickled = {name: sent(f"data set {name!r}", one) for name, one in sources.items()}
    tasks = [
        _Task(row * len(places) + column, name, place, pickled[test.dataset], test)
        for column, (name, place) in enumerate(places.items())
        for row, test in enumerate(plan)
    ]
    found = results_of(
        _Work(Scorer(batch_size, seed, max_series, corrections, skip_bad, reading), opening, threads, context),
        tasks,
        on=on,
        workers=workers,
        threads=threads,
        num_gpus=num_gpus,
        paths={f"model {name!r}": place for name, place in places.items()} | paths,
    )
    scores: dict[int, tuple[dict[str, Any], list[Skipped]]] = {}
    with progress_bar("evaluating", total=len(tasks), unit="scores", show=progress) as advance:
        for number, row, told in found:
            scores[number] = row, told
            advance(1)
    for number in range(0, len(tasks), len(places)):  # each model leaves out the same
        row, told = scores[number]
        Skipping(skip_bad, skipped, row["dataset"]).again(told, row["series"])
    return pd.DataFrame([scores[number][0] for number in range(len(tasks))], columns=COLUMNS)


@dataclass(frozen=True)
class _Task:
    """A model on a data set: the number of its row, and the source as it was pickled."""

    number: int
    name: str
    model: str
    source: bytes
    test: Backtest

    def __str__(self) -> str:
        return f"with model {self.name!r} on data set {self.test.dataset!r}"


@dataclass
class _Work:
    """Scores models on data sets, and holds the last model."""

    scorer: Scorer
    opening: dict[str, Any]
    threads: int
    context: int
    held: tuple[str, Any] = ("", None)

    def __call__(self, task: _Task) -> tuple[int, dict[str, Any], list[Skipped]]:
        told: list[Skipped] = []
        try:
            model, source = self._opened(task.model), pickle.loads(task.source)
            row = self.scorer.row(task.name, model, source, task.test, self.context, told)
        except FlowrankError as error:
            raise refusal(error, str(task)) from error
        return task.number, row, told

    def _opened(self, model: str) -> Any:
        if model == SEASONAL_NAIVE:
            return model
        if self.held[0] != model:
            self.held = ("", None)  # two models need not fit into memory
            self.held = model, opened(model, threads=self.threads, **self.opening)
        return self.held[1]


def _places(models: Mapping[str, str | Path] | Sequence[str]) -> dict[str, str]:
    """Where each model is, by its name."""
    named = dict(models) if isinstance(models, Mapping) else {str(one): one for one in models}
    if not named:
        raise FlowrankError("models", expected="at least one model", found="none")
    return {
        name: SEASONAL_NAIVE if model == SEASONAL_NAIVE else model_path(check_model(model, "models"))
        for name, model in named.items()
    }


def _shortest_context(models: Iterable[str], opening: dict[str, Any]) -> int:
    """Steps of history that every model reads, in this process and one model after the other."""
    here = opening | {"device": "cpu"}
    own = (int(opened(one, **here).model_context_length) for one in models if one != SEASONAL_NAIVE)
    return min(own, default=0)
