"""The tasks of fev-bench-mini, or of any file of fev tasks: read, supplied with local files, and scored."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file
from flowrank.proof.places import DataFiles, Home, Wanted, look_in_folder, look_on_hub
from flowrank.randomness import seeded

TASKS = "https://raw.githubusercontent.com/autogluon/fev/main/benchmarks/fev_bench/tasks_mini.yaml"
KEPT = "fev_tasks.yaml"
_SECONDS = 30  # to wait for the list of tasks


@dataclass(frozen=True)
class FevTasks:
    """Tasks with their data.

    Attributes
    ----------
    text
        The file that lists them.
    tasks
        Settings of each, by name.
    files
        Data of each, by name.
    """

    text: str = ""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, DataFiles] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | Path | None, kept: Path, data: Path | None, *, offline: bool) -> FevTasks:
        """Read the list of tasks, and find their data.

        Parameters
        ----------
        given, kept, offline
            As in `tasks_text`.
        data
            Folder to look for data in first.

        Raises
        ------
        FlowrankError
            If fev is not installed, or tasks or data are missing.
        """
        try:
            import fev  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise FlowrankError(
                "fev", expected="the package fev", found="no such package", todo='pip install "flowrank[fev]"'
            ) from error
        text = tasks_text(given, kept, offline=offline)
        tasks = read_tasks(text, kept.parent if given is None else Path(given).expanduser().parent)
        return cls(text, tasks, fev_files(tasks, data, offline=offline))

    def keep(self, path: Path) -> None:
        """Keep the list for later runs, if there is one."""
        if self.text and not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_text(self.text, encoding="utf-8")


def tasks_text(given: str | Path | None, kept: Path, *, offline: bool) -> str:
    """The list of tasks as it stands in its file.

    Parameters
    ----------
    given
        A file; None: the one that an earlier run kept, else that of fev-bench-mini from the web.
    kept
        Where an earlier run of the same proof kept it.
    offline
        Whether the web is not to be asked.

    Raises
    ------
    FlowrankError
        If there is no such file, or it cannot be downloaded.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tasks.yaml"
    >>> _ = path.write_text("tasks: []")
    >>> tasks_text(path, Path("none-kept.yaml"), offline=True)
    'tasks: []'
    """
    path = kept if given is None else Path(given).expanduser()
    if given is not None and not path.is_file():
        raise FlowrankError(
            "fev_tasks", expected="a YAML file of fev tasks", found=f"no file {str(path)!r}", todo="check the path"
        )
    if path.is_file():
        return path.read_text(encoding="utf-8")
    reason = "not asked for, offline"
    if not offline:
        try:
            with urlopen(TASKS, timeout=_SECONDS) as answer:
                return str(answer.read().decode("utf-8"))
        except OSError as error:
            reason = type(error).__name__
    raise FlowrankError(
        "fev_tasks",
        expected="the list of tasks of fev-bench-mini",
        found=f"none ({reason})",
        todo=f"download {TASKS} where there is a connection, and pass the file with --fev-tasks",
    )


def read_tasks(text: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Settings of every task by its name.

    Parameters
    ----------
    text
        YAML: a list of settings under "tasks".
    folder
        Where the file lies; paths of local data may be relative to it.

    Raises
    ------
    FlowrankError
        If it is no such list.

    Examples
    --------
    >>> read_tasks("tasks: [{dataset_path: some/repo, dataset_config: m5, horizon: 28}]", Path())["m5"]["horizon"]
    28
    """
    import yaml

    try:
        listed = yaml.safe_load(text)["tasks"]
        tasks = [{"dataset_config": None, **one} for one in listed]
        paths = [str(one["dataset_path"]) for one in tasks]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise FlowrankError(
            "fev_tasks",
            expected='a YAML file with a list of fev tasks under "tasks"',
            found=f"{type(error).__name__} where it was read",
        ) from error
    found: dict[str, dict[str, Any]] = {}
    for one, path in zip(tasks, paths, strict=True):
        name = str(one.get("task_name") or one["dataset_config"] or Path(path).stem)
        same = sum(other == name or other.startswith(f"{name} (") for other in found)
        if one["dataset_config"] is None and "://" not in path:
            one["dataset_path"] = str(folder / path)
        found[f"{name} ({same + 1})" if same else name] = one
    return found


def fev_files(tasks: dict[str, dict[str, Any]], data: Path | None, *, offline: bool) -> dict[str, DataFiles]:
    """Files of every task that names a data set of the hub.

    Parameters
    ----------
    tasks
        As of `read_tasks`.
    data
        Folder to look into first.
    offline
        Whether to look into the cache of the hub only.

    Raises
    ------
    FlowrankError
        If there are none for some.
    """
    wanted = {
        name: Wanted(str(one["dataset_config"]), (Home(str(one["dataset_path"]), str(one["dataset_config"])),))
        for name, one in tasks.items()
        if one["dataset_config"] is not None
    }
    unique = list(dict.fromkeys(wanted.values()))
    found = {} if data is None else look_in_folder(data, unique).sets
    left = [one for one in unique if one.name not in found]
    hub = look_on_hub(left, offline=offline)
    found |= hub.sets
    if hub.missing:
        repos = ", ".join(sorted({home.repo for one in left if one.name in hub.missing for home in one.homes}))
        raise FlowrankError(
            "fev",
            expected="files of every task's data set",
            found=f"none of {', '.join(hub.missing)}" + (f" ({hub.reason})" if hub.reason else ""),
            todo=f"download them where there is a connection (hf download {repos} --repo-type dataset) and copy the "
            "cache here, or put CONFIG/*.parquet into the folder of --data",
        )
    files = {name: found[one.name] for name, one in wanted.items()}
    local = {name: one for name, one in tasks.items() if name not in wanted}
    return files | {name: DataFiles(name, _local(name, str(one["dataset_path"]))) for name, one in local.items()}


def _local(name: str, path: str) -> tuple[Path, ...]:
    files = tuple(sorted(Path(path).parent.glob(Path(path).name)))
    if not files:
        raise FlowrankError(
            "fev_tasks", expected=f"the data of task {name!r}", found=f"no file {path!r}", todo="check the path"
        )
    return files


def score_task(
    pipeline: Any, settings: dict[str, Any], files: DataFiles, *, seed: int, batch_size: int
) -> dict[str, Any]:
    """Forecast and score one task.

    Parameters
    ----------
    pipeline
        Of `flowrank.load`.
    settings
        Of the task.
    files
        Its data.
    seed
        For models that sample.
    batch_size
        Series in one pass.

    Returns
    -------
    dict
        ``metric`` (its name), ``error`` (lower is better), ``forecasts`` (their number), ``seconds``.
    """
    import fev

    first = files.files[0]
    path = first if len(files.files) == 1 else first.parent / "*.parquet"
    name = settings.get("task_name") or settings["dataset_config"] or files.name
    task = fev.Task(**settings | {"dataset_path": str(path), "dataset_config": None, "task_name": name})
    task.load_full_dataset(num_proc=1)  # else one process a core, for each task
    began = time.perf_counter()
    with seeded(pipeline, seed) as options:
        predictions, _ = pipeline.predict_fev(task, batch_size=batch_size, **options)
    summary = task.evaluation_summary(predictions, model_name="model")
    metric = task.eval_metric
    return {
        "metric": str(metric["name"] if isinstance(metric, dict) else metric),
        "error": float(summary["test_error"]),
        "forecasts": int(summary["num_forecasts"]),
        "seconds": round(time.perf_counter() - began, 3),
    }
