"""``flowrank heal`` writes what the library gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import flowrank
from flowrank import Healing, Uniform, WeightSVD
from flowrank.family import tensor_digest
from tests.cli.calls import is_as_before, quietly, run
from tests.test_files import tree

SHORT = ("--steps", "3", "--batch", "8", "--device", "cpu")


@pytest.fixture
def child(here, bolt_folder):
    """A compressed model in the folder to work in."""
    flowrank.compress(flowrank.load(bolt_folder), WeightSVD(Uniform(0.3))).save_pretrained("child")
    return "./child"


def test_own_series_options_and_checkpoints(child, series, bolt_folder, long_frame, capsys):
    rates = ("--learning-rate", "0.01", "--muon-learning-rate", "0.02", "--truth", "0.3", "--seed", "4")
    call = ("heal", child, bolt_folder, "healed", "--series", "series.csv", *SHORT, *rates, "--checkpoints", "run")
    assert quietly(*call) == 0
    healed = flowrank.load("./healed")
    options = Healing(steps=3, batch=8, learning_rate=0.01, muon_learning_rate=0.02, truth=0.3, seed=4)
    expected = flowrank.heal(flowrank.load(child), flowrank.load(bolt_folder), options, series=long_frame, device="cpu")
    assert tensor_digest(healed.inner_model) == tensor_digest(expected.inner_model)
    assert healed.recipe["healing"]["data"] == expected.recipe["healing"]["data"]
    printed = capsys.readouterr().out
    for key in ("loss_before", "loss_after"):
        assert f"{expected.recipe['healing'][key]:.4f}" in printed
    assert json.loads(Path("run/state.json").read_text())["step"] == 3
    assert quietly(*call[:3], "again", *call[4:]) == 0
    assert tensor_digest(flowrank.load("./again").inner_model) == tensor_digest(healed.inner_model)


def test_progress_unless_quiet(child, bolt_folder, capsys):
    assert run("heal", child, bolt_folder, "healed", *SHORT) == 0
    assert "healing" in capsys.readouterr().out
    assert quietly("heal", child, bolt_folder, "healed", *SHORT, "--overwrite") == 0
    assert "3/3" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoints", "mine"), "--checkpoints: .*something else"),
        (("--steps", "0"), "--steps: .*≥ 1"),
        (("--seed", str(2**40)), "--seed: "),
        (("--device", "abacus"), "--device: .*'abacus'"),
    ],
)
def test_refusals(child, bolt_folder, here, capsys, options, words):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("x")
    before = tree(here)
    assert quietly("heal", child, bolt_folder, "healed", *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert is_as_before(before, here)
