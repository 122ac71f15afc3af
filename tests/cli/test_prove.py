"""``flowrank prove``: one command from a model to a report."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pandas as pd
import pytest

import flowrank
from flowrank import Budget, FlowrankError, Tolerance
from flowrank.cli.proving import Shrinking
from flowrank.forecasting import Corrections
from tests.cli.calls import is_as_before, quietly, run
from tests.proof.stand_in import MODEL, flat_folder, make_cache
from tests.test_files import tree

SMALL = ("--ratio", "0.6", "--calibration-series", "9", "--repeats", "1", "--context-length", "64")


@pytest.fixture
def data(here):
    return flat_folder(here / "data")


def test_one_command_from_model_to_report(bolt_folder, data, here, capsys):
    call = ("prove", bolt_folder, "--data", "data", "--sets", "ercot, monash_tourism_yearly", "--series", "2")
    call = (*call, "--output", "proof", *SMALL, "--seed", "3", "--batch-size", "4", "--corrections", "none")
    assert quietly(*call) == 0
    printed = capsys.readouterr().out
    proof = json.loads((here / "proof" / "proof.json").read_text())
    assert (proof["seed"], proof["series"], proof["batch_size"]) == (3, 2, 4)
    assert proof["goal"] == {"name": "Budget", "ratio": 0.6, "unit": "parameters"}
    assert proof["corrections"] == asdict(Corrections.none())
    assert (proof["search"], proof["timing"]) == ({"calibration_series": 9}, {"context_length": 64, "repeats": 1})
    assert list(pd.read_csv("proof/scores.csv")["dataset"].unique()) == proof["sets"]
    result = proof["result"]
    for shown in (f"{result['parameters_kept']:.1%}", f"{result['WQL']:.4f}", f"{result['MASE']:.4f}", "2 data sets"):
        assert shown in printed
    assert "<html" in (here / "proof" / "report.html").read_text()
    before = tree(here)
    assert quietly(*call) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert is_as_before(before, here)
    assert quietly(*call, "--seed", "4") == 2
    assert re.search(r"--output: expected a new folder, .*another seed", capsys.readouterr().err)
    assert is_as_before(before, here)


def test_model_and_data_from_the_cache_of_the_hub(bolt_folder, here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(make_cache(here / "hub", bolt_folder)))
    call = ("prove", MODEL, "--offline", "--sets", "monash_tourism_yearly", "--output", "proof", *SMALL)
    assert quietly(*call) == 0
    proof = json.loads((here / "proof" / "proof.json").read_text())
    assert (proof["model"]["name"], proof["model"]["revision"]) == (MODEL, "a" * 40)
    assert quietly("prove", "some-lab/another-model", "--offline", "--output", "other") == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sets", "m5,m4_hourly"), r"--sets: expected .*found 'm4_hourly'; there are: dominick, "),
        ((), r"--data: expected files of 27 data sets, found none in 'data' of monash_traffic, .*--sets ercot,ETTh"),
        (("--data", "nowhere"), r"--data: expected a folder .*'nowhere', which is not there"),
        (("--max-loss", "1%", "--ratio", "0.5"), "--max-loss: expected no --ratio with it, found 1%"),
        (("--metric", "MASE", "--ratio", "0.5"), "--metric: expected no --ratio with it, found MASE"),
        (("--heal-steps", "3", "--ratio", "0.5"), "--heal-steps: expected no --ratio with it"),
        (("--validation-series", "3", "--ratio", "0.5"), "--validation-series: expected no --ratio with it"),
        (("--max-loss", "much"), "--max-loss: expected a share, found 'much'"),
        (("--ratio", "2"), "--ratio: expected the kept share"),
        (("--series", "0"), "--series: expected a whole number ≥ 1"),
        (("--sets", "ercot", "--fev-tasks", "none.yaml"), "--fev-tasks: expected a YAML file of fev tasks"),
        (("--sets", "ercot", "--fev", "--offline"), r"fev-tasks: expected the list of tasks .*with --fev-tasks"),
        (("--output", "data"), r"--output: .*which holds something else"),
        (("--output", "file"), r"--output: expected a path inside a folder"),
    ],
)
def test_refusals(bolt_folder, data, here, capsys, options, words):
    (here / "file").write_text("x")
    before = tree(here)
    assert quietly("prove", bolt_folder, "--data", "data", "--output", "proof", *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert is_as_before(before, here)


def test_models_that_cannot_be_compressed(bolt_folder, data, here, capsys):
    flowrank.quantize(flowrank.load(bolt_folder)).save_pretrained("integers")
    assert quietly("prove", "./integers", "--data", "data", "--sets", "ercot", "--output", "proof") == 2
    assert "8-bit integers" in capsys.readouterr().err
    assert not (here / "proof").exists()


def test_goals():
    assert Shrinking().goal(None, None) == Tolerance(0.01)
    assert Shrinking().goal("3%", None) == Tolerance(0.03)
    assert Shrinking().goal(None, 0.5) == Budget(0.5)
    assert Shrinking(heal_steps=7, validation_series=9).settings() == {"steps": 7, "validation_series": 9}
    with pytest.raises(FlowrankError, match="--max-loss"):
        Shrinking().goal("1%", 0.5)


def test_help_says_what_is_left_behind(capsys):
    assert run("prove", "--help") == 0
    printed = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "the same command again goes on where it was stopped" in printed
