"""The whole chain on the embedded model and real series, once, and what it leaves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

import flowrank
from flowrank import FlowrankError
from flowrank.demo import HORIZONS, RATIO, demo_series, run
from flowrank.family import DEFAULT, tensor_digest
from tests.test_files import tree

LEVELS = [f"0.{i}" for i in range(1, 10)]


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of one run, shared by all workers, and the lines that it printed."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base
    folder, log = base / "demo", base / "demo.log"
    with FileLock(base / "demo.lock"):
        if not log.exists():
            lines: list[str] = []
            assert run(folder, progress=False, say=lines.append) == folder
            log.write_text("\n".join(lines), encoding="utf-8")
    return folder, log.read_text(encoding="utf-8")


class TestSeries:
    """Against the numbers that the data sets are known for."""

    @pytest.fixture(scope="class")
    def series(self):
        return demo_series()

    def one(self, series, item_id):
        return series[series["item_id"] == item_id].set_index("timestamp")["target"]

    def test_layout(self, series):
        assert list(series) == ["item_id", "timestamp", "target", "dataset"]
        assert set(series["dataset"]) == set(HORIZONS)
        assert series.groupby("dataset")["item_id"].nunique().to_dict() == {
            **dict.fromkeys(HORIZONS, 1),
            "macrodata": 8,
        }
        assert not series.duplicated(["item_id", "timestamp"]).any()

    def test_known_values(self, series):
        nile = self.one(series, "nile")
        assert len(nile) == 100
        assert nile[pd.Timestamp("1871-01-01")] == 1120
        assert nile[pd.Timestamp("1970-01-01")] == 740
        sunspots = self.one(series, "sunspots")
        assert sunspots[pd.Timestamp("1700-01-01")] == 5
        assert sunspots[pd.Timestamp("2008-01-01")] == 2.9
        co2 = self.one(series, "co2")
        assert co2.index[0] == pd.Timestamp("1958-03-29")
        assert co2.iloc[0] == 316.1
        assert co2.isna().sum() == 59
        gdp = self.one(series, "realgdp")
        assert gdp[pd.Timestamp("1959-01-01")] == 2710.349
        assert gdp.index[-1] == pd.Timestamp("2009-07-01")
        sea = self.one(series, "sea surface temperature")
        assert sea[pd.Timestamp("1950-01-01")] == 23.11
        assert sea.groupby(sea.index.month).mean().idxmax() == 3  # warmest off Peru in March

    def test_every_series_is_regular(self, series):
        frequencies = {item.item_id: item.freq for item in flowrank.read_series(series.drop(columns="dataset"))}
        assert frequencies["co2"] == "W-SAT"
        assert frequencies["nile"] == "YS-JAN"
        assert frequencies["sea surface temperature"] == "MS"
        assert frequencies["unemp"].startswith("QS")

    def test_without_statsmodels_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "statsmodels", None)
        with pytest.raises(FlowrankError, match=r'pip install "flowrank\[demo\]"'):
            demo_series()


def test_everything_lies_in_the_folder_and_is_named(demo):
    folder, log = demo
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(
            "analysis.json",
            "bench.json",
            "bounds.parquet",
            "forecasts.parquet",
            "history.parquet",
            "model",
            "positions.parquet",
            "rank_profile.parquet",
        ),
        *("ranks.parquet", "recipe.json", "report.html", "report.json", "report.md", "scores.csv", "series.csv"),
        "spectra.parquet",
    }
    assert all(f"  {name}" in log for name in names)
    assert f"Open {folder / 'report.html'}" in log
    assert [line[:3] for line in log.splitlines() if line[1:3] == "/6"] == [f"{i}/6" for i in range(1, 7)]
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".demo")]


def test_no_file_names_the_temporary_folder(demo):
    folder, _ = demo
    for name, content in tree(folder).items():
        assert content is None or b"/.demo." not in content, name


def test_the_model_opens_and_forecasts_in_a_fresh_process(demo, tmp_path):
    folder, _ = demo
    script = f"""
import flowrank, torch, numpy
from chronos import BaseChronosPipeline
torch.set_num_threads({torch.get_num_threads()})
pipeline = BaseChronosPipeline.from_pretrained({str(folder / "model")!r})
numpy.save({str(tmp_path / "there.npy")!r}, pipeline.predict([torch.arange(60.0).sin()], prediction_length=12).numpy())
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    pipeline = flowrank.load(folder / "model")
    here = pipeline.predict([torch.arange(60.0).sin()], prediction_length=12).numpy()
    assert np.array_equal(np.load(tmp_path / "there.npy"), here)
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe == pipeline.recipe
    assert recipe["parent"]["sha256"] == tensor_digest(flowrank.load(DEFAULT).inner_model)
    counts = recipe["parameters"]
    assert 0.9 * RATIO < counts["attention_child"] / counts["attention_parent"] <= RATIO
    attention = pd.read_parquet(folder / "ranks.parquet").query("kind in ('self', 'cross')")
    assert attention["cost"].sum() == counts["attention_child"]


