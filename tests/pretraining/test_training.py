"""Training resumes exactly, keeps its budget, and gives models that open anywhere."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chronos import BaseChronosPipeline

import flowrank
from flowrank.errors import FlowrankError
from flowrank.pretraining import Recipe, Widths, pretrain
from flowrank.pretraining.budget import Clock
from flowrank.pretraining.journal import last_whole_checkpoint, read_log

KILLED = """
import json, os, signal, sys, torch
from flowrank.pretraining import Recipe, pretrain
from flowrank.pretraining.budget import Clock

torch.set_num_threads(1)
go_on = Clock.on_step_end

def killed(self, args, state, control, **kwargs):
    go_on(self, args, state, control, **kwargs)
    if state.global_step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

Clock.on_step_end = killed
pretrain(Recipe.from_dict(json.loads(sys.argv[1])), sys.argv[2], progress=False, device="cpu")
"""


def kill_at(step: int, recipe: Recipe, folder: Path) -> None:
    command = [sys.executable, "-c", KILLED, json.dumps(recipe.to_dict()), str(folder), str(step)]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line}


@pytest.mark.parametrize(
    "options",
    [{"optim": "muon"}, {"optim": "adamw", "family": "t5"}, {"family": "chronos2", "precision": "bfloat16"}],
    ids=["bolt", "t5", "chronos2"],
)
def test_killed_training_goes_on_as_if_it_had_not_been(recipe, tmp_path, options):
    made = recipe(max_steps=12, save_steps=4, dropout_rate=0.1, easy_steps=10, **options)
    undisturbed = pretrain(made, tmp_path / "whole", progress=False, device="cpu")
    kill_at(7, made, tmp_path / "killed")
    assert not (tmp_path / "killed" / "config.json").exists()
    resumed = pretrain(made, tmp_path / "killed", progress=False, device="cpu")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    assert sorted(losses(tmp_path / "killed")) == list(range(1, 13))
    for name, weights in undisturbed.inner_model.state_dict().items():
        assert torch.equal(weights, resumed.inner_model.state_dict()[name]), name


@pytest.mark.parametrize("options", [{"optim": "muon"}, {"family": "chronos2"}], ids=["bolt", "chronos2"])
def test_a_training_in_pieces_is_one_that_was_never_stopped(recipe, tmp_path, options):
    made = recipe(max_steps=7, save_steps=100, eval_steps=2, dropout_rate=0.1, easy_steps=5, **options)
    undisturbed = pretrain(made, tmp_path / "whole", progress=False, device="cpu")
    steps = []
    for _ in range(20):
        piece = pretrain(made, tmp_path / "pieces", progress=False, device="cpu", stop_after=1e-9)
        account = piece.recipe["pretraining"]
        steps.append(account["steps"])
        if account["finished"]:
            break
        assert not (tmp_path / "pieces" / "config.json").exists()
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert read_log(tmp_path / "whole" / "log.jsonl")[0]["step"] == 1
    told = [
        [{key: line[key] for key in ("loss", "eval_loss", "learning_rate") if key in line} for line in read_log(log)]
        for log in (tmp_path / "whole" / "log.jsonl", tmp_path / "pieces" / "log.jsonl")
    ]
    assert told[0] == told[1]
    for name, weights in undisturbed.inner_model.state_dict().items():
        assert torch.equal(weights, piece.inner_model.state_dict()[name]), name


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), "9"])
def test_times_that_no_run_can_end_after(recipe, tmp_path, minutes):
    with pytest.raises(FlowrankError, match="stop_after: expected a positive number of minutes"):
        pretrain(recipe(), tmp_path / "run", progress=False, device="cpu", stop_after=minutes)
    assert not (tmp_path / "run").exists()


def test_half_written_checkpoint_is_not_used(recipe, tmp_path, monkeypatch):
    made = recipe(max_steps=6, save_steps=2)
    go_on = Clock.on_step_end

    def stopped(self, args, state, control, **kwargs):
        go_on(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Clock, "on_step_end", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain(made, tmp_path / "run", progress=False, device="cpu")
    (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "complete.json").unlink()
    whole = last_whole_checkpoint(tmp_path / "run" / "checkpoints")
    assert (whole.folder.name, whole.step, whole.processes) == ("checkpoint-2", 2, 1)
    assert whole.seconds > 0
    pretrain(made, tmp_path / "run", progress=False, device="cpu")
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("family", ["bolt", "t5"])
@pytest.mark.parametrize("schedule", [None, Widths((2, 4, 4, 8))], ids=["dense", "widths"])
def test_trained_model_opens_with_chronos(recipe, tmp_path, family, schedule):
    made = recipe(family=family, schedule=schedule, max_steps=2)
    trained = pretrain(made, tmp_path / "run", progress=False, device="cpu")
    context = [torch.arange(40.0)]
    opened = BaseChronosPipeline.from_pretrained(str(tmp_path / "run"))
    for pipeline in (trained, opened, flowrank.load(tmp_path / "run")):
        if hasattr(pipeline, "engine"):
            pipeline.engine = "stock"  # the only one that chronos itself knows for a dense model
        torch.manual_seed(0)
        quantiles, _ = pipeline.predict_quantiles(context, prediction_length=5)
        assert quantiles.shape == (1, 5, 9)
        if pipeline is trained:
            expected = quantiles
        torch.testing.assert_close(quantiles, expected)
    account = trained.recipe["pretraining"]
    assert account["series"] == 16
    assert account["recipe"] == made.to_dict()
    assert "2 steps" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("schedule", [None, Widths((2, 8))], ids=["dense", "widths"])
def test_trained_groups_open_with_chronos(recipe, tmp_path, schedule):
    made = recipe(family="chronos2", schedule=schedule, max_steps=2)
    trained = pretrain(made, tmp_path / "run", progress=False, device="cpu")
    task = {"target": torch.arange(40.0), "past_covariates": {"x": torch.arange(40.0) % 5}}
    task["future_covariates"] = {"x": torch.arange(5.0)}
    opened = BaseChronosPipeline.from_pretrained(str(tmp_path / "run"))
    found = []
    for pipeline in (trained, opened, flowrank.load(tmp_path / "run")):
        if hasattr(pipeline, "engine"):
            pipeline.engine = "stock"
        [quantiles], _ = pipeline.predict_quantiles([task], prediction_length=5)
        assert quantiles.shape == (1, 5, 9)
        found.append(quantiles)
    assert all(torch.equal(found[0], quantiles) for quantiles in found)
    assert trained.recipe["pretraining"]["recipe"] == made.to_dict()


@pytest.mark.parametrize("family", ["bolt", "t5", "chronos2"])
def test_it_learns(recipe, tmp_path, family):
    last, rate = (120, 0.003) if family == "chronos2" else (60, 0.01)  # two kinds of attention, 21 levels
    steps = {"max_steps": last, "log_steps": 5, "eval_steps": last, "save_steps": last}
    made = recipe(family=family, shares={"clean_season": 1.0}, learning_rate=rate, **steps)
    pretrain(made, tmp_path / "run", progress=False, device="cpu")
    told = losses(tmp_path / "run")
    assert told[last] < 0.8 * told[5]


def test_minutes_end_a_training(recipe, tmp_path, monkeypatch):
    made = recipe(max_steps=None, minutes=1.0, save_steps=100, eval_steps=100, cooldown_ratio=0.5, warmup_ratio=0.0001)
    ticking = itertools.count(0, 5)  # five seconds a look
    whole = Clock.__init__
    monkeypatch.setattr(Clock, "__init__", lambda self, *a, **k: whole(self, *a, **k, now=lambda: next(ticking)))
    trained = pretrain(made, tmp_path / "run", progress=False, device="cpu")
    assert trained.recipe["pretraining"]["steps"] == 12
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run" / "log.jsonl") if "learning_rate" in line]
    assert rates[3] == pytest.approx(made.muon_learning_rate)
    assert rates[-1] < 0.4 * made.muon_learning_rate
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-12" / "complete.json").exists()


def test_a_finished_training_is_opened_and_one_with_more_steps_goes_on(recipe, tmp_path):
    made = recipe(max_steps=2, save_steps=2, eval_steps=2)
    first = pretrain(made, tmp_path / "run", progress=False, device="cpu")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    again = pretrain(made, tmp_path / "run", progress=False, device="cpu")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    assert again.recipe == first.recipe
    more = pretrain(recipe(max_steps=3, log_steps=3), tmp_path / "run", progress=False, device="cpu")
    assert more.recipe["pretraining"]["steps"] == 3
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]


def test_minutes_end_with_a_validation(recipe, tmp_path):
    pretrain(recipe(max_steps=None, minutes=1e-6), tmp_path / "run", progress=False, device="cpu")
    assert [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl") if "eval_loss" in line] == [1]


def test_another_number_of_processes_is_refused(recipe, tmp_path):
    pretrain(recipe(max_steps=3), tmp_path / "run", progress=False, device="cpu")
    told = tmp_path / "run" / "checkpoints" / "checkpoint-3" / "complete.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "processes": 2}))
    with pytest.raises(FlowrankError, match="output: expected 2 processes"):
        pretrain(recipe(max_steps=4), tmp_path / "run", progress=False, device="cpu")


def test_series_held_out_do_not_depend_on_the_batch(recipe, tmp_path):
    told = []
    for batch in (2, 8):
        still = {"learning_rate": 1e-12, "muon_learning_rate": 1e-12, "max_steps": 1, "eval_steps": 1}
        made = recipe(per_device_train_batch_size=batch, **still)
        pretrain(made, tmp_path / str(batch), progress=False, device="cpu")
        told += [line["eval_loss"] for line in read_log(tmp_path / str(batch) / "log.jsonl") if "eval_loss" in line]
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_training_starts_from_another_model(recipe, tmp_path):
    first = pretrain(recipe(schedule=Widths((2, 4, 4, 8))), tmp_path / "first", progress=False, device="cpu")
    second = recipe(initial_model=str(tmp_path / "first"), max_steps=1, learning_rate=1e-12, muon_learning_rate=1e-12)
    again = pretrain(second, tmp_path / "second", progress=False, device="cpu")
    assert again.is_compressed
    for name, weights in first.inner_model.state_dict().items():
        torch.testing.assert_close(weights, again.inner_model.state_dict()[name])
    assert again.recipe["pretraining"]["recipe"]["d_model"] == 16


def test_token_embedding_is_reused_and_frozen(recipe, tmp_path):
    donor = pretrain(recipe(family="t5"), tmp_path / "donor", progress=False, device="cpu")
    made = recipe(family="t5", seed=1, token_embedding=str(tmp_path / "donor"), freeze_token_embedding=True)
    heir = pretrain(made, tmp_path / "heir", progress=False, device="cpu")
    assert torch.equal(donor.inner_model.shared.weight, heir.inner_model.shared.weight)
    other = pretrain(recipe(family="t5", seed=1), tmp_path / "other", progress=False, device="cpu")
    assert not torch.equal(donor.inner_model.shared.weight, other.inner_model.shared.weight)


def test_embedding_of_another_size_is_refused(recipe, tmp_path, t5_folder):
    with pytest.raises(FlowrankError, match="token_embedding"):
        pretrain(recipe(family="t5", token_embedding=str(t5_folder)), tmp_path / "run", progress=False, device="cpu")


def test_folders_are_not_taken_over(recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FlowrankError, match="something else"):
        pretrain(recipe(), tmp_path / "mine", progress=False, device="cpu")
    pretrain(recipe(max_steps=1), tmp_path / "run", progress=False, device="cpu")
    with pytest.raises(FlowrankError, match="another d_ff"):
        pretrain(recipe(max_steps=1, d_ff=64), tmp_path / "run", progress=False, device="cpu")
