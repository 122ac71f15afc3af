"""What several benchmarks need: scores on the data sets, attention switched off, rows that are not computed twice."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import gmean

import flowrank
from flowrank.errors import FlowrankError
from flowrank.evaluation import datasets_in, read_backtests
from flowrank.family import anatomy_of, tensor_digest
from flowrank.files import atomic_file

METRICS = ["WQL", "MASE"]


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data sets are and how they are scored."""
    data = os.environ.get("FLOWRANK_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None)
    parser.add_argument("--backtests", type=Path, required=True)
    parser.add_argument("--max-series", type=int, help="of each data set; default: all, as the published scores")


class Scores:
    """WQL and MASE on data sets.

    Parameters
    ----------
    data, backtests
        Folder with the data sets, and the file that says how they are cut.
    most
        Series of each data set, from its beginning; None: all.
    seeds
        Of the sample paths; scores are means over them. More than one has an effect on models that sample only.
    names
        Data sets; None: all.
    """

    def __init__(
        self,
        data: Path,
        backtests: Path,
        most: int | None = None,
        *,
        seeds: Sequence[int] = (0,),
        names: Sequence[str] | None = None,
    ) -> None:
        found = datasets_in(data)
        if missing := sorted(set(names or ()) - set(found)):
            raise FlowrankError("data sets", expected=f"some of {', '.join(found)}", found=", ".join(missing))
        self.datasets = {name: path for name, path in found.items() if names is None or name in names}
        self.backtests = {one.dataset: one for one in read_backtests(backtests) if one.dataset in self.datasets}
        self.most, self.seeds = most, tuple(seeds)

    def of(self, pipeline: Any, seeds: Sequence[int] | None = None) -> pd.DataFrame:
        """Scores, one row a data set; of other seeds if they are given."""
        found = []
        for seed in self.seeds if seeds is None else seeds:
            scores = flowrank.evaluate({"m": pipeline}, self.datasets, self.backtests, max_series=self.most, seed=seed)
            found.append(scores.set_index("dataset")[METRICS])
        return sum(found[1:], found[0]) / len(found)


def relative(scores: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """Geometric means over the data sets of scores over those of another model.

    A data set on which the other has no score, or 0, is left out: all values of the series taken may be 0.
    """
    known = {name: base.index[base[name] > 0] for name in METRICS}
    return {name: float(gmean(scores[name][some] / base[name][some])) for name, some in known.items()}


def without_attention(model: str, *kinds: str) -> Any:
    """The model with the outputs of all attention, or of some kinds ("self", "cross", "group"), zeroed."""
    pipeline = flowrank.load(model)
    with torch.no_grad():
        for layer in anatomy_of(pipeline.inner_model).attention:
            if not kinds or layer.kind in kinds:
                layer.output.module.weight.zero_()
    return pipeline


def identity(name: str, pipeline: Any) -> dict[str, Any]:
    """What tells a model from others: its name, without folders, its size and a digest of its weights."""
    model = pipeline.inner_model
    return {"model": Path(name).name, "parameters": model.num_parameters(), "sha256": tensor_digest(model)}


class Rows:
    """Rows of one benchmark in a JSON file; a row that is there is not computed again.

    Parameters
    ----------
    path
        The file, which `tables.py` reads; None: rows are kept in memory alone.
    what
        What all rows depend on. A file that says otherwise is refused.
    """

    def __init__(self, path: Path | None, what: dict[str, Any]) -> None:
        self.path, self.what = path, json.loads(json.dumps(what))
        self.known: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            differ = [
                f"{name} {found['what'].get(name)!r}"
                for name in self.what
                if found["what"].get(name) != self.what[name]
            ]
            if differ:
                raise FlowrankError(
                    "output",
                    expected="a file of the same model and options, or none",
                    found=f"one with {'; '.join(differ)}",
                    todo="choose another file, or delete this one",
                )
            self.known = {row["key"]: row for row in found["rows"]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.known.values())

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.known[key]

    def row(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a key, which is computed and written if it is not there."""
        if key not in self.known:
            self.put(key, compute())
            print(told(self.known[key]), flush=True)
        return self.known[key]

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Write a row, in the place of an earlier one of its key."""
        self.known[key] = json.loads(json.dumps({"key": key, **row}))
        if self.path is not None:
            text = json.dumps({"what": self.what, "rows": list(self)}, indent=1, ensure_ascii=False)
            with atomic_file(self.path, overwrite=True) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")


def told(row: dict[str, Any]) -> str:
    """A row as a line of text, without what is nested in it."""
    parts = [row["key"]]
    for name, value in row.items():
        if isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        elif isinstance(value, list) and len(value) == 3:
            parts.append("{} {:.4g} ({:.4g} … {:.4g})".format(name, *value))
    return "  ".join(parts)
