"""Two processes on CPUs (gloo) train the model that one process trains on the same batches in two passes a step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import flowrank
from flowrank.family import training_of
from flowrank.pretraining import pretrain
from flowrank.pretraining.architecture import build
from flowrank.pretraining.config import to_yaml
from flowrank.pretraining.journal import read_log
from flowrank.pretraining.windows import Windows


@pytest.mark.parametrize("family", ["bolt", "t5", "chronos2"])
def test_two_processes_and_two_passes_are_the_same(recipe, tmp_path, family):
    shared = {"family": family, "optim": "adamw", "max_steps": 3, "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
    alone = recipe(gradient_accumulation_steps=2, **shared)
    pretrain(alone, tmp_path / "one", progress=False, device="cpu")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe(**shared)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "flowrank.cli", "pretrain", str(tmp_path / "two"), "--config", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--device", "cpu", "--quiet"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters") == 2  # told once: the table has two such lines
    one, two = (flowrank.load(tmp_path / name) for name in ("one", "two"))
    assert two.recipe["pretraining"]["processes"] == 2
    assert two.recipe["pretraining"]["series"] == one.recipe["pretraining"]["series"] == 3 * 2 * 8
    losses = [
        [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line] for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    batches = Windows(alone, batches=2)
    model = build(alone).inner_model
    training = training_of(family)
    first = [float(model(**training.inputs(alone, batches.batch(number))).loss) for number in (0, 1)]
    assert losses[0][0] == pytest.approx(sum(first) / 2, rel=1e-5)
    for name, weights in one.inner_model.state_dict().items():
        torch.testing.assert_close(two.inner_model.state_dict()[name], weights, rtol=1e-3, atol=1e-4)
