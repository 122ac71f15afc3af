"""What a proof says: its result in words, scores of fev tasks, and all that identifies the run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from flowrank.report.accuracy import Roles
from flowrank.report.tables import Column, Section, Table, show

_PLACES = ("result", "data", "fev", "search", "timing", "corrections")  # told elsewhere, or long


def outcome(proof: dict[str, Any] | None) -> Section | None:
    """The result of a proof, and what identifies it; None where there is none.

    Parameters
    ----------
    proof
        The content of ``proof.json``.
    """
    if proof is None:
        return None
    rows = [
        {"key": key, "value": value}
        for name, entry in proof.items()
        if name not in _PLACES
        for key, value in flat(name, entry)
    ]
    tables = [
        Table("proof", "What identifies this run", [Column("key", "what"), Column("value", "value")], rows, folded=True)
    ]
    if files := list(_files(proof)):
        columns = [Column(key, label) for key, label in _FILE_COLUMNS]
        tables.append(Table("proof_data", "Data files", columns, files, folded=True))
    return Section("proof", "What this shows", _words(proof.get("result", {})), tables=tables)


_FILE_COLUMNS = (
    ("dataset", "data set or task"),
    ("repo", "repository"),
    ("revision", "commit"),
    ("file", "file"),
    ("sha256", "sha256"),
)


def _files(proof: dict[str, Any]) -> Any:
    tasks = {name: task.get("data", {}) for name, task in (proof.get("fev") or {}).items()}
    for dataset, data in {**proof.get("data", {}), **tasks}.items():
        for file, digest in data.get("files", {}).items():
            yield {
                "dataset": dataset,
                "repo": data.get("repo"),
                "revision": data.get("revision"),
                "file": file,
                "sha256": digest,
            }


def _words(result: dict[str, Any]) -> str:
    kept, loss = (result.get(key) for key in ("parameters_kept", "WQL"))
    if kept is None or loss is None:
        return "A model and its compressed child, on the same data."
    count = result.get("datasets", 0)
    said = f"The compressed model keeps {show(kept, 'percent')} of the parameters. On {count} dataset"
    said += f"{'s' * (count != 1)} of Chronos benchmark II its WQL is {show(loss, 'ratio')} and its MASE "
    said += f"{show(result.get('MASE'), 'ratio')} of the original's (geometric means; above 1 is worse)."
    if "latency" in result:
        said += f" A forecast takes {show(result['latency'].get('median'), 'ratio')} of the time."
    asked = result.get("tolerance")
    if asked:
        limit = f"{100 * asked['max_loss']:g}% of {asked['metric']}"
        held = "is" if asked["held_on_benchmark"] else "is not"
        said += f" The search kept to a tolerance of {limit} on synthetic series; on this benchmark it {held} met."
    return said


def fev_tasks(scores: pd.DataFrame | None, who: Roles) -> Section | None:
    """Errors of parent and child on every fev task.

    Parameters
    ----------
    scores
        The columns of ``fev.csv``: task, model, metric, error (lower is better).
    who
        Which model is the parent and which the child.
    """
    if scores is None:
        return None
    metrics = scores.groupby("task", sort=False)["metric"].first()
    wide = scores.pivot(index="task", columns="model", values="error").loc[metrics.index]
    models = list(scores["model"].unique())
    columns = [Column("task", "task"), Column("metric", "metric"), *(Column(m, m, "number") for m in models)]
    rows = [
        {"task": task, "metric": metrics[task], **{m: float(wide.loc[task, m]) for m in models}} for task in wide.index
    ]
    lead = f"{len(rows)} tasks of fev, each with its own metric; lower is better."
    if who.parent in models and who.child in models:
        columns.append(Column("ratio", "compressed / parent", "ratio"))
        for row in rows:
            row["ratio"] = row[who.child] / row[who.parent] if row[who.parent] > 0 else None
        known = [row["ratio"] for row in rows if row["ratio"]]
        if known:
            mean = show(float(np.exp(np.mean(np.log(known)))), "ratio")
            lead += f" The compressed model's error is {mean} of the original's (geometric mean)."
    return Section("fev", "Scores on fev tasks", lead, tables=[Table("fev", "Error of every task", columns, rows)])


def flat(key: str, value: Any) -> list[tuple[str, str]]:
    """Nested records as (path, text) pairs.

    Examples
    --------
    >>> flat("model", {"name": "m", "size": 3})
    [('model · name', 'm'), ('model · size', '3')]
    """
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in flat(f"{key} · {k}", v)]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return [(key, text)]
