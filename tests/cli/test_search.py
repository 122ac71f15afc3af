"""``flowrank compress`` by what a model may lose, and of whole models."""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import flowrank
from flowrank import Budget, Tolerance, Uniform, WholeModel
from flowrank.family import tensor_digest
from flowrank.search.smallest import SEARCH_LOG
from flowrank.search.stages import read_stages
from tests.cli.calls import is_as_before, quietly, run
from tests.test_files import tree

FEW = {"calibration_series": 9, "validation_series": 12, "horizon": 6}
SMALL = ("--calibration-series", "9", "--validation-series", "12", "--horizon", "6")


@pytest.fixture
def few_stages(monkeypatch):
    """Sizes far apart, and the last bisections left out: what the command line tells of a search needs few of them."""
    smallest = import_module("flowrank.search.stages")
    monkeypatch.setattr(smallest, "_STEP", 0.3)
    monkeypatch.setattr(smallest, "_PRECISION", 4.0)


class TestMaxLoss:
    def test_what_it_writes_is_what_the_library_finds(self, bolt_folder, here, capsys, few_stages):
        options = ("--metric", "MASE", "--unit", "flops", "--heal-steps", "0", "--seed", "3")
        assert quietly("compress", bolt_folder, "child", "--max-loss", "30%", *options, *SMALL) == 0
        tolerance = Tolerance(0.3, metric="MASE", unit="flops")
        expected = flowrank.smallest(flowrank.load(bolt_folder), tolerance, steps=0, seed=3, **FEW)
        child = flowrank.load("./child")
        assert tensor_digest(child.inner_model) == tensor_digest(expected.inner_model)
        assert child.recipe["allocation"] == expected.recipe["allocation"]
        found, stages = child.recipe["search"], expected.recipe["search"]["stages"]
        assert [stage | {"seconds": 0} for stage in found["stages"]] == [stage | {"seconds": 0} for stage in stages]
        assert [path.name for path in here.iterdir()] == ["child"]
        printed = capsys.readouterr().out
        assert [int(one) for one in re.findall(r"^step (\d+): ", printed, re.MULTILINE)] == [
            s["number"] for s in stages
        ]
        first = stages[0]
        assert f"step 1: 30.0% asked of the parent, {first['cost']:.1%} made ({first['parameters']:,} param" in printed
        assert f"loss {first['loss']:+.2%} (at most {first['upper']:+.2%})" in printed
        counts = child.recipe["parameters"]
        for number in (counts["parent"], counts["child"], counts["attention_child"]):
            assert f"{number:,}" in printed
        for label, key in (("MASE lost", "loss"), ("at most, with 90% confidence", "upper")):
            line = next(line for line in printed.splitlines() if label in line)
            assert f"{found[key]:+.2%}" in line

    def test_a_search_that_was_cut_off_goes_on(self, bolt_folder, here, series, capsys, monkeypatch, few_stages):
        from flowrank.cli import searching

        call = ("compress", bolt_folder, "child", "--max-loss", "0.5", "--heal-steps", "0", "--series", "series.csv")
        call = (*call, *SMALL)
        tell = searching._tell

        def stop(stage):
            tell(stage)
            raise KeyboardInterrupt

        monkeypatch.setattr(searching, "_tell", stop)
        assert quietly(*call) == 130
        assert "step 1: " in capsys.readouterr().out
        assert not Path("child").exists()
        assert len(read_stages(Path("child.search") / SEARCH_LOG)) == 1
        monkeypatch.setattr(searching, "_tell", tell)
        before = tree(here)
        assert quietly(*call[:3], "--max-loss", "0.4", *call[5:]) == 2
        assert re.search(r"--work: .*child\.search.*another tolerance", capsys.readouterr().err)
        assert is_as_before(before, here)
        assert quietly(*call) == 0
        assert capsys.readouterr().out.count("step 1: ") == 0
        assert sorted(path.name for path in here.iterdir()) == ["child", "series.csv"]
        stages = flowrank.load("./child").recipe["search"]["stages"]
        assert [stage["number"] for stage in stages] == list(range(1, len(stages) + 1))
        assert quietly(*call[:2], "whole", *call[3:], "--work", "mine") == 0
        same = [tensor_digest(flowrank.load(name).inner_model) for name in ("./child", "./whole")]
        assert same[0] == same[1]
        assert len(read_stages(Path("mine") / SEARCH_LOG)) == len(stages)
        assert run("report", "mine") == 0
        assert len(json.loads(Path("mine/report.json").read_text())["sections"]["search"]["stages"]) == len(stages)

    def test_nothing_smaller_is_within_it(self, bolt_folder, here, capsys, monkeypatch):
        monkeypatch.setattr(flowrank, "smallest", lambda parent, *_, folder, **__: folder.mkdir() or parent)
        assert quietly("compress", bolt_folder, "child", "--max-loss", "1%") == 2
        assert re.search(r"--max-loss: .*found 0\.01, which none does", capsys.readouterr().err)
        assert list(here.iterdir()) == []
        assert quietly("compress", bolt_folder, "child", "--max-loss", "1%", "--work", "mine") == 2
        assert [path.name for path in here.iterdir()] == ["mine"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--max-loss", "much"), "--max-loss: expected a share, found 'much'"),
            (("--max-loss", "1%2"), "--max-loss: expected a share"),
            (("--max-loss", "-1%"), r"--max-loss: expected a number in \[0, 10\)"),
            (("--max-loss", "1%", "--ratio", "0.5"), "--ratio: expected no --max-loss with it, found 0.5"),
            (
                ("--max-loss", "1%", "--allocation", "flow"),
                "--allocation: expected no --max-loss with it, found flow",
            ),
            (("--max-loss", "1%", "--method", "input"), "--method: expected no --max-loss with it, found input"),
            (("--max-loss", "1%", "--per-head"), "--per-head: expected no --max-loss with it, found given"),
            (("--max-loss", "1%", "--rounds", "3"), "--rounds: expected no --max-loss with it, found 3"),
            (("--max-loss", "1%", "--heal-steps", "-1"), "--heal-steps: .*≥ 0"),
            (("--max-loss", "1%", "--horizon", "0"), "--horizon: .*≥ 1"),
            (("--max-loss", "1%", "--work", "child"), "--work: expected a folder apart from OUT"),
            (("--max-loss", "1%", "--work", "child/inside"), "--work: expected a folder apart from OUT"),
            (("--max-loss", "1%", "--work", "file"), "--work: expected a path inside a folder"),
            (("--max-loss", "1%", "--work", "full"), "--work: .*something else"),
            (("--max-loss", "1%", "--series", "bad.csv"), "bad.csv"),
            (("--heal-steps", "3"), "--heal-steps: expected --max-loss with it, found 3"),
            (("--also-synthetic",), "--also-synthetic: expected --max-loss with it"),
            (("--max-loss", "1%", "--also-synthetic"), "--also-synthetic: expected --series with it, found given"),
            (("--metric", "MASE"), "--metric: expected --max-loss with it, found MASE"),
            (("--work", "here"), "--work: expected --max-loss with it"),
            (("--rounds", "3"), "--rounds: expected --method whole with it"),
            (("--unit", "cache"), "--unit: expected parameters, unless"),
            (
                ("--method", "whole", "--allocation", "uniform", "--unit", "cache"),
                "--unit: expected parameters, unless",
            ),
            (("--method", "whole", "--allocation", "flow"), "--allocation: expected budget or uniform"),
            (("--method", "whole", "--rounds", "0"), "--rounds: .*≥ 1"),
            (("--method", "whole", "--per-head"), "--per-head: expected --method joint"),
        ],
    )
    def test_refusals(self, bolt_folder, here, capsys, options, words):
        (here / "file").write_text("x")
        (here / "full").mkdir()
        (here / "full" / "thesis.tex").write_text("x")
        before = tree(here)
        assert quietly("compress", bolt_folder, "child", *options) == 2
        assert re.search(words, capsys.readouterr().err)
        assert is_as_before(before, here)

    def test_an_output_that_exists_is_refused_before_the_search(self, bolt_folder, here, capsys, monkeypatch):
        monkeypatch.setattr(flowrank, "smallest", None)
        shutil.copytree(bolt_folder, "child")
        assert quietly("compress", bolt_folder, "child", "--max-loss", "1%") == 2
        assert "OUT: expected a path that does not exist yet" in capsys.readouterr().err
        Path("child/thesis.tex").write_text("x")
        assert quietly("compress", bolt_folder, "child", "--max-loss", "1%", "--overwrite") == 2
        assert "thesis.tex" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "allocation"),
    [
        ((), Budget(0.4)),
        (("--unit", "cache", "--rounds", "1"), Budget(0.4, unit="cache")),
        (("--allocation", "uniform", "--rounds", "1"), Uniform(0.4)),
    ],
)
def test_whole_models(bolt_folder, here, capsys, options, allocation):
    call = ("--method", "whole", "--ratio", "0.4", "--calibration-series", "9", "--calibration-points", "64")
    assert quietly("compress", bolt_folder, "child", *call, *options) == 0
    method = WholeModel(allocation, rounds=1 if "--rounds" in options else 2)
    parent = flowrank.load(bolt_folder)
    expected = flowrank.compress(parent, method, calibration_series=9, calibration_points=64)
    child = flowrank.load("./child")
    assert tensor_digest(child.inner_model) == tensor_digest(expected.inner_model)
    assert child.recipe == json.loads(json.dumps(expected.recipe))
    assert child.inner_model.num_parameters() < parent.inner_model.num_parameters()
    assert f"{child.inner_model.num_parameters():,}" in capsys.readouterr().out


def test_the_help_says_which_share_is_meant(capsys):
    assert run("compress", "--help") == 0
    printed = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "of the attention parameters; with --method whole, of all that --unit counts" in printed
