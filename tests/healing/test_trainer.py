"""A healed model forecasts better, is never worse, and does not depend on whether its healing was cut off."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flowrank
from flowrank import Healing, JointHeads, Uniform, WeightSVD, heal
from flowrank.errors import FlowrankError
from flowrank.families.chronos_t5.pipeline import FlowrankT5Pipeline
from flowrank.family import tensor_digest
from flowrank.healing import trainer
from flowrank.pretraining.architecture import build
from flowrank.pretraining.budget import rate
from flowrank.pretraining.journal import read_log
from tests.conftest import make_bolt

FEW = {"calibration_series": 8, "calibration_points": 64}
SHORT = {"batch": 8, "lengths": (32, 64), "eval_series": 16, "precision": "float32"}


def small(**changes):
    return Healing(**{**SHORT, **changes})


def weights(pipeline):
    return tensor_digest(pipeline.inner_model)


def told(pipeline):
    return pipeline.recipe["healing"]


@pytest.fixture
def parent(pipeline):
    return pipeline


@pytest.fixture
def child(parent):
    return flowrank.compress(parent, JointHeads(Uniform(0.3)), **FEW)


@pytest.fixture
def bolts(bolt_folder):
    parent = flowrank.load(bolt_folder)
    return flowrank.compress(parent, JointHeads(Uniform(0.3)), **FEW), parent


class Killed(Exception):
    pass


def kill_at(monkeypatch, step):
    whole = trainer._Trainer._step

    def killed(self, share):
        if self.state.step == step:
            raise Killed
        whole(self, share)

    monkeypatch.setattr(trainer._Trainer, "_step", killed)


def test_loss_falls_and_both_stay_as_they_are(child, parent):
    before, recipe = (weights(child), weights(parent)), json.dumps(child.recipe)
    healed = heal(child, parent, small(steps=30, eval_steps=10, muon_learning_rate=0.01, learning_rate=0.003))
    account = told(healed)
    assert account["loss_after"] < 0.98 * account["loss_before"]
    assert (account["steps"], account["series"]) == (30, 240)
    assert (account["child"]["sha256"], account["parent"]["sha256"]) == before
    assert (weights(child), weights(parent)) == before
    assert json.dumps(child.recipe) == recipe
    assert weights(healed) != weights(child)
    assert type(healed) is type(child)
    assert healed.is_compressed
    assert healed.recipe["method"] == child.recipe["method"]
    own = {one.data_ptr() for one in healed.inner_model.parameters() if one.numel()}
    for other in (child, parent):
        assert own.isdisjoint({one.data_ptr() for one in other.inner_model.parameters()})


def test_only_distillation_leads_to_the_parent(child, parent):
    options = small(steps=40, truth=0.0, muon_learning_rate=0.01, learning_rate=0.003)
    healed = told(heal(child, parent, options))
    assert healed["loss_after"] < 0.7 * healed["loss_before"]
    if isinstance(parent, FlowrankT5Pipeline):  # quantiles of a Bolt with random weights are in no order
        same = told(heal(parent, parent, small(steps=1, truth=0.0)))
        assert same["loss_before"] == pytest.approx(0, abs=1e-6)


def test_a_healing_cut_off_goes_on_as_if_it_had_not_been(child, parent, tmp_path, monkeypatch):
    optim = "adamw" if isinstance(parent, FlowrankT5Pipeline) else "muon"
    options = small(steps=9, eval_steps=2, save_steps=3, optim=optim, muon_learning_rate=0.01)
    undisturbed = heal(child, parent, options, folder=tmp_path / "whole")
    for step in (0, 8):
        with monkeypatch.context() as patched:
            kill_at(patched, step)
            with pytest.raises(Killed):
                heal(child, parent, options, folder=tmp_path / "killed")
    resumed = heal(child, parent, options, folder=tmp_path / "killed")
    assert weights(resumed) == weights(undisturbed)
    assert weights(heal(child, parent, options)) == weights(undisturbed)
    logs = [
        [(line["step"], line["loss"], line["best"]) for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert [step for step, _, _ in logs[0]] == [0, 2, 4, 6, 8, 9]
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {"healing.json", "state.json", "log.jsonl", "tensors-9.safetensors"}
    monkeypatch.setattr(trainer._Trainer, "_step", None)  # nothing is left to do
    again = heal(child, parent, options, folder=tmp_path / "killed")
    assert weights(again) == weights(undisturbed)
    assert told(again)["loss_after"] == told(undisturbed)["loss_after"]


def test_a_killed_process_leaves_a_folder_to_go_on_with(bolts, bolt_folder, tmp_path):
    child, parent = bolts
    child.save_pretrained(tmp_path / "child")
    script = """
import os, signal, sys, torch, flowrank
from flowrank.healing import checkpoints

torch.set_num_threads(1)
write = checkpoints.save_file

