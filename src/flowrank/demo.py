"""The whole chain on the embedded model and on real series that ship with statsmodels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from flowrank.analysis import analyze
from flowrank.benchmarking import benchmark
from flowrank.compression import Budget, JointHeads, WeightSVD, compress, rank_table
from flowrank.errors import FlowrankError
from flowrank.evaluation import Backtest, evaluate, relative_scores
from flowrank.family import DEFAULT
from flowrank.files import atomic_folder, refuse_existing
from flowrank.forecasting import forecast
from flowrank.pipelines import load
from flowrank.report import write_report

RATIO = 0.25
"""Kept attention parameters in the demo."""

HORIZONS = {"sunspots": 11, "co2": 52, "elnino": 12, "nile": 10, "macrodata": 8}
"""Data sets of statsmodels and how far ahead each is forecast."""

ROLLS = 4

FILES = ("model", "series.csv", "scores.csv", "*.parquet", "*.json", "report.*")
"""Names of what the demo leaves in its folder."""


def demo_series() -> pd.DataFrame:
    """Real series from statsmodels in long format: item_id, timestamp, target, dataset.

    Raises
    ------
    FlowrankError
        If statsmodels is not installed.

    Examples
    --------
    >>> sorted(demo_series()["dataset"].unique())
    ['co2', 'elnino', 'macrodata', 'nile', 'sunspots']
    """
    try:
        from statsmodels import datasets
    except ImportError as error:
        raise FlowrankError(
            "demo", expected="statsmodels", found="no such package", todo='pip install "flowrank[demo]"'
        ) from error
    frames = []

    def add(dataset: str, item: str, values: pd.Series) -> None:
        column = values.astype(float).to_numpy()
        frame = {"item_id": item, "timestamp": values.index, "target": column, "dataset": dataset}
        frames.append(pd.DataFrame(frame))

    def yearly(frame: pd.DataFrame, column: str) -> pd.Series:
        years = pd.to_datetime(frame["YEAR" if "YEAR" in frame else "year"].astype(int).astype(str))
        return pd.Series(frame[column].to_numpy(), index=pd.DatetimeIndex(years))

    add("sunspots", "sunspots", yearly(datasets.sunspots.load_pandas().data, "SUNACTIVITY"))
    add("nile", "nile", yearly(datasets.nile.load_pandas().data, "volume"))
    add("co2", "co2", datasets.co2.load_pandas().data["co2"])
    elnino = datasets.elnino.load_pandas().data.set_index("YEAR").stack()
    months = pd.date_range(f"{int(elnino.index[0][0])}-01-01", periods=len(elnino), freq="MS")
    add("elnino", "sea surface temperature", pd.Series(elnino.to_numpy(), index=months))
    macro = datasets.macrodata.load_pandas().data
    quarters = pd.date_range("1959-01-01", periods=len(macro), freq="QS")
    for name in ("realgdp", "realcons", "realinv", "realgovt", "cpi", "m1", "tbilrate", "unemp"):
        add("macrodata", name, pd.Series(macro[name].to_numpy(), index=quarters))
    return pd.concat(frames, ignore_index=True)


def run(
    output: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Analyze, compress, evaluate, benchmark, forecast and report; leave all of it in one folder.

    Raises
    ------
    FlowrankError
        If ``output`` exists and ``overwrite`` is false, or statsmodels is missing.
    """
    refuse_existing(output, overwrite=overwrite, argument="--output", kind="folder", owned=FILES)
    series = demo_series()
    with atomic_folder(output, overwrite=overwrite, argument="--output", owned=FILES) as folder:
        _chain(folder, series, seed, progress, say)
        write_report(folder)
    say(f"\nAll of it lies in {Path(output)}:")
    for path in sorted(Path(output).iterdir()):
        say(f"  {path.name}{'/' if path.is_dir() else ''}")
    say(f"\nOpen {Path(output) / 'report.html'}")
    return Path(output)


def _chain(folder: Path, series: pd.DataFrame, seed: int, progress: bool, say: Callable[[str], None]) -> None:
    long = series.drop(columns="dataset")
    long.to_csv(folder / "series.csv", index=False)
    parent = load(DEFAULT)

    say(f"1/6  analyze {DEFAULT}")
    analyze(parent, seed=seed, progress=progress).write_into(folder)

    say(f"2/6  compress its attention to {RATIO:.0%}, calibrated on synthetic series")
    child = compress(parent, JointHeads(Budget(RATIO)), seed=seed, progress=progress)
    child.save_pretrained(folder / "model")
    (folder / "recipe.json").write_text(json.dumps(child.recipe, indent=2) + "\n", encoding="utf-8")
    rank_table(child).to_parquet(folder / "ranks.parquet", index=False)
    blind = compress(parent, WeightSVD(Budget(RATIO)), seed=seed, progress=progress)

    say("3/6  evaluate on rolling backtests of real series")
    models = {
        "seasonal-naive": "seasonal-naive",
        DEFAULT: parent,
        "compressed": child,
        "weight SVD, same size": blind,
    }
    datasets = {str(name): group.drop(columns="dataset") for name, group in series.groupby("dataset", sort=False)}
    backtests = [Backtest(name, -ROLLS * h, h, ROLLS) for name, h in HORIZONS.items()]
    scores = evaluate(models, datasets, backtests, seed=seed, progress=progress)
    scores.to_csv(folder / "scores.csv", index=False)
    for row in relative_scores(scores, baseline=DEFAULT).itertuples():
        say(f"       {row.model:24} MASE {row.MASE:.3f}  WQL {row.WQL:.3f}   (relative to {DEFAULT})")

    say("4/6  benchmark against the parent under chronos-forecasting's own code")
    result = benchmark(child, load(DEFAULT, engine="stock"), seed=seed)
    result["models"]["parent"]["name"], result["models"]["child"]["name"] = DEFAULT, "compressed"
    (folder / "bench.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    latency = result["ratio"]["latency"]
    say(f"       latency ratio {latency['median']:.2f} ({latency['min']:.2f} … {latency['max']:.2f})")

    say("5/6  forecast the end of each series with the compressed model")
    histories, forecasts = [], []
    for name, group in datasets.items():
        one = group[group["item_id"] == group["item_id"].iloc[0]]
        histories.append(one.tail(8 * HORIZONS[name]))
        past = one.iloc[: -HORIZONS[name]]
        forecasts.append(forecast(child, past, horizon=HORIZONS[name], seed=seed))
    pd.concat(histories, ignore_index=True).to_parquet(folder / "history.parquet", index=False)
    pd.concat(forecasts, ignore_index=True).to_parquet(folder / "forecasts.parquet", index=False)

    say("6/6  report")
