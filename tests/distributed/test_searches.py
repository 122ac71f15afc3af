"""Several searches, here and on Ray: what each finds by itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial, wraps

import pandas as pd
import pytest

import flowrank
from flowrank import FlowrankError, Tolerance
from flowrank.cli.program import main
from flowrank.distributed import searches, searching
from flowrank.family import tensor_digest
from flowrank.search import SEARCH_LOG, stages
from tests.distributed.conftest import MODEL, dies_once

FEW = {"calibration_series": 9, "validation_series": 12, "horizon": 6}
SMALL = ("--calibration-series", "9", "--validation-series", "12", "--horizon", "6", "--quiet")


@pytest.fixture
def few_stages(monkeypatch):
    """Sizes far apart, and the last bisections left out."""
    monkeypatch.setattr(stages, "_STEP", 0.3)
    monkeypatch.setattr(stages, "_PRECISION", 4.0)


@dataclass
class Dying(searching._Work):
    """Few stages; kills its process after the first stage of the first search, once."""

    mark: str = ""

    def __call__(self, task):
        stages._STEP, stages._PRECISION = 0.3, 4.0
        self.options["on_stage"] = lambda stage: dies_once(self.mark)
        return super().__call__(task)


def digest(folder):
    return tensor_digest(flowrank.load(folder).inner_model)


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_each_finds_what_it_finds_alone(bolt_folder, tmp_path, few_stages):
    limits = [0.5, Tolerance(0.0, confidence=0.99)]
    found = searches(bolt_folder, tmp_path / "out", tolerances=limits, seeds=[1], **FEW)
    assert found[["max_loss", "seed"]].values.tolist() == [[0.5, 1], [0.0, 1]]
    assert names(tmp_path / "out") == ["_flowrank", "loss-0.5-seed-1", "searches.csv"]
    read = pd.read_csv(tmp_path / "out/searches.csv", dtype={"parameters": "Int64"})
    pd.testing.assert_frame_equal(read, found)
    parent = flowrank.load(bolt_folder)
    alone = flowrank.smallest(parent, Tolerance(0.5), seed=1, **FEW)
    row, child = found.iloc[0], flowrank.load(tmp_path / "out/loss-0.5-seed-1")
    assert tensor_digest(child.inner_model) == tensor_digest(alone.inner_model)
    assert child.recipe["search"]["loss"] == alone.recipe["search"]["loss"] == row["loss"]
    assert child.inner_model.num_parameters() == row["parameters"] < parent.inner_model.num_parameters()
    assert row["parameters_kept"] == row["parameters"] / parent.inner_model.num_parameters()
    assert row["loss"] <= row["upper"] <= 0.5
    assert row["cost_kept"] < 1
    for one in found.iloc[1:].to_dict("records"):
        assert math.isnan(one["loss"])
        assert "no smaller model" in one["reason"]
    assert not list((tmp_path / "out/_flowrank").glob("*/"))


def test_on_ray_though_a_worker_is_killed(cluster, bolt_folder, tmp_path, few_stages, monkeypatch, one_thread):
    given = {"tolerances": [0.5], "seeds": [0], **FEW}
    here = searches(bolt_folder, tmp_path / "here", **given)
    mark = tmp_path / "mark"
    monkeypatch.setattr(searching, "_Work", partial(Dying, mark=str(mark)))
    there = searches(bolt_folder, tmp_path / "there", on="ray", workers=1, **given)
    assert mark.exists()
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    for name in here["folder"]:
        assert digest(tmp_path / "here" / name) == digest(tmp_path / "there" / name)


def test_they_go_on_where_they_were_interrupted(bolt_folder, tmp_path, few_stages, monkeypatch):
    output, told = tmp_path / "out", []
    given = {"tolerances": [0.5], "seeds": [0, 1], **FEW}

    @wraps(flowrank.smallest)
    def interrupted(parent, tolerance, *, seed, **options):
        def stop(stage):
            told.append(stage)
            raise KeyboardInterrupt

        return flowrank.smallest(parent, tolerance, seed=seed, **options, **({"on_stage": stop} if seed else {}))

    with monkeypatch.context() as patch:
        patch.setattr(searching, "smallest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searches(bolt_folder, output, **given)
    assert names(output) == ["_flowrank", "loss-0.5-seed-0"]
    assert len(stages.read_stages(output / "_flowrank/loss-0.5-seed-1" / SEARCH_LOG)) == 1
    kept = (output / "loss-0.5-seed-0/config.json").stat().st_mtime_ns
    with pytest.raises(FlowrankError, match=r"output: .*holds one with another horizon"):
        searches(bolt_folder, output, **{**given, "horizon": 5})
    with pytest.raises(FlowrankError, match=r"tolerances: .*found another than Tolerance\(max_loss=0.5"):
        searches(bolt_folder, output, **{**given, "tolerances": [Tolerance(0.5, confidence=0.7)]})
    assert searches(bolt_folder, output, **{**given, "seeds": [0]})["seed"].tolist() == [0]
    assert searches(bolt_folder, output, **{**given, "seeds": [1]})["seed"].tolist() == [0, 1]
    assert (output / "loss-0.5-seed-0/config.json").stat().st_mtime_ns == kept
    made = flowrank.load(output / "loss-0.5-seed-1").recipe["search"]["stages"]
    assert made[0]["seconds"] == told[0].seconds
    monkeypatch.setattr(searching._Work, "_searched", None)
    pd.testing.assert_frame_equal(
        searches(bolt_folder, output, **given),
        pd.read_csv(output / "searches.csv").assign(parameters=lambda table: table["parameters"].astype("Int64")),
    )


def test_a_refused_call_leaves_nothing(bolt_folder, tmp_path, few_stages):
    output = tmp_path / "out"
    with pytest.raises(FlowrankError, match=r"steps: expected .* in the search loss-0\.5-seed-0: -1"):
        searches(bolt_folder, output, tolerances=[0.5], steps=-1, **FEW)
    assert not output.exists()
    assert len(searches(bolt_folder, output, tolerances=[0.5], **FEW)) == 1


def test_the_command_line(bolt_folder, tmp_path, few_stages, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(bolt_folder), "out", "--max-loss", "50%", "--seeds", "3", *SMALL]) == 0
    assert names(tmp_path / "out") == ["_flowrank", "loss-0.5-seed-3", "searches.csv"]
    assert re.search(r"loss-0\.5-seed-3 .*%", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-loss", "1%", "--on", "ray"), "--on: expected several searches: .* cannot be divided"),
        (("--on", "ray"), "--on: expected several searches"),
        (("--seeds", "1"), "--seeds: expected several searches"),
        (("--max-loss", "1%", "--threads", "2"), "--threads: expected several searches"),
        (("--max-loss", "1%,2%", "--workers", "2"), "--workers: expected --on with it"),
        (("--max-loss", "1%,2%", "--work", "mine"), "--work: expected one search with it"),
        (("--max-loss", "1%,2%", "--overwrite"), "--overwrite: expected one search with it"),
        (("--max-loss", "1%,"), "--max-loss: expected a share, found ''"),
        (("--max-loss", "1%,1%"), "tolerances: expected one or more, each once"),
        (("--max-loss", "1%", "--seeds", "1,x"), "--seeds: expected whole numbers"),
        (("--max-loss", "1%", "--seeds", "1", "--seed", "2"), "--seed: expected no --seeds with it"),
        (("--max-loss", "1%,2%"), "OUT: .*holds something else"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    output = "out" if options == ("--max-loss", "1%,2%") else "new"
    assert main(["compress", MODEL, output, *options]) == 2
    assert re.search(words, " ".join(capsys.readouterr().err.split()))
    assert names(tmp_path) == ["out"]


def test_what_a_search_refuses_names_it(tmp_path):
    with pytest.raises(FlowrankError, match=r"horizon: .* found in the search loss-0\.1-seed-0: 0"):
        searches(MODEL, tmp_path / "out", tolerances=[0.1], horizon=0)
    with pytest.raises(FlowrankError, match="output: expected a folder on a disk"):
        searches(MODEL, "s3://bucket/out", tolerances=[0.1])
    with pytest.raises(FlowrankError, match=r"series: expected a path, .* found generator"):
        searches(MODEL, tmp_path / "other", tolerances=[0.1], on="ray", series=(one for one in ()))
