"""Scores of models relative to a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.evaluation.scoring import SEASONAL_NAIVE


def relative_scores(scores: pd.DataFrame, baseline: str = SEASONAL_NAIVE) -> pd.DataFrame:
    """Return each model's geometric mean over the data sets of its scores divided by the baseline's.

    Parameters
    ----------
    scores
        Long frame of `evaluate`: ``dataset``, ``model``, ``MASE``, ``WQL``.
    baseline
        Name of the model to compare with.

    Returns
    -------
    pd.DataFrame
        One row a model: ``model``, ``MASE``, ``WQL``, ``datasets`` (how many entered both), ``left_out``
        (the data sets and metrics that could not enter, with the reason; empty if none).

    Raises
    ------
    FlowrankError
        If columns or the baseline are missing, or a model has two rows for a data set.

    Examples
    --------
    >>> scores = pd.DataFrame({"dataset": ["a", "a", "b", "b"], "model": ["m", "seasonal-naive"] * 2,
    ...                        "MASE": [1.0, 2.0, 4.0, 2.0], "WQL": [0.1, 0.4, 0.4, 0.4]})
    >>> relative_scores(scores)[["model", "MASE", "WQL"]]
                model  MASE  WQL
    0               m   1.0  0.5
    1  seasonal-naive   1.0  1.0
    """
    missing = [name for name in ("dataset", "model", "MASE", "WQL") if name not in scores.columns]
    if missing:
        raise FlowrankError(
            "scores",
            expected="columns dataset, model, MASE, WQL",
            found=f"columns: {', '.join(map(str, scores.columns))}",
        )
    names = list(dict.fromkeys(scores["model"]))
    if baseline not in names:
        raise FlowrankError("baseline", expected="a model in the scores", found=repr(baseline), todo=f"have {names}")
    repeated = scores.duplicated(["dataset", "model"])
    if repeated.any():
        row = scores[repeated].iloc[0]
        raise FlowrankError(
            "scores",
            expected="one row a data set and model",
            found=f"{row['model']!r} on {row['dataset']!r} again",
        )
    datasets = list(dict.fromkeys(scores["dataset"]))
    tables = {metric: scores.pivot(index="dataset", columns="model", values=metric) for metric in ("MASE", "WQL")}
    return pd.DataFrame([_relative(name, baseline, datasets, tables) for name in names])


def _relative(name: str, baseline: str, datasets: list[str], tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    left_out: list[str] = []
    dropped: set[str] = set()
    row: dict[str, Any] = {"model": name}
    for metric, table in tables.items():
        logs = []
        for dataset in datasets:
            own, reference = float(table[name][dataset]), float(table[baseline][dataset])
            faults = [
                f"{who} {value:g}" for who, value in ((name, own), (baseline, reference)) if not 0 < value < np.inf
            ]
            if faults:
                left_out.append(f"{dataset} {metric} ({faults[0]})")
                dropped.add(dataset)
            else:
                logs.append(np.log(own / reference))
        row[metric] = float(np.exp(np.mean(logs))) if logs else float("nan")
    return {**row, "datasets": len(datasets) - len(dropped), "left_out": "; ".join(left_out)}
