"""Tables of a proof's scores, and its result in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowrank.compression import Budget
from flowrank.evaluation import SEASONAL_NAIVE, relative_scores
from flowrank.files import atomic_file
from flowrank.proof.record import write_json
from flowrank.search import Tolerance

SCORES = ("dataset", "model", "MASE", "WQL", "suite", "series", "seconds")
FEV = ("task", "model", "metric", "error", "forecasts", "seconds")

Line = Mapping[str, Any]


def table_of(lines: Sequence[Line], step: str, columns: Sequence[str]) -> pd.DataFrame:
    """Finished steps of a kind as a table; a score that is not finite is NaN.

    Examples
    --------
    >>> table_of([{"step": "fev", "task": "a", "error": None}], "fev", ["task", "error"])["error"].isna().tolist()
    [True]
    """
    rows = [{name: line.get(name) for name in columns} for line in lines if line["step"] == step]
    table = pd.DataFrame(rows, columns=list(columns))
    numbers = [name for name in columns if name in ("MASE", "WQL", "error", "seconds")]
    return table.astype(dict.fromkeys(numbers, float))


def write_tables(folder: Path, lines: Sequence[Line]) -> None:
    """Write ``scores.csv`` and ``scores.json``, and ``fev.csv`` if there are scores of fev tasks."""
    scores, tasks = table_of(lines, "score", SCORES), table_of(lines, "fev", FEV)
    left_out = {line["dataset"]: line["left_out"] for line in lines if line["step"] == "score" and line["left_out"]}
    write_json(folder / "scores.json", {"rows": scores.to_dict("records"), "series_left_out": left_out})
    for name, table in (("scores.csv", scores), ("fev.csv", tasks)):
        if len(table):
            with atomic_file(folder / name, overwrite=True) as temporary:
                table.to_csv(temporary, index=False)


def summary(lines: Sequence[Line], parent: str, child: str, goal: Tolerance | Budget) -> dict[str, Any]:
    """The result of a proof.

    Parameters
    ----------
    lines
        All finished steps.
    parent, child
        Names of the models in them.
    goal
        What was asked for.

    Returns
    -------
    dict
        ``parameters_kept``, ``WQL`` and ``MASE`` (child over parent, geometric mean over ``datasets`` data sets),
        ``datasets_left_out`` (those without a usable score, and why), ``series_left_out`` (their number),
        ``over_seasonal_naive`` (both models), ``latency`` (child over parent, ``min``, ``median`` and ``max`` over
        pairs), ``fev`` and ``tolerance``, where there are such.

    Examples
    --------
    >>> lines = [{"step": "compress", "parameters": {"parent": 100, "child": 40}}]
    >>> lines += [{"step": "score", "dataset": "a", "model": m, "WQL": w, "MASE": w, "left_out": []}
    ...           for m, w in (("seasonal-naive", 2.0), ("big", 1.0), ("small", 1.25))]
    >>> found = summary(lines, "big", "small", Tolerance(0.2))
    >>> found["parameters_kept"], found["WQL"], found["tolerance"]["held_on_benchmark"]
    (0.4, 1.25, False)
    """
    counts = _line(lines, "compress")["parameters"]
    scores = table_of(lines, "score", SCORES)
    own = relative_scores(scores, baseline=parent).set_index("model")
    naive = relative_scores(scores, baseline=SEASONAL_NAIVE).set_index("model")
    found: dict[str, Any] = {
        "parameters": {"parent": counts["parent"], "child": counts["child"]},
        "parameters_kept": counts["child"] / counts["parent"],
        "WQL": float(own.loc[child, "WQL"]),
        "MASE": float(own.loc[child, "MASE"]),
        "datasets": int(own.loc[child, "datasets"]),
        "datasets_left_out": str(own.loc[child, "left_out"]),
        "series_left_out": sum(len(line["left_out"]) for line in lines if line.get("model") == child and "WQL" in line),
        "over_seasonal_naive": {
            role: {metric: float(naive.loc[name, metric]) for metric in ("WQL", "MASE")}
            for role, name in (("parent", parent), ("child", child))
        },
    }
    if timed := _line(lines, "time"):
        found["latency"] = timed["bench"]["ratio"]["latency"]
    if fev := _fev(table_of(lines, "fev", FEV), parent, child):
        found["fev"] = fev
    if isinstance(goal, Tolerance):
        loss = found[goal.metric] - 1
        within = bool(loss <= goal.max_loss)
        found["tolerance"] = {"max_loss": goal.max_loss, "metric": goal.metric, "held_on_benchmark": within}
    return found


def _line(lines: Sequence[Line], step: str) -> Any:
    return next((line for line in lines if line["step"] == step), {})


def _fev(tasks: pd.DataFrame, parent: str, child: str) -> dict[str, Any] | None:
    """Geometric mean over the tasks of the child's error over the parent's."""
    if tasks.empty:
        return None
    wide = tasks.pivot(index="task", columns="model", values="error")
    usable = wide[(wide[[parent, child]] > 0).all(axis=1)]
    ratio = float(np.exp(np.mean(np.log(usable[child] / usable[parent])))) if len(usable) else None
    return {"error": ratio, "tasks": len(usable), "tasks_left_out": sorted(set(wide.index) - set(usable.index))}
