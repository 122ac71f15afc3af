"""The command line on tiny checkpoints: what it writes is what the library gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file

import flowrank
from flowrank import Budget, Epsilon, FlowOfRanks, InputSVD, JointHeads, Uniform, WeightSVD
from flowrank.family import tensor_digest
from tests.cli.calls import FEW, LEVELS, SMALL, is_as_before, quietly, run
from tests.layers import attention_layers, attention_parameters
from tests.test_files import tree


class TestCompress:
    @pytest.mark.parametrize("method", ["joint", "input", "weight"])
    @pytest.mark.parametrize("allocation", ["uniform", "budget", "flow", "epsilon"])
    def test_every_method_and_allocation(self, bolt_folder, here, capsys, method, allocation):
        arguments = ("--method", method, "--ratio", "0.4", "--allocation", allocation, "--seed", "3")
        assert quietly("compress", bolt_folder, "child", *arguments, *SMALL) == 0
        child = flowrank.load("./child")
        value = {"joint": JointHeads, "input": InputSVD, "weight": WeightSVD}[method](
            {
                "uniform": Uniform(0.4),
                "budget": Budget(0.4),
                "flow": FlowOfRanks(ratio=0.4),
                "epsilon": Epsilon(ratio=0.4),
            }[allocation]
        )
        expected = flowrank.compress(flowrank.load(bolt_folder), value, seed=3, **FEW)
        assert tensor_digest(child.inner_model) == tensor_digest(expected.inner_model)
        assert child.recipe == expected.recipe
        before, after = expected.recipe["parameters"]["attention_parent"], attention_parameters(child.inner_model)
        assert 0.15 * before < after <= 0.4 * before
        printed = capsys.readouterr().out
        assert f"{before:,}" in printed
        assert f"{after:,}" in printed
        assert f"{after / before:.1%}" in printed

    @pytest.mark.parametrize(
        ("arguments", "method"),
        [
            (("--per-head",), JointHeads(Budget(0.3), per_head=True)),
            (("--allocation", "flow", "--alpha", "0.1"), JointHeads(FlowOfRanks(ratio=0.3, alpha=0.1))),
        ],
        ids=["per head", "alpha"],
    )
    def test_per_head_and_alpha(self, bolt_folder, here, arguments, method):
        assert quietly("compress", bolt_folder, "child", "--ratio", "0.3", *arguments, *SMALL) == 0
        child = flowrank.load("./child")
        expected = flowrank.compress(flowrank.load(bolt_folder), method, **FEW)
        assert tensor_digest(child.inner_model) == tensor_digest(expected.inner_model)
        assert child.recipe == expected.recipe
        uneven = any(len(set(layer.shape.d_qk)) > 1 for layer in attention_layers(child.inner_model).values())
        assert uneven == method.per_head

    def test_defaults_are_joint_heads_with_a_budget_of_a_quarter(self, bolt_folder, here):
        assert quietly("compress", bolt_folder, "child", *SMALL) == 0
        recipe = flowrank.load("./child").recipe
        assert recipe["method"]["name"] == "JointHeads"
        assert recipe["allocation"] == {"name": "Budget", "ratio": 0.25, "unit": "parameters"}
        assert recipe["seed"] == 0
        assert recipe["calibration"]["source"] == "synthetic, seed 0"

    def test_own_series_with_columns_of_other_names(self, bolt_folder, here, long_frame):
        renamed = long_frame.rename(columns={"item_id": "sku", "timestamp": "day", "target": "sales"})
        renamed.to_parquet("sales.parquet")
        names = ("--id-column", "sku", "--timestamp-column", "day", "--target", "sales", "--freq", "D")
        assert quietly("compress", bolt_folder, "child", "--series", "sales.parquet", *names, *SMALL) == 0
        child = flowrank.load("./child")
        expected = flowrank.compress(flowrank.load(bolt_folder), JointHeads(Budget(0.25)), series=long_frame, **FEW)
        assert tensor_digest(child.inner_model) == tensor_digest(expected.inner_model)
        assert child.recipe["calibration"]["source"] == "sales.parquet; synthetic, seed 0"

    def test_the_parent_may_be_replaced(self, bolt_folder, here):
        shutil.copytree(bolt_folder, "model")
        assert quietly("compress", "./model", "model", "--method", "weight", "--overwrite") == 0
        assert flowrank.load("./model").is_compressed
        assert [path.name for path in here.iterdir()] == ["model"]

    def test_dtype(self, bolt_folder, here):
        assert quietly("compress", bolt_folder, "child", "--method", "weight", "--dtype", "bfloat16") == 0
        assert {str(tensor.dtype) for tensor in load_file("child/model.safetensors").values()} == {"torch.bfloat16"}

    def test_progress_unless_quiet(self, bolt_folder, here, capfd):
        assert quietly("compress", bolt_folder, "one", *SMALL) == 0
        seen = capfd.readouterr()
        assert "measuring" not in seen.out
        assert "Loading weights" not in seen.err
        assert run("compress", bolt_folder, "two", *SMALL) == 0
        assert "measuring" in capfd.readouterr().out

    def test_per_head_is_of_joint_heads(self, bolt_folder, here, capsys):
        assert quietly("compress", bolt_folder, "child", "--method", "input", "--per-head") == 2
        assert "--per-head: expected --method joint" in capsys.readouterr().err
        assert list(here.iterdir()) == []


class TestEvaluate:
    @pytest.fixture
    def data(self, here, long_frame):
        """A folder with two data sets, a file with another one, and backtests for all."""
        (here / "data").mkdir()
        long_frame.to_parquet("data/x.parquet")
        long_frame[long_frame["item_id"] != "b"].to_csv("data/y.csv", index=False)
        long_frame[long_frame["item_id"] == "c"].to_csv("z.csv", index=False)
        rows = [("x", -10, 5, 2), ("y", -4, 4, 1), ("z", -6, 2, 3)]
        pd.DataFrame(rows, columns=["dataset", "offset", "prediction_length", "num_rolls"]).to_csv(
            "backtests.csv", index=False
        )
        return here

    def test_several_models_and_several_paths(self, data, bolt_folder, t5_folder, capsys):
        models = (bolt_folder, t5_folder, "seasonal-naive")
        call = (*models, "--data", "data", "z.csv", "--backtests", "backtests.csv", "--output", "scores.csv")
        assert quietly("evaluate", *call, "--seed", "2") == 0
        pipelines = {str(folder): flowrank.load(folder) for folder in models[:2]}
        expected = flowrank.evaluate(
            {**pipelines, "seasonal-naive": "seasonal-naive"},
            {"x": "data/x.parquet", "y": "data/y.csv", "z": "z.csv"},
            flowrank.evaluation.read_backtests("backtests.csv"),
            seed=2,
        )
        found = pd.read_csv("scores.csv")
        assert list(found)[:4] == ["dataset", "model", "MASE", "WQL"]
        assert found["dataset"].tolist() == [name for name in "xyz" for _ in models]
        same = ["dataset", "model", "MASE", "WQL", "series"]
        assert_frame_equal(found[same], expected[same], rtol=1e-9)
        printed = capsys.readouterr().out
        for row in flowrank.relative_scores(expected).itertuples():
            line = next(line for line in printed.splitlines() if row.model in line and "│" in line)
            assert f"{row.MASE:.4f}" in line
            assert f"{row.WQL:.4f}" in line

    @pytest.mark.parametrize(
        "paths",
        [
            ("--data", "data", "--data", "z.csv"),
            ("--data=data", "--data", "z.csv"),
            ("--data=data", "z.csv"),
            ("--data", "data/x.parquet", "data/y.csv", "z.csv"),
            ("--quiet", "--data", "data", "z.csv", "--seed", "-0"),
        ],
    )
    def test_ways_to_name_several_paths(self, data, paths):
        fixed = ("--backtests", "backtests.csv", "--output", "scores.csv")
        assert run("evaluate", "seasonal-naive", *paths, *fixed) == 0
        assert pd.read_csv("scores.csv")["dataset"].tolist() == ["x", "y", "z"]

    @pytest.mark.parametrize("first", [("--quiet",), ("--output", "scores.csv")])
    def test_models_may_come_last(self, data, bolt_folder, first):
        rest = () if "--output" in first else ("--output", "scores.csv")
        call = (*first, "--data", "z.csv", "seasonal-naive", bolt_folder, "--prediction-length", "3", *rest)
        assert run("evaluate", *call) == 0
        assert pd.read_csv("scores.csv")["model"].tolist() == ["seasonal-naive", str(bolt_folder)]

    def test_paths_from_the_environment(self, data, monkeypatch):
        monkeypatch.setenv("FLOWRANK_DATA", os.pathsep.join(["data", "z.csv"]))
        assert quietly("evaluate", "seasonal-naive", "--output", "s.csv", "--prediction-length", "2") == 0
        assert pd.read_csv("s.csv")["dataset"].tolist() == ["x", "y", "z"]

    def test_scores_worked_out_by_hand(self, here):
        """Daily series have a season of one: the naive forecast is the last value, at every level."""
        rng = np.random.default_rng(5)
        values = {name: rng.integers(1, 50, size=20).astype(float) for name in ("a", "b")}
        days = pd.date_range("2024-01-01", periods=20, freq="D").astype(str)
        rows = [(n, d, v) for n, column in values.items() for d, v in zip(days, column, strict=True)]
        pd.DataFrame(rows, columns=["sku", "day", "sales"]).to_csv("sold.csv", index=False)
        names = ("--id-column", "sku", "--timestamp-column", "day", "--target", "sales", "--freq", "D")
        call = ("--data", "sold.csv", "--prediction-length", "4", "--output", "deep/er/scores.csv")
        assert quietly("evaluate", "seasonal-naive", *call, *names) == 0
        errors = np.array([np.abs(v[16:] - v[15]) for v in values.values()])
        scale = np.array([np.abs(np.diff(v[:16])).mean() for v in values.values()])
        labels = np.array([v[16:] for v in values.values()])
        found = pd.read_csv("deep/er/scores.csv").iloc[0]
        np.testing.assert_allclose(found["MASE"], (errors / scale[:, None]).mean(), rtol=1e-12)
        np.testing.assert_allclose(found["WQL"], errors.sum() / labels.sum(), rtol=1e-12)

    def test_data_without_a_backtest_are_named_and_left_out(self, data, capsys):
        (data / "backtests.csv").write_text("dataset,offset,prediction_length,num_rolls\ny,-4,4,1\nq,-4,4,1\n")
        fixed = ("--data", "data", "--backtests", "backtests.csv", "--output", "scores.csv")
        assert quietly("evaluate", "seasonal-naive", *fixed) == 0
        assert pd.read_csv("scores.csv")["dataset"].tolist() == ["y"]
        assert "no backtest for x: left out" in capsys.readouterr().err
        assert quietly("evaluate", "seasonal-naive", *fixed, "--overwrite", "--prediction-length", "3") == 0
        assert pd.read_csv("scores.csv")["dataset"].tolist() == ["y", "x"]

    def test_max_series(self, data):
        call = ("--data", "data/x.parquet", "--output", "s.csv", "--prediction-length", "2", "--max-series", "2")
        assert quietly("evaluate", "seasonal-naive", *call) == 0
        assert pd.read_csv("s.csv")["series"].tolist() == [2]


class TestBenchmark:
    def test_child_against_parent(self, folder, here, capsys):
        child = flowrank.compress(flowrank.load(folder), WeightSVD(Uniform(0.3)))
        child.save_pretrained("child")
        options = ("--batch-size", "2", "--context-length", "40", "--horizon", "5", "--repeats", "2")
        more = ("--num-samples", "3", "--threads", "1", "--engine", "stock", "--output", "bench.json")
        assert run("benchmark", "./child", "--against", folder, *options, *more) == 0
        result = json.loads(Path("bench.json").read_text())
        counts = child.recipe["parameters"]
        for side, model in (("parent", str(folder)), ("child", "./child")):
            assert result["models"][side]["name"] == model
            assert result["models"][side]["parameters"] == counts[side]
            assert result["models"][side]["attention_parameters"] == counts[f"attention_{side}"]
            assert result["models"][side]["weight_bytes"] == 4 * counts[side]
            assert len(result["models"][side]["latency_s"]["all"]) == 2
        assert result["ratio"]["parameters"] == counts["child"] / counts["parent"]
        assert result["workload"]["batch_size"] == 2
        assert result["workload"]["context_length"] == 40
        assert result["workload"]["horizon"] == 5
        assert result["device"]["threads"] == 1
        printed = capsys.readouterr().out
        for label in ("parameters", "weight bytes", "peak bytes", "self cache bytes", "cross cache bytes"):
            assert label in printed
        for side in ("parent", "child"):
            assert f"{result['models'][side]['cache_bytes']['cross']:,}" in printed
        assert f"{result['ratio']['attention_parameters']:.3f}" in printed
        assert f"{result['ratio']['latency']['median']:.3f}" in printed

    def test_engines_side_by_side(self, bolt_folder, here, capsys, monkeypatch):
        told = {}

        def compared(models, **options):
            told.update(options, models=models)
            base = {"model": str(bolt_folder), "batch_size": 1, "least_over_stock": 1.0, "why": None}
            slow = base | {"engine": "stock", "least_s": 0.0123}
            fast = base | {"engine": "exact", "least_s": 0.00615, "least_over_stock": 0.5}
            none = base | {"engine": "openvino", "least_s": None, "why": "its process ended"}
            return {"workload": {"batch_sizes": [1]}, "rows": [slow, fast, none]}

        monkeypatch.setattr(flowrank, "compare_engines", compared)
        monkeypatch.setenv("COLUMNS", "200")
        options = ("--repeats", "2", "--batch-size", "2", "--threads", "1", "--horizon", "3", "--output", "b.json")
        call = ("benchmark", bolt_folder, "--against", bolt_folder, *options)
        assert run(*call, "--engines", "stock,exact", "--batch-sizes", "1,16") == 0
        assert told["models"] == [str(bolt_folder)] * 2
        assert (told["engines"], told["batch_sizes"]) == (["stock", "exact"], [1, 16])
        assert (told["context_length"], told["horizon"], told["repeats"], told["threads"]) == (64, 3, 2, 1)
        written = json.loads(Path("b.json").read_text())
        assert written["engines"]["rows"][1]["least_s"] == 0.00615
        assert written["ratio"]["parameters"] == 1
        printed = capsys.readouterr().out
        assert "6.15 (0.50)" in printed
        assert f"{bolt_folder} by openvino: its process ended" in printed
        assert run(*call, "--engines", "all", "--overwrite") == 0
        assert (told["engines"], told["batch_sizes"]) == (None, [1, 8, 32])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--engines", "steam"), "--engines: expected some of exact, stock"),
            (("--engines", "stock,,exact"), "--engines: expected names of engines with commas between"),
            (("--engines", "all", "--batch-sizes", "1,x"), "--batch-sizes: expected whole numbers with commas"),
            (("--engines", "all", "--batch-sizes", "0"), "--batch-sizes: expected a whole number"),
            (("--batch-sizes", "1"), "--engines: expected all, or names of engines"),
        ],
    )
    def test_bad_engines(self, bolt_folder, here, capsys, options, message):
        assert run("benchmark", bolt_folder, "--against", bolt_folder, "--output", "b.json", *options) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert list(here.iterdir()) == []

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--engine", "fast"),
            ("--repeats", "0"),
            ("--batch-size", "0"),
            ("--context-length", "-1"),
            ("--horizon", "0"),
            ("--num-samples", "0"),
            ("--threads", "0"),
        ],
    )
    def test_bad_workloads(self, bolt_folder, here, capsys, option, value):
        assert run("benchmark", bolt_folder, "--against", bolt_folder, "--output", "b.json", option, value) == 2
        assert option.removeprefix("--").replace("-", "_") in capsys.readouterr().err.replace("--", "").replace(
            "-", "_"
        )
        assert list(here.iterdir()) == []


HARD = {
    "constant": [7.0] * 30,
    "zero": [0.0] * 30,
    "one point": [3.0],
    "two points": [3.0, 4.0],
    "three points": [3.0, 4.0, 5.0],
    "huge": [1e30, 2e30, 1.5e30] * 8,
    "constant huge": [1e30] * 20,
    "tiny numbers": [1e-30, 3e-30, 2e-30] * 8,
    "huge beside tiny": [1e30, 1e-30, 0.0, 1.0],
    "integer": [1, 2, 3, 4] * 5,
    "head": [None] * 30 + [1.0, 2.0, 1.5],
    "tail": [1.0, 2.0, 1.5] + [None] * 30,
    "gaps": [1.0, None, None, 4.0, None, 6.0],
    "longer than the context": list(np.sin(np.arange(200.0))),
}


class TestForecast:
    def test_csv_to_parquet(self, folder, series, long_frame, capsys):
        call = ("--horizon", "9", "--output", "forecasts.parquet", "--seed", "4", "--batch-size", "2")
        assert quietly("forecast", folder, "series.csv", *call) == 0
        expected = flowrank.forecast(flowrank.load(folder), long_frame, horizon=9, seed=4, batch_size=2)
        found = pd.read_parquet("forecasts.parquet")
        assert_frame_equal(found.astype({"timestamp": "datetime64[ns]"}), expected)
        assert "written to forecasts.parquet" in capsys.readouterr().out

    def test_parquet_to_csv_with_columns_of_other_names(self, folder, here, long_frame):
        renamed = long_frame.rename(columns={"item_id": "sku", "timestamp": "day", "target": "sales"})
        renamed.to_parquet("sales.parquet")
        names = ("--id-column", "sku", "--timestamp-column", "day", "--target", "sales", "--freq", "D")
        levels = ("--quantile", "0.5", "--quantile", "0.2")
        call = ("--horizon", "6", "--output", "forecasts.csv", *names, *levels)
        assert quietly("forecast", folder, "sales.parquet", *call) == 0
        found = pd.read_csv("forecasts.csv", parse_dates=["day"])
        assert list(found) == ["sku", "day", "target_name", "predictions", "0.2", "0.5"]
        assert set(found["target_name"]) == {"sales"}
        expected = flowrank.forecast(flowrank.load(folder), long_frame, horizon=6, quantile_levels=(0.2, 0.5))
        found = found.rename(columns={"sku": "item_id", "day": "timestamp"}).assign(target_name="target")
        assert_frame_equal(found.astype({"timestamp": "datetime64[ns]"}), expected, rtol=1e-12)
        ends = long_frame.groupby("item_id")["timestamp"].max()
        assert (found.groupby("item_id")["timestamp"].min() == ends + pd.Timedelta(days=1)).all()

    def test_sample_paths(self, t5_folder, bolt_folder, series, capsys):
        call = ("series.csv", "--horizon", "2", "--output", "f.csv", "--num-samples", "1")
        assert quietly("forecast", t5_folder, *call) == 0
        found = pd.read_csv("f.csv")
        assert (found["0.1"] == found["0.9"]).all()
        assert quietly("forecast", bolt_folder, *call, "--overwrite") == 2
        assert "--num-samples: expected a model that draws sample paths" in capsys.readouterr().err
        assert quietly("forecast", t5_folder, *call[:-1], "0", "--overwrite") == 2
        assert "--num-samples: expected a whole number" in capsys.readouterr().err
        assert_frame_equal(pd.read_csv("f.csv"), found)

    def test_progress_unless_quiet(self, bolt_folder, series, capsys):
        assert run("forecast", bolt_folder, series, "--horizon", "1", "--output", "f.csv") == 0
        assert "forecasting" in capsys.readouterr().out

    def sound(self, path, ids, horizon):
        found = pd.read_csv(path) if str(path).endswith("csv") else pd.read_parquet(path)
        assert found["item_id"].drop_duplicates().tolist() == ids
        assert (found.groupby("item_id").size() == horizon).all()
        values = found[["predictions", *LEVELS]].to_numpy()
        assert np.isfinite(values).all()
        assert (np.diff(values[:, 1:], axis=1) >= 0).all()
        return found

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_hard_series_get_finite_ordered_quantiles(self, folder, here, ending):
        frames = [
            pd.DataFrame(
                {"item_id": name, "timestamp": pd.date_range("2024", periods=len(v)), "target": v}, dtype=object
            )
            for name, v in HARD.items()
        ]
        frame = pd.concat(frames).astype({"timestamp": "datetime64[ns]"})
        if ending == "csv":
            frame.to_csv("hard.csv", index=False)
        else:
            frame.astype({"target": float}).to_parquet("hard.parquet")
        assert quietly("forecast", folder, f"hard.{ending}", "--horizon", "20", "--output", f"f.{ending}") == 0
        found = self.sound(f"f.{ending}", list(HARD), 20)
        huge = found.loc[found["item_id"] == "constant huge", LEVELS].to_numpy()
        assert (np.abs(huge) < 1e33).all()

    @pytest.mark.parametrize("kind", ["bool", "int8", "uint64", "Int64", "boolean", "float32"])
    def test_columns_of_any_kind_of_number(self, folder, here, kind):
        values = pd.Series([1, 0, 1, 1, 0, 0, 1, 0] * 3)
        frame = pd.DataFrame({"item_id": "a", "timestamp": pd.date_range("2024", periods=24), "target": values})
        frame.astype({"target": kind}).to_parquet("s.parquet")
        frame.astype({"target": "bool" if kind == "boolean" else kind}).to_csv("s.csv", index=False)
        for ending in ("parquet", "csv"):
            assert quietly("forecast", folder, f"s.{ending}", "--horizon", "3", "--output", f"{ending}.csv") == 0
        found = [self.sound(f"{ending}.csv", ["a"], 3) for ending in ("parquet", "csv")]
        expected = flowrank.forecast(flowrank.load(folder), frame, horizon=3)
        for one in found:
            assert_frame_equal(one[LEVELS], expected[LEVELS], rtol=1e-12)

    def test_series_that_say_nothing_are_refused_by_name(self, folder, series, long_frame, capsys):
        nothing = long_frame.assign(target=long_frame["target"].where(long_frame["item_id"] != "b"))
        nothing.to_csv("nothing.csv", index=False)
        call = ("--horizon", "3", "--output", "f.parquet")
        assert quietly("forecast", folder, "nothing.csv", *call) == 2
        assert "series 'b', which has none" in capsys.readouterr().err
        long_frame.head(1).to_csv("one.csv", index=False)
        assert quietly("forecast", folder, "one.csv", *call) == 2
        assert "--freq" in capsys.readouterr().err
        assert not Path("f.parquet").exists()
        assert quietly("forecast", folder, "one.csv", *call, "--freq", "D") == 0
        self.sound("f.parquet", ["a"], 3)


class TestAnalyzeAndReport:
    def test_files_are_those_of_the_library(self, folder, series, long_frame, capsys):
        options = ("--count", "2", "--points", "50", "--epsilon", "0.3", "--epsilon", "0.02", "--series", "series.csv")
        assert quietly("analyze", folder, "--output", "results", *options) == 0
        pipeline = flowrank.load(folder)
        expected = flowrank.analyze(pipeline, series=long_frame, count=2, points=50, epsilons=(0.3, 0.02))
        assert_frame_equal(pd.read_parquet("results/rank_profile.parquet"), expected.ranks)
        assert_frame_equal(pd.read_parquet("results/spectra.parquet"), expected.spectra)
        assert_frame_equal(pd.read_parquet("results/ranks.parquet"), flowrank.rank_table(pipeline))
        about = json.loads(Path("results/analysis.json").read_text())
        assert about["series"] == {"source": "series.csv", "count": 2, "skipped": {}, "seed": 0}
        assert sorted(tree(Path("results"))) == [
            "analysis.json",
            "bounds.parquet",
            "positions.parquet",
            "rank_profile.parquet",
            "ranks.parquet",
            "spectra.parquet",
        ]
        printed = capsys.readouterr().out
        assert "rank (ε = 0.02)" in printed
        stream = expected.ranks.query("epsilon == 0.02 and quantity in ('embedding', 'residual')")
        lines = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
        assert [(line[0].strip(), int(line[3])) for line in lines] == list(
            zip(stream["stack"], stream["rank"], strict=True)
        )

    def test_advice_is_printed_and_kept(self, folder, long_frame, series, capsys):
        options = ("--series", "series.csv", "--points", "50", "--advise", "--budget", "0.4")
        assert quietly("analyze", folder, "--output", "results", *options) == 0
        profile = flowrank.analyze(flowrank.load(folder), series=long_frame, points=50)
        expected = flowrank.advise(profile, 0.4)
        assert json.loads(Path("results/advice.json").read_text())["lines"] == expected.to_dict()["lines"]
        printed = " ".join(capsys.readouterr().out.split())
        assert all(line.what in printed and line.because in printed for line in expected.lines)

    def test_a_compressed_model_brings_its_recipe(self, folder, here):
        assert quietly("compress", folder, "child", "--ratio", "0.3", *SMALL) == 0
        assert quietly("analyze", "./child", "--output", "results", "--count", "4", "--points", "64") == 0
        recipe = json.loads(Path("results/recipe.json").read_text())
        assert recipe == json.loads(Path("child/recipe.json").read_text())
        ranks = pd.read_parquet("results/ranks.parquet")
        attention = ranks.query("kind in ('self', 'cross')")
        assert attention["cost"].sum() == recipe["parameters"]["attention_child"]

    def test_the_chain_of_the_readme_ends_in_one_report(self, bolt_folder, series, capsys):
        assert quietly("compress", bolt_folder, "child", "--ratio", "0.3", *SMALL) == 0
        assert quietly("analyze", "./child", "--output", "results", "--count", "4", "--points", "64") == 0
        scores = ("--data", "series.csv", "--prediction-length", "5", "--output", "results/scores.csv")
        assert quietly("evaluate", "./child", bolt_folder, "seasonal-naive", *scores) == 0
        bench = ("--output", "results/bench.json", "--repeats", "1", "--batch-size", "2", "--context-length", "32")
        assert run("benchmark", "./child", "--against", bolt_folder, *bench) == 0
        call = ("series.csv", "--horizon", "5", "--output", "results/forecasts.parquet")
        assert quietly("forecast", "./child", *call) == 0
        shutil.copy("series.csv", "history.csv")
        pd.read_csv("history.csv").to_parquet("results/history.parquet")
        made = set(tree(Path("results")))
        assert run("report", "results") == 0
        assert "written to results/report.html" in capsys.readouterr().out
        assert set(tree(Path("results"))) - made == {"report.html", "report.json", "report.md"}
        page = Path("results/report.html").read_text()
        for model in ("./child", "seasonal-naive"):
            assert model in page
        known = tree(Path("results"))
        assert run("report", "results") == 2
        assert "report" in capsys.readouterr().err
        assert is_as_before(known, Path("results"))
        assert run("report", "results", "--output", "elsewhere/page.html") == 0
        assert sorted(path.name for path in Path("elsewhere").iterdir()) == ["page.html", "page.json", "page.md"]
        assert run("report", "results", "--overwrite") == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("results",), "folder: .*does not exist"),
            (("file",), "folder: .*is a file"),
            (("empty",), "folder: .*none of them"),
            (("empty", "--output", "page.txt"), r"output: .*\.html"),
        ],
    )
    def test_what_no_report_can_be_made_of(self, here, capsys, arguments, words):
        (here / "file").write_text("old")
        (here / "empty").mkdir()
        before = tree(here)
        assert run("report", *arguments) == 2
        assert re.search(words, capsys.readouterr().err)
        assert is_as_before(before, here)


class TestSmallCommands:
    def test_models(self, capsys):
        assert run("models") == 0
        assert capsys.readouterr().out.split() == flowrank.embedded_models()

    def test_version_in_a_fresh_process_without_torch(self):
        script = (
            "import sys; from flowrank.cli import main; code = main(['--version']);"
            "assert 'torch' not in sys.modules; sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == f"flowrank {flowrank.__version__}"
        assert done.stderr == ""

    def test_demo_is_run_with_what_was_asked(self, here, monkeypatch, capsys):
        from flowrank import demo

        asked = {}

        def recorded(output, *, say, **options):
            asked.update(options, output=output)
            say("[1/6] analyze")

        monkeypatch.setattr(demo, "run", recorded)
        assert quietly("demo", "--output", "there", "--seed", "7", "--overwrite") == 0
        assert asked == {"output": Path("there"), "seed": 7, "overwrite": True, "progress": False}
        assert run("demo") == 0
        assert asked == {"output": Path("demo-output"), "seed": 0, "overwrite": False, "progress": True}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "Usage"),
            (("bogus",), "bogus"),
            (("compress",), "model"),
            (("compress", "flow-bolt-mini"), "OUT"),
            (("compress", "flow-bolt-mini", "x", "--method", "magic"), "--method"),
            (("compress", "flow-bolt-mini", "x", "--allocation", "magic"), "--allocation"),
            (("compress", "flow-bolt-mini", "x", "--ratio", "half"), "--ratio"),
            (("compress", "flow-bolt-mini", "x", "--seed", "-1"), "--seed"),
            (("compress", "flow-bolt-mini", "x", "--seed", str(2**64)), "--seed"),
            (("evaluate", "seasonal-naive"), "--data"),
            (("evaluate", "--data", "x", "--output", "y"), "MODEL"),
            (("forecast", "flow-bolt-mini", "x.csv", "--output", "y"), "--horizon"),
            (("forecast", "flow-bolt-mini", "x.csv", "--horizon", "1.5", "--output", "y"), "--horizon"),
            (("benchmark", "flow-bolt-mini", "--output", "y"), "--against"),
            (("analyze", "flow-bolt-mini"), "--output"),
            (("report",), "folder"),
        ],
    )
    def test_calls_that_make_no_sense(self, here, capsys, arguments, words):
        assert run(*arguments) == 2
        seen = capsys.readouterr()
        assert words.lower() in (seen.out + seen.err).lower()
        assert list(here.iterdir()) == []


def test_too_few_series_are_told_in_a_sentence(bolt_folder, here, capsys):
    """A warning that the library gives is shown without the line of code that it comes from."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert quietly("compress", bolt_folder, "child", *SMALL) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "warning 8 calibration series (synthetic, seed 0) are too few for JointHeads" in told
    assert "24 synthetic ones were added" in told
    assert ".py:" not in told
