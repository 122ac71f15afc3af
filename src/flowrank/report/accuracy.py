"""Accuracy against seasonal naive and against the parent: geometric means of ratios, dataset by dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.report.folder import Findings

NAIVE = "seasonal-naive"
METRICS = ("WQL", "MASE")


@dataclass(frozen=True)
class Roles:
    """Names in the scores of the uncompressed and of the compressed model; None where unknown."""

    parent: str | None
    child: str | None


def roles(findings: Findings) -> Roles:
    """Find out which model is the parent of which, from the recipe, the benchmark and the scores.

    Names match if they are equal or end in the same folder name. Of a single unnamed model compared with the parent
    it is safe to say that it is the child; of several it is not.
    """
    names = [] if findings.scores is None else [m for m in findings.scores["model"].unique() if m != NAIVE]
    bench = (findings.bench or {}).get("models", {})
    parent = _match([(findings.recipe or {}).get("parent", {}).get("name"), _name(bench, "parent")], names)
    others = [name for name in names if name != parent]
    child = _match([_name(bench, "child")], others)
    if child is None and parent is not None and len(others) == 1:
        child = others[0]
    return Roles(parent, child)


def _name(bench: dict[str, Any], role: str) -> str | None:
    return bench.get(role, {}).get("name")


def _match(wanted: Iterable[str | None], names: list[str]) -> str | None:
    for want in filter(None, wanted):
        for same in (
            lambda name, want=want: name == want,
            lambda name, want=want: _last(name) == _last(want),
        ):
            matches = [name for name in names if same(name)]
            if len(matches) == 1:
                return matches[0]
    return None


def _last(name: str) -> str:
    return PurePath(name).name


def by_dataset(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Scores of one metric, one row a dataset and one column a model, in the order of the file.

    Raises
    ------
    FlowrankError
        If a model has two scores on one dataset.
    """
    twice = scores[scores.duplicated(["dataset", "model"])]
    if len(twice):
        row = twice.iloc[0]
        raise FlowrankError(
            "scores.csv",
            expected="one row a dataset and model",
            found=f"several for {row['dataset']!r} and {row['model']!r}",
            todo="remove the duplicates",
        )
    wide = scores.pivot(index="dataset", columns="model", values=metric)
    return wide.loc[scores["dataset"].unique(), scores["model"].unique()].astype(float)


def relative(wide: pd.DataFrame, model: str, reference: str | None) -> tuple[float | None, int]:
    """Geometric mean of ``model`` over ``reference``, and over how many datasets.

    A dataset counts where both scores are finite and positive.

    Examples
    --------
    >>> wide = pd.DataFrame({"a": [1.0, 8.0], "b": [2.0, 4.0]}, index=["x", "y"])
    >>> relative(wide, "a", "b")
    (1.0, 2)
    """
    if reference is None or reference not in wide or model not in wide:
        return None, 0
    pair = wide[[model, reference]].to_numpy()
    pair = pair[(np.isfinite(pair) & (pair > 0)).all(axis=1)]
    if not len(pair):
        return None, 0
    return float(np.exp(np.mean(np.log(pair[:, 0] / pair[:, 1])))), len(pair)


def summary(scores: pd.DataFrame, who: Roles) -> list[dict[str, Any]]:
    """One row a model: its relative scores against seasonal naive and against the parent."""
    wide = {metric: by_dataset(scores, metric) for metric in METRICS}
    rows = []
    for model in wide["WQL"].columns:
        row: dict[str, Any] = {"model": model, "datasets": int(wide["WQL"][model].notna().sum())}
        for metric in METRICS:
            row[f"{metric}_naive"], _ = relative(wide[metric], model, NAIVE)
            row[f"{metric}_parent"] = None if model == NAIVE else relative(wide[metric], model, who.parent)[0]
        rows.append(row)
    return rows
