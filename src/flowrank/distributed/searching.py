"""Searches for the smallest model, of several tolerances and seeds: each a task, in this process or on Ray."""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flowrank.compression import univariate as univariate_of
from flowrank.distributed.addresses import Folder, absolute, model_identity, model_path
from flowrank.distributed.partitions import KEPT
from flowrank.distributed.ray_cluster import check_cluster, results_of, sent
from flowrank.distributed.workers import check_model, opened, refusal
from flowrank.errors import FlowrankError, check_count
from flowrank.files import atomic_file, refuse_other_run
from flowrank.progress import progress_bar
from flowrank.search import Tolerance, smallest
from flowrank.series import read_series

SEARCHES = "searches.csv"
_RUN, _SEARCHES = f"{KEPT}/run.json", "searches"
_COLUMNS = ("max_loss", "seed", "folder", "parameters", "parameters_kept", "cost_kept", "loss", "upper", "reason")


def searches(
    model: str | Path,
    output: str | Path,
    *,
    tolerances: Sequence[float | Tolerance],
    seeds: Sequence[int] = (0,),
    on: str | None = None,
    workers: int = 1,
    threads: int | None = None,
    num_gpus: float = 0,
    device: str | None = None,
    dtype: str = "auto",
    univariate: bool = False,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Find the smallest models of several tolerances and seeds, as `flowrank.smallest` does for one.

    A search is never divided, as each of its stages starts from the one before; searches do not depend on one another.
    Each writes its model into a folder of its own in the output, such as ``loss-0.01-seed-0``. The same call goes on
    where a run was interrupted: searches that are done are not done again, and one that was in the middle goes on with
    its next stage. Further tolerances and seeds can be given later. ``searches.csv`` appears at the end.

    Parameters
    ----------
    model
        The parent: a name that `flowrank.load` opens, or a folder; on a cluster, one that every node sees.
    output
        Folder; on a cluster, on storage that all nodes share.
    tolerances
        Each a `flowrank.Tolerance`, or its ``max_loss``, which differ.
    seeds
        Each tolerance is searched with each seed.
    on
        None: this process, one search after the other. "ray": a Ray cluster, the one that this process or machine
        belongs to or a new one on this machine; "ray://HOST:PORT" or "HOST:PORT": the one there.
    workers, threads, num_gpus
        Processes on Ray, and CPU threads (None: 1) and GPUs of each; in this process, threads alone.
    device, dtype
        Of `flowrank.load`, which calls the first ``device_map``. No device: "cuda" with ``num_gpus``, else "cpu".
    univariate
        Whether the models read single series only (`flowrank.univariate`).
    progress
        Whether to show a progress bar.
    **options
        Of `flowrank.smallest`: ``series``, ``steps``, ``horizon`` and others, and the columns of ``series``.

    Returns
    -------
    pd.DataFrame
        What ``searches.csv`` holds, a row for each search that the output was given and that is done: ``max_loss``,
        ``seed``, ``folder`` (in the output), ``parameters``, ``parameters_kept`` and ``cost_kept`` (shares of the
        parent's), ``loss`` and ``upper`` (as judged, and the upper end of the confidence interval). Where nothing
        smaller was within the tolerance, ``reason`` says so, and the others are missing.

    Raises
    ------
    FlowrankError
        If the output is of another run, a node lacks flowrank or a path, or for what `flowrank.smallest` refuses; the
        message names the search. Searches that are done stay.

    Examples
    --------
    >>> searches("flow-bolt", "children", tolerances=[0.01, 0.03], seeds=[0, 1], on="ray", workers=4)  # doctest: +SKIP
    """
    check_cluster(workers, threads, num_gpus)
    model, place = model_path(check_model(model, "model")), _folder(output)
    tasks = _planned(tolerances, seeds)
    series = options.get("series")
    if isinstance(series, str | Path):
        series = options["series"] = absolute(series)
    known = inspect.signature(smallest).parameters
    inspect.signature(read_series).bind(None, **{name: one for name, one in options.items() if name not in known})
    opening = {"device": device or ("cuda" if num_gpus else "cpu"), "dtype": dtype}
    settings = {"model": model_identity(model), "univariate": univariate, **opening}
    settings = json.loads(json.dumps(settings | dict(_told(options)), default=str))
    every = _begun(place, settings, tasks)
    if on is not None and not isinstance(series, str):
        sent("series", series)
    with atomic_file(place / _RUN, overwrite=True) as temporary:
        told = json.dumps(settings | {_SEARCHES: [asdict(one) for one in every]}, indent=1)
        temporary.write_text(told + "\n", encoding="utf-8")
    rows = {one: row for one in every if (row := _done(place, one)) is not None}
    work = _Work(model, opening | {"threads": threads or (None if on is None else 1)}, univariate, options, str(place))
    found = results_of(
        work,
        [one for one in tasks if one not in rows],
        on=on,
        workers=workers,
        threads=threads or 1,
        num_gpus=num_gpus,
        paths={"model": model, "output": str(place / _RUN)} | ({"series": series} if isinstance(series, str) else {}),
    )
    with progress_bar("searching", total=len(tasks), unit="searches", show=progress) as advance:
        advance(sum(one in rows for one in tasks))
        try:
            for one, row in found:
                rows[one] = row
                advance(1)
        except FlowrankError:
            _leave(place)
            raise
    table = pd.DataFrame([rows[one] for one in every if one in rows], columns=list(_COLUMNS))
    table["parameters"] = table["parameters"].astype("Int64")
    with atomic_file(place / SEARCHES, overwrite=True) as temporary:
        table.to_csv(temporary, index=False)
    return table


@dataclass(frozen=True)
class _Task:
    """A search."""

    tolerance: Tolerance
    seed: int

    @property
    def folder(self) -> str:
        """Name of the model's folder in the output."""
        return f"loss-{float(self.tolerance.max_loss)!r}-seed-{self.seed}"

    def __str__(self) -> str:
        return f"in the search {self.folder}"


@dataclass
class _Work:
    """Does searches, all of the same parent."""

    model: str
    opening: dict[str, Any]
    univariate: bool
    options: dict[str, Any]
    output: str
    parent: Any = None

    def __call__(self, task: _Task) -> tuple[_Task, dict[str, Any]]:
        try:
            return task, self._searched(task)
        except FlowrankError as error:
            raise refusal(error, str(task)) from error

    def _searched(self, task: _Task) -> dict[str, Any]:
        if self.parent is None:
            parent = opened(self.model, **self.opening)
            self.parent = univariate_of(parent) if self.univariate else parent
        place = Path(self.output)
        work = place / KEPT / task.folder
        child = smallest(self.parent, task.tolerance, folder=work, seed=task.seed, **self.options)
        row: dict[str, Any] = {"max_loss": float(task.tolerance.max_loss), "seed": task.seed}
        if child is self.parent:
            row["reason"] = "no smaller model that was tried is within the tolerance"
        else:
            child.save_pretrained(place / task.folder, overwrite=True)  # of this search, where it was interrupted here
            row |= {"folder": task.folder} | _measures(child.recipe)
        with atomic_file(_record(place, task), overwrite=True) as temporary:
            temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")
        shutil.rmtree(work)
        return row


def _measures(recipe: Any) -> dict[str, Any]:
    """What became of a model, by its recipe."""
    counts, found = recipe["parameters"], recipe["search"]
    return {
        "parameters": counts["child"],
        "parameters_kept": counts["child"] / counts["parent"],
        "cost_kept": min(stage["cost"] for stage in found["stages"] if stage["held"]),
        "loss": found["loss"],
        "upper": found["upper"],
    }


def _planned(tolerances: Sequence[float | Tolerance], seeds: Sequence[int]) -> list[_Task]:
    """The searches, in the order of their rows."""
    limits = [one if isinstance(one, Tolerance) else Tolerance(one) for one in tolerances]
    numbers = [check_count(one, "seeds", 0) for one in seeds]
    for argument, values in (("tolerances", [float(one.max_loss) for one in limits]), ("seeds", numbers)):
        if not values or len(set(values)) < len(values):
            raise FlowrankError(
                argument, expected="one or more, each once", found=", ".join(map(str, values)) or "none"
            )
    return [_Task(limit, seed) for limit in limits for seed in numbers]


def _begun(place: Path, settings: dict[str, Any], tasks: list[_Task]) -> list[_Task]:
    """The searches that the output was given so far, and those of this call.

    Raises
    ------
    FlowrankError
        If it is of another run, or a folder is of a search with another tolerance.
    """

    def leftover(one: Path) -> bool:
        return one.name == KEPT

    refuse_other_run(place, _RUN, settings, run="searches", argument="output", harmless=[_SEARCHES], leftover=leftover)
    path = place / _RUN
    before = json.loads(path.read_text(encoding="utf-8"))[_SEARCHES] if path.exists() else []
    every = [*dict.fromkeys([*(_Task(Tolerance(**one["tolerance"]), one["seed"]) for one in before), *tasks])]
    folders = [one.folder for one in every]
    if twice := next((one for one in every if folders.count(one.folder) > 1), None):
        raise FlowrankError(
            "tolerances",
            expected=f"those of the run that {str(place)!r} holds, or others",
            found=f"another than {twice.tolerance} for the folder {twice.folder}",
            todo="choose another output",
        )
    return every


def _leave(place: Path) -> None:
    """Take back the record of a run in which no search has begun, so that the same output can be given again."""
    if [one.name for one in (place / KEPT).iterdir()] == [Path(_RUN).name]:
        Folder(str(place)).remove(_RUN)


def _folder(output: str | Path) -> Path:
    if "://" in str(output):
        raise FlowrankError(
            "output",
            expected="a folder on a disk, which all nodes of a cluster share",
            found=repr(str(output)),
            todo="mount it as a folder, or copy the models there afterwards",
        )
    return Path(absolute(output))


def _told(options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options as they tell runs from one another: of series that are no file, what they are."""
    for name, value in options.items():
        if name == "series" and isinstance(value, str):
            yield name, [value, *map(astuple, Folder(value).files())]
        elif name == "series":
            yield name, None if value is None else _digest(value)
        else:
            yield name, value


def _digest(value: Any) -> str:
    """What tells series that are no file from others; their type where they cannot be pickled."""
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except (pickle.PicklingError, TypeError, AttributeError):
        return type(value).__name__


def _record(place: Path, task: _Task) -> Path:
    return place / KEPT / f"{task.folder}.json"


def _done(place: Path, task: _Task) -> dict[str, Any] | None:
    """The row of a search whose model is there."""
    path = _record(place, task)
    if not path.is_file():
        return None
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "folder" in row and not (place / row["folder"] / "config.json").is_file():
        return None
    shutil.rmtree(place / KEPT / task.folder, ignore_errors=True)  # interrupted while it was removed
    return row