def test_scores_are_what_the_report_says(demo):
    folder, log = demo
    scores = pd.read_csv(folder / "scores.csv")
    models = ["seasonal-naive", DEFAULT, "compressed", "weight SVD, same size"]
    assert scores["model"].drop_duplicates().tolist() == models
    assert scores["dataset"].drop_duplicates().tolist() == list(HORIZONS)
    assert len(scores) == len(models) * len(HORIZONS)
    assert np.isfinite(scores[["MASE", "WQL"]]).all(axis=None)
    relative = flowrank.relative_scores(scores, baseline=DEFAULT).set_index("model")
    for name, row in relative.iterrows():
        line = next(line for line in log.splitlines() if line.strip().startswith(str(name)) and "MASE" in line)
        assert f"MASE {row['MASE']:.3f}" in line
        assert f"WQL {row['WQL']:.3f}" in line
    assert relative.loc["compressed", "WQL"] < relative.loc["weight SVD, same size", "WQL"]

    report = json.loads((folder / "report.json").read_text())

    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [number for part in value for number in numbers(part)]
        return [value] if isinstance(value, float) else []

    known = np.array(numbers(report))
    for score in scores[["MASE", "WQL"]].to_numpy().ravel():
        assert np.isclose(known, score, rtol=1e-9).any(), "a score is not in report.json"


def test_scores_of_the_seasonal_naive_by_hand(demo):
    """Yearly series have a season of one: four cuts, the last value repeated, errors over those before the cut."""
    folder, _ = demo
    series = pd.read_csv(folder / "series.csv")
    values = series.loc[series["item_id"] == "nile", "target"].to_numpy()
    scaled, errors, labels = [], 0.0, 0.0
    for cut in (60, 70, 80, 90):
        error = np.abs(values[cut : cut + 10] - values[cut - 1])
        scaled.append(error.mean() / np.abs(np.diff(values[:cut])).mean())
        errors, labels = errors + error.sum(), labels + values[cut : cut + 10].sum()
    scores = pd.read_csv(folder / "scores.csv").query("dataset == 'nile' and model == 'seasonal-naive'").iloc[0]
    assert math.isclose(scores["MASE"], np.mean(scaled), rel_tol=1e-9)
    assert math.isclose(scores["WQL"], errors / labels, rel_tol=1e-9)


def test_forecasts_continue_the_past_and_meet_the_truth(demo):
    folder, _ = demo
    forecasts, history = (pd.read_parquet(folder / f"{name}.parquet") for name in ("forecasts", "history"))
    sizes = forecasts.groupby("item_id").size()
    assert sorted(sizes) == sorted(HORIZONS.values())
    assert np.isfinite(forecasts[LEVELS]).all(axis=None)
    assert (np.diff(forecasts[LEVELS], axis=1) >= 0).all()
    truth = forecasts.merge(history, on=["item_id", "timestamp"])
    assert len(truth) == len(forecasts)
    inside = (truth["0.1"] <= truth["target"]) & (truth["target"] <= truth["0.9"])
    assert inside.mean() > 0.5


def test_benchmark_names_both_models(demo):
    folder, _ = demo
    bench = json.loads((folder / "bench.json").read_text())
    assert bench["models"]["parent"]["name"] == DEFAULT
    assert bench["models"]["child"]["name"] == "compressed"
    counts = json.loads((folder / "recipe.json").read_text())["parameters"]
    assert bench["models"]["child"]["parameters"] == counts["child"]


def test_the_report_is_one_offline_page(demo):
    folder, _ = demo
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'src="http' not in page
    for words in (DEFAULT, "weight SVD, same size", "sunspots"):
        assert words in page


def test_an_output_that_exists_is_refused_at_once(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("old")
    with pytest.raises(FlowrankError, match=r"--output: .*exists"):
        run(tmp_path / "there", say=pytest.fail)
    assert tree(tmp_path) == {"there": None, "there/mine.txt": b"old"}


def test_what_is_not_a_demo_is_not_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("mine")
    with pytest.raises(FlowrankError, match=r"'thesis\.txt'"):
        run(tmp_path / "there", overwrite=True, say=pytest.fail)
    assert tree(tmp_path) == {"there": None, "there/thesis.txt": b"mine"}


def test_an_interrupted_run_leaves_the_old_folder(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "scores.csv").write_text("old")

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "there", overwrite=True, progress=False, say=interrupt)
    assert tree(tmp_path) == {"there": None, "there/scores.csv": b"old"}


def test_files_are_plain_data(demo):
    folder, _ = demo
    assert {Path(name).suffix for name, held in tree(folder).items() if held is not None} <= {
        *(".csv", ".html", ".json", ".md", ".parquet", ".safetensors"),
    }
