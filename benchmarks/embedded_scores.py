"""What a model is worth: scores next to published ones, whether its attention matters, whether it knows seasons.

python benchmarks/embedded_scores.py MODEL ... --data FOLDER --backtests backtests.csv --published published_scores.csv

The data sets of the zero-shot suite only. Scores are relative to seasonal naive, geometric mean.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
from scipy.stats import gmean

import flowrank
from flowrank.evaluation import datasets_in, read_backtests
from flowrank.family import anatomy_of
from flowrank.pretraining import seasonal_probe
from shared import without_attention

PUBLISHED = ("chronos-t5-tiny", "chronos-bolt-tiny")
METRICS = ["MASE", "WQL"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("FLOWRANK_DATA")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, default=data, required=data is None)
    parser.add_argument("--backtests", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--max-series", type=int, help="of each data set; default: all, as the published scores")
    arguments = parser.parse_args()
    backtests = [one for one in read_backtests(arguments.backtests) if one.suite == "zero-shot"]
    suite = {one.dataset for one in backtests}
    datasets = {name: path for name, path in datasets_in(arguments.data).items() if name in suite}

    def scored(model: object) -> pd.DataFrame:
        scores = flowrank.evaluate({"m": model}, datasets, backtests, max_series=arguments.max_series)
        return scores.set_index("dataset")[METRICS]

    naive = scored("seasonal-naive")
    published = pd.read_csv(arguments.published).query("dataset in @datasets").set_index(["model", "dataset"])[METRICS]
    relative = {
        name: published.loc[name].loc[naive.index] / published.loc["seasonal-naive"].loc[naive.index]
        for name in PUBLISHED
    }
    for name in arguments.models:
        pipeline = flowrank.load(name)
        probe = seasonal_probe(pipeline)
        print(f"{name}: seasonal probe " + ", ".join(f"{period}: {error:.3f}" for period, error in probe.items()))
        scores = scored(pipeline)
        relative[name] = scores / naive
        zeroed = gmean(scored(without_attention(name)) / scores)
        print(f"{name}: all attention zeroed: MASE × {zeroed[0]:.3f}, WQL × {zeroed[1]:.3f}", flush=True)
        kinds = {layer.kind for layer in anatomy_of(pipeline.inner_model).attention}
        for kind in sorted(kinds) if "group" in kinds else ():
            apart = gmean(scored(without_attention(name, kind)) / scores)
            print(f"{name}: {kind} attention zeroed: MASE × {apart[0]:.3f}, WQL × {apart[1]:.3f}", flush=True)
    for metric in METRICS:
        table = pd.DataFrame({name: frame[metric] for name, frame in relative.items()})
        table.loc["geometric mean"] = gmean(table)
        print(
            f"\n{metric} relative to seasonal naive, {len(datasets)} zero-shot data sets\n{table.round(4).to_string()}"
        )


if __name__ == "__main__":
    main()