def killed(tensors, path):
    write(tensors, path)
    if ".tensors-4" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save_file = killed
options = flowrank.Healing(**eval(sys.argv[4]))
flowrank.heal(flowrank.load(sys.argv[1]), flowrank.load(sys.argv[2]), options, folder=sys.argv[3], device="cpu")
"""
    changes = {**SHORT, "steps": 6, "save_steps": 2, "eval_steps": 2}
    command = [sys.executable, "-c", script, str(tmp_path / "child"), str(bolt_folder), str(tmp_path / "run")]
    ended = subprocess.run(
        [*command, repr(changes)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 2
    opened = flowrank.load(tmp_path / "child")
    resumed = heal(opened, parent, Healing(**changes), folder=tmp_path / "run", device="cpu")
    assert weights(resumed) == weights(heal(opened, parent, Healing(**changes), device="cpu"))
    assert not list((tmp_path / "run").glob(".*"))


ENDS = [(3, "3 evaluations were no better"), *((step, "the loss was not finite") for step in (1, 2, 3))]


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_never_worse_than_the_child(child, parent, rate):
    healed = heal(child, parent, small(steps=20, eval_steps=1, patience=3, learning_rate=rate, muon_learning_rate=rate))
    account = told(healed)
    assert weights(healed) == weights(child)
    assert account["best_step"] == 0
    assert account["loss_after"] == account["loss_before"]
    assert (account["steps"], account["ended"]) in ENDS


def test_dtype_of_the_child(bolt_folder, tmp_path):
    parent = flowrank.load(bolt_folder)
    child = flowrank.compress(flowrank.load(bolt_folder, dtype="bfloat16"), WeightSVD(Uniform(0.3)))
    options = small(steps=6, eval_steps=2, save_steps=2, muon_learning_rate=0.01)
    healed = heal(child, parent, options, folder=tmp_path / "run")
    assert healed.inner_model.dtype == torch.bfloat16
    again = heal(healed, parent, small(steps=1))
    assert told(again)["loss_before"] == pytest.approx(told(healed)["loss_after"], rel=1e-6)


def test_a_dense_child_of_another_shape(bolt_folder, tmp_path):
    parent = flowrank.load(bolt_folder)
    child = flowrank.load(make_bolt(tmp_path / "narrow", d_model=16, d_kv=4, num_heads=2, num_layers=1))
    healed = heal(child, parent, small(steps=20, eval_steps=10, muon_learning_rate=0.01, learning_rate=0.01))
    assert told(healed)["loss_after"] < told(healed)["loss_before"]
    healed.save_pretrained(tmp_path / "healed")
    opened = flowrank.load(tmp_path / "healed")
    assert weights(opened) == weights(healed)
    assert opened.recipe == healed.recipe
    assert "healed by distillation" in (tmp_path / "healed" / "README.md").read_text()


def test_of_a_recipe_without_eos():
    from flowrank.pretraining import Recipe, Widths

    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 1, "n_tokens": 32, "max_steps": 1}
    shape |= {"family": "t5", "use_eos_token": False, "context_length": 64, "prediction_length": 8, "lengths": (32,)}
    made = [build(Recipe(**shape, schedule=schedule)) for schedule in (Widths((2, 2)), None)]
    healed = heal(*made, small(steps=10, eval_steps=5, learning_rate=0.01))
    assert told(healed)["loss_after"] < told(healed)["loss_before"]


class TestSeries:
    def test_frames(self, child, parent, long_frame):
        renamed = long_frame.rename(columns={"target": "sales"})
        healed = heal(child, parent, small(steps=4, eval_steps=2), series=renamed, target="sales")
        data = told(healed)["data"]
        assert data["series"] == 3
        assert len(data["sha256"]) == 64

    def test_the_last_horizon_is_held_out(self, bolts):
        rng = np.random.default_rng(0)
        series = [rng.normal(size=length) for length in (200, 90, 20, 9, 7)]
        series.append(np.r_[np.full(5, np.nan), rng.normal(size=150)])
        series.append(np.ones(100))
        data = trainer.HealingData.read(bolts[0], small(), series)
        [store] = data.training.stores
        assert [len(values) for values in (store[n] for n in range(len(store)))] == [184, 74, 14, 9, 134]
        [held] = data.held_out
        assert held["target"].shape == (4, 16)
        scale = np.abs(series[0][120:184]).mean()
        np.testing.assert_allclose(held["target"][0], series[0][184:] / scale, rtol=1e-5)
        one = data.training.batch(3)
        again = trainer.HealingData.read(bolts[0], small(), series).training.batch(3)
        assert torch.equal(one["context"].nan_to_num(), again["context"].nan_to_num())

    def test_some_of_many_are_held_out(self, bolts):
        series = np.random.default_rng(0).normal(size=(50, 100))
        data = trainer.HealingData.read(bolts[0], small(eval_series=10), series)
        assert sum(len(batch["target"]) for batch in data.held_out) == 10
        [store] = data.training.stores
        assert sorted({len(store[n]) for n in range(50)}) == [84, 100]

    def test_none_usable(self, bolts):
        with pytest.raises(FlowrankError, match=r"series: expected at least one series .* found none"):
            heal(*bolts, series=[np.ones(100), np.arange(5.0)])
        holes = np.full(100, np.nan)
        holes[[0, 30, 60, 90]] = 1, 2, 3, 4
        with pytest.raises(FlowrankError, match=r"series: expected at least one series .* too many values missing"):
            heal(*bolts, series=[holes])


class TestRefusals:
    def test_of_another_family(self, bolt_folder, t5_folder):
        with pytest.raises(FlowrankError, match="child: expected a FlowrankT5Pipeline"):
            heal(flowrank.load(bolt_folder), flowrank.load(t5_folder))

    def test_of_another_horizon(self, bolt_folder):
        with pytest.raises(FlowrankError, match="child: expected prediction_length 64"):
            heal(flowrank.load(bolt_folder), flowrank.load("flow-bolt-mini"))

    def test_of_another_vocabulary(self, t5_folder):
        parent = flowrank.load(t5_folder)
        parent.inner_model.config.chronos_config["n_tokens"] = 128
        with pytest.raises(FlowrankError, match="child: expected n_tokens 128"):
            heal(flowrank.load(t5_folder), parent)

    def test_what_is_no_pipeline_of_ours(self, bolt, bolts):
        with pytest.raises(FlowrankError, match="child: expected a pipeline of flowrank"):
            heal(bolt, bolts[1])
        with pytest.raises(FlowrankError, match="parent: expected a pipeline of flowrank"):
            heal(bolts[0], "flow-bolt-mini")

    def test_of_what_is_broken(self, bolts):
        child = heal(*bolts, small(steps=1))
        child.inner_model.output_patch_embedding.output_layer.bias.data.fill_(torch.nan)
        with pytest.raises(FlowrankError, match=r"child: .*finite.*nan"):
            heal(child, bolts[1], small(steps=1))

    def test_device(self, bolts):
        with pytest.raises(FlowrankError, match="device: expected 'auto'"):
            heal(*bolts, device="abacus")

    def test_lengths_beyond_the_context(self, bolts):
        with pytest.raises(FlowrankError, match="lengths: expected one at most 64"):
            heal(*bolts, Healing(lengths=(128,)))

    def test_folder_of_another_healing(self, bolts, tmp_path):
        child, parent = bolts
        heal(child, parent, small(steps=1), folder=tmp_path / "run")
        heal(child, parent, small(steps=1, save_steps=1), folder=tmp_path / "run")
        with pytest.raises(FlowrankError, match=r"folder: .*another steps"):
            heal(child, parent, small(steps=2), folder=tmp_path / "run")
        with pytest.raises(FlowrankError, match=r"folder: .*another child"):
            heal(parent, parent, small(steps=1), folder=tmp_path / "run")
        with pytest.raises(FlowrankError, match=r"folder: .*another series"):
            heal(
                child,
                parent,
                small(steps=1),
                series=np.random.default_rng(0).normal(size=(3, 99)),
                folder=tmp_path / "run",
            )

    def test_folder_of_something_else(self, bolts, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        for folder in (tmp_path, tmp_path / "thesis.tex"):
            with pytest.raises(FlowrankError, match=r"folder: .*something else"):
                heal(*bolts, folder=folder)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"minutes": 0},
        {"batch": 1.5},
        {"truth": -1},
        {"truth": 0, "distillation": 0},
        {"optim": "sgd"},
        {"precision": "int8"},
        {"lengths": ()},
        {"learning_rate": float("nan")},
        {"seed": 2**32},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(FlowrankError, match=next(iter(options))):
        Healing(**options)


@pytest.mark.parametrize("budget", [{"steps": 100}, {"minutes": 1.0}])
def test_rates_rise_for_the_warm_up(bolts, budget):
    recipe = trainer.HealingData.read(bolts[0], small(warmup=10, eval_series=1, **budget)).training.recipe
    assert [round(rate(recipe, step, 0.0), 3) for step in (0, 4, 9, 50)] == [0.1, 0.5, 1.0, 1.0]
    assert rate(recipe, 50, 0.75) == 0.25


def test_minutes_end_a_healing(bolts, monkeypatch):
    """A quarter of a second passes from one look at the clock to the next: the third step ends after 0.6 seconds."""
    ticks = itertools.count(0, 0.25)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    account = told(heal(*bolts, small(minutes=0.01, eval_steps=100)))
    assert account["ended"] == "the budget is used up"
    assert account["steps"] == 3
    assert account["seconds"] == pytest.approx(0.75, abs=0.051)
