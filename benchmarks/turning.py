"""Queries and keys that turn, at equal parameters: planes dropped, slow ones merged, two factors, the budget's choice.

python benchmarks/turning.py MODEL --data FOLDER --backtests backtests.csv [--series 40] --output turning.json

Only W_Q and W_K of attention over time change, no reconstruction. Loss: expected quantile loss over the parent's on
held-out synthetic series and tasks (a search's backtest). WQL: geometric mean over the data sets, over the model's own.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from scipy.stats import gmean

import flowrank
from flowrank.compression.allocation import spend
from flowrank.compression.children import child_of
from flowrank.compression.coverage import covered
from flowrank.compression.factorize import HeadComponents
from flowrank.compression.turned import turning_group
from flowrank.evaluation import datasets_in, read_backtests
from flowrank.family import family_of
from flowrank.measure import head_moments, rank_losses
from flowrank.search.backtester import Backtester
from shared import without_attention

KINDS = {
    "planes dropped": ("planes",),
    "slow planes merged": ("merged",),
    "two factors": ("factors",),
    "budget's choice": ("planes", "merged", "factors"),
}
SHARES = (0.75, 0.5, 0.25, 0.125)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("FLOWRANK_DATA")
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=data, required=data is None)
    parser.add_argument("--backtests", type=Path, required=True)
    parser.add_argument("--series", type=int, default=40, help="of each data set")
    parser.add_argument("--calibration-series", type=int, default=512)
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    parent = flowrank.load(settings.model)
    family = family_of(parent).private()
    backtests = read_backtests(settings.backtests)
    datasets = {
        name: path for name, path in datasets_in(settings.data).items() if name in {one.dataset for one in backtests}
    }

    def wql(pipeline):
        scores = flowrank.evaluate({"m": pipeline}, datasets, backtests, max_series=settings.series)
        return scores.set_index("dataset")["WQL"]

    method = flowrank.JointHeads(flowrank.Budget(0.5))
    contexts = covered(method, family, None, count=settings.calibration_series, points=512, seed=0).contexts
    heads = HeadComponents(family, head_moments(family, contexts, seed=0))
    rank_losses(family, contexts, heads.bases, turning=heads.turning, seed=1)
    backtester = Backtester(parent, count=512)
    own = wql(parent)
    whole = parent.inner_model.num_parameters()
    rows = []
    for share in SHARES:
        for name, kinds in KINDS.items():
            child, parameters = made(parent, heads, share, kinds, apart=name.startswith("budget"))
            row = {
                "queries and keys kept": share,
                "how": name,
                "parameters": parameters,
                "loss": round(1 + backtester.compare(child).loss, 4),
                "WQL": round(float(gmean(wql(child) / own)), 4),
            }
            rows.append(row)
            print(row, flush=True)
    if settings.output is not None:
        what = {
            "model": Path(settings.model).name,
            "parameters": whole,
            "calibration series": len(contexts),
            "data sets": sorted(datasets),
            "series of each": settings.series,
            "zeroed": zeroed(parent, wql, own),
        }
        text = json.dumps({"what": what, "rows": rows}, indent=1, ensure_ascii=False)
        settings.output.write_text(text + "\n", encoding="utf-8")


def made(parent, heads, share, kinds, *, apart):
    """The model whose turning queries and keys keep a share of their parameters, the same in each layer or not."""
    model = family_of(parent)
    groups, losses = [], {}
    for name, turning in heads.turning.items():
        losses[name] = turning.table(1, kinds)
        groups.append(turning_group(turning, range(turning.site.heads), losses[name]))
    if apart:
        kept = spend(share * sum(group.cost * group.size for group in groups), groups)
    else:
        kept = [torch.arange(int(share * group.size)) for group in groups]
    others = [one for one in heads.groups(None) if one.part != "QK" or one.site.name not in heads.turning]
    everything = [torch.arange(one.size) for one in others]
    plan = heads.plan([*groups, *others], [*kept, *everything])
    child = child_of(model.model, plan)
    return model.pipeline_of(child), child.num_parameters()


def zeroed(parent, wql, own) -> dict[str, float]:
    """WQL over the model's own when attention over time, or over a group, adds nothing."""
    kinds = ("self", "group")
    return {kind: round(float(gmean(wql(without_attention(parent.name, kind)) / own)), 3) for kind in kinds}


if __name__ == "__main__":
    main()
