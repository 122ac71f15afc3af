"""Fine-tuning: a dense model as chronos-forecasting does, a smaller one by the same steps."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from chronos.chronos2.dataset import Chronos2Dataset, DatasetMode
from torch import nn
from transformers import TrainerCallback

import flowrank
from flowrank import Budget, FlowrankError, JointHeads
from flowrank.families.chronos2 import tuning
from flowrank.families.chronos2.pipeline import FlowrankChronos2Pipeline
from flowrank.families.chronos2.tuning import ADAPTED, linears_of
from tests.families.chronos2 import largest_gap, narrow_chronos2, random_chronos2, stock, walk
from tests.layers import attention_layers, narrow_model

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")

SERIES = [walk(60, seed=1), walk(2, 50, seed=2), walk(44, seed=3)]
COVARIATES = [
    {"target": walk(60), "past_covariates": {"a": walk(60), "b": walk(60)}, "future_covariates": {"a": None}}
] * 2
QUICK = {"prediction_length": 8, "num_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "disable_tqdm": True}
HAS_PEFT = importlib.util.find_spec("peft") is not None


def weights(pipeline):
    return {name: one.clone() for name, one in pipeline.model.state_dict().items()}


def twin_of(pipeline):
    """A model of full layers of their own widths, with the weights of a dense one."""
    heads = pipeline.model.config.num_heads
    shapes = {
        name: {"d_qk": [8] * heads, "d_vo": [8] * heads, "ranks": {}} for name in attention_layers(pipeline.model)
    }
    model = narrow_model(pipeline.model, attention=shapes)
    model.load_state_dict(pipeline.model.state_dict())
    return FlowrankChronos2Pipeline(model.eval())


def small():
    """A model of factors, heads that are gone, and a few planes."""
    names = attention_layers(random_chronos2().model)
    over_time = {"d_qk": [4, 4, 4], "d_vo": [8, 0, 3], "ranks": {"q": 3, "o": 4}, "planes": [[0, 2], [0, 1], [1, 3]]}
    over_groups = {"d_qk": [2, 5, 0], "d_vo": [4, 4, 0], "ranks": {"v": 2}}
    shapes = {name: over_time if layer.use_rope else over_groups for name, layer in names.items()}
    return narrow_chronos2(attention=shapes)


@pytest.mark.parametrize("inputs", [SERIES, COVARIATES, walk(3, 2, 50)], ids=["series", "covariates", "a batch"])
def test_dense_and_narrow_models_are_trained_as_the_stock_one(inputs, tmp_path):
    pipeline = random_chronos2()
    before = weights(pipeline)
    expected = stock(pipeline).fit(inputs, **QUICK, output_dir=tmp_path / "stock")
    found = pipeline.fit(inputs, **QUICK, output_dir=tmp_path / "dense")
    twin = twin_of(pipeline).fit(inputs, **QUICK, output_dir=tmp_path / "narrow")
    assert all(torch.equal(one, before[name]) for name, one in weights(pipeline).items())
    moved = max(float((one - before[name]).abs().max()) for name, one in weights(expected).items())
    assert moved > 1e-3
    for name, one in weights(expected).items():
        assert torch.equal(weights(found)[name], one)
        torch.testing.assert_close(weights(twin)[name], one, rtol=1e-3, atol=1e-5)
    for one in (found, twin):
        assert type(one) is FlowrankChronos2Pipeline
        assert one.path == "exact"
        assert not one.model.training


def test_the_loss_falls_on_what_is_trained(tmp_path):
    pipeline = flowrank.compress(
        random_chronos2(), JointHeads(Budget(0.3)), calibration_series=24, calibration_points=64
    )
    waves = [torch.sin(torch.arange(80.0) / 3 + shift) for shift in range(4)]

    def loss(one):
        options = {"context_length": 64, "prediction_length": 8, "batch_size": 9, "output_patch_size": 8}
        batch = next(iter(Chronos2Dataset(waves, mode=DatasetMode.VALIDATION, **options)))
        with torch.no_grad():
            return float(one.model(**batch).loss)

    tuned = pipeline.fit(waves, **{**QUICK, "num_steps": 40, "learning_rate": 3e-3}, output_dir=tmp_path)
    assert loss(tuned) < 0.7 * loss(pipeline)
    assert tuned.recipe["method"] == pipeline.recipe["method"]


def test_a_small_model_is_saved_whole_and_opens_again(tmp_path):
    pipeline = small()
    pipeline.memory_budget = 10**8
    tuned = pipeline.fit(SERIES, **QUICK, output_dir=tmp_path / "runs", finetuned_ckpt_name="mine")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    again = flowrank.load(tmp_path / "runs" / "mine")
    assert all(map(torch.equal, again.predict(SERIES), tuned.predict(SERIES)))
    assert again.recipe == json.loads(json.dumps(tuned.recipe))
    account = again.recipe["finetuning"]
    assert (account["num_steps"], account["prediction_length"], account["finetune_mode"]) == (3, 8, "full")
    assert account["parent"]["name"] == pipeline.name
    assert tuned.name == f"{pipeline.name} fine-tuned"
    assert tuned.memory_budget == 10**8
    assert "fine-tuned (full): 3 steps" in (tmp_path / "runs" / "mine" / "README.md").read_text()
    assert largest_gap(SERIES, tuned.predict(SERIES), stock(tuned).predict(SERIES)) <= 1e-5


def test_a_result_is_not_overwritten_unasked(tmp_path):
    pipeline = small()
    first = pipeline.fit(SERIES, **QUICK, output_dir=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FlowrankError, match="output_dir: expected a path that does not exist yet"):
        pipeline.fit(SERIES, **QUICK, output_dir=tmp_path)
    again = first.fit(SERIES, **QUICK, output_dir=str(tmp_path), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetuned-ckpt", "notes.txt"]
    found = flowrank.load(tmp_path / "finetuned-ckpt").predict(SERIES)
    assert all(map(torch.equal, found, again.predict(SERIES)))


@pytest.mark.parametrize("make", [random_chronos2, small])
def test_nothing_is_left_of_a_run_that_fails(make, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(SERIES, **QUICK, output_dir=tmp_path / "runs", callbacks=[Stop()])
    with pytest.raises(ValueError, match="empty after filtering"):
        make().fit([walk(9)], **QUICK, output_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [random_chronos2, small])
def test_longer_contexts_and_horizons_are_the_models_own_afterwards(make, tmp_path):
    pipeline = make()
    options = {**QUICK, "prediction_length": 33, "context_length": 96, "min_past": 5}
    tuned = pipeline.fit([walk(150)], **options, output_dir=tmp_path)
    for one in (tuned, flowrank.load(tmp_path / "finetuned-ckpt")):
        assert (one.model_context_length, one.model_prediction_length) == (96, 40)
        assert one.predict([walk(150)], prediction_length=40, limit_prediction_length=True)[0].shape == (1, 21, 40)
    assert (pipeline.model_context_length, pipeline.model_prediction_length) == (64, 24)


def test_the_best_weights_by_validation_are_kept(tmp_path):
    seen = []

    class Keep(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append(metrics["eval_loss"])

    callbacks = [Keep()]
    steps = {"eval_steps": 2, "save_steps": 2, "num_steps": 6, "learning_rate": 0.3}
    for make in (random_chronos2, small):
        seen.clear()
        folder = tmp_path / make.__name__
        tuned = make().fit(
            SERIES, **{**QUICK, **steps}, validation_inputs=SERIES, output_dir=folder, callbacks=callbacks
        )
        options = {"context_length": 64, "prediction_length": 8, "batch_size": 4, "output_patch_size": 8}
        batches = list(Chronos2Dataset(SERIES, mode=DatasetMode.VALIDATION, **options))
        with torch.no_grad():
            losses = [float(tuned.model(**batch).loss) for batch in batches]
        assert len(seen) == 3
        assert math.isclose(np.mean(losses), min(seen), rel_tol=1e-3)
    assert len(callbacks) == 1


def test_a_model_for_single_series_is_trained_on_them_alone(tmp_path):
    child = flowrank.univariate(random_chronos2())
    tuned = child.fit([walk(60), walk(50)], **QUICK, output_dir=tmp_path)
    assert tuned.univariate
    assert flowrank.load(tmp_path / "finetuned-ckpt").univariate
    for options in ({"inputs": SERIES}, {"inputs": [walk(60)], "validation_inputs": SERIES}):
        with pytest.raises(FlowrankError, match="single series without covariates"):
            child.fit(**options, **QUICK, output_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_half_precision_is_trained_in_fp32(tmp_path):
    for number, make in enumerate((random_chronos2, small)):
        pipeline = make()
        pipeline.model.to(torch.bfloat16)
        assert pipeline.fit(SERIES, **QUICK, output_dir=tmp_path / str(number)).model.dtype == torch.float32
        assert pipeline.model.dtype == torch.bfloat16


WRONG = [
    ({"finetune_mode": "half"}, "finetune_mode: expected one of"),
    ({"lora_config": {"r": 2}}, "lora_config: expected None"),
    ({"num_steps": 0}, "num_steps: expected a whole number"),
    ({"batch_size": 2.5}, "batch_size: expected a whole number"),
    ({"prediction_length": 0}, "prediction_length: expected a whole number"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
@pytest.mark.parametrize("make", [random_chronos2, small])
def test_options_that_are_none(make, options, message, tmp_path):
    with pytest.raises(FlowrankError, match=message):
        make().fit(SERIES, **{**QUICK, **options}, output_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_integers_are_not_trained(tmp_path):
    pipeline = flowrank.quantize(random_chronos2(d_model=64, d_ff=64))
    with pytest.raises(FlowrankError, match="fine-tune its parent, then quantize"):
        pipeline.fit(SERIES, **QUICK, output_dir=tmp_path / "runs")


@pytest.mark.parametrize("make", [random_chronos2, small])
def test_fev_tasks_after_fine_tuning(make, tmp_path, monkeypatch):
    fev = pytest.importorskip("fev")
    monkeypatch.chdir(tmp_path)
    rows = {"id": ["a", "b"], "timestamp": [list(pd.date_range("2024-01-01", periods=60))] * 2}
    pd.DataFrame({**rows, "target": [one.tolist() for one in walk(2, 60)]}).to_parquet("data.parquet")
    task = fev.Task(dataset_path="data.parquet", horizon=8, quantile_levels=[0.1, 0.5])
    pipeline, options = make(), {key: one for key, one in QUICK.items() if key != "prediction_length"}
    before, _ = pipeline.predict_fev(task)
    forecasts = [pipeline.predict_fev(task, finetune_kwargs=options)[0][0]["target"]["predictions"] for _ in range(2)]
    assert np.array_equal(*forecasts)
    assert not np.allclose(forecasts[0], before[0]["target"]["predictions"])
    assert len(list(tmp_path.glob("chronos-2-finetuned/*/finetuned-ckpt/config.json"))) == 2


@pytest.mark.parametrize("package", ["peft", "accelerate"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "is_peft_available", lambda: package != "peft")
    if package == "accelerate":
        monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlowrankError, match=rf"pip install {package}, or pip install \"flowrank\[finetune\]\""):
        small().fit(SERIES, **QUICK, finetune_mode="lora", output_dir=tmp_path / "runs")


def test_layers_that_are_adapted():
    found = linears_of(small().model, ADAPTED)
    attention = "encoder.block.0.layer.0.self_attention"
    assert {name for name in found if name.startswith(attention)} == {
        *(f"{attention}.{name}" for name in ("q.down", "q.up", "k", "v", "o.down", "o.up"))
    }
    assert {name for name in found if not name.startswith("encoder")} == {"output_patch_embedding.output_layer"}
    child = flowrank.univariate(random_chronos2()).model
    assert "encoder.block.0.layer.1.self_attention.q" not in linears_of(child, ADAPTED)
    assert linears_of(nn.Linear(2, 2), [""]) == {""}


@pytest.mark.skipif(not HAS_PEFT, reason="peft is not installed")
@pytest.mark.parametrize("config", [None, {"r": 2, "lora_alpha": 4, "target_modules": ["self_attention.q"]}])
@pytest.mark.parametrize("make", [random_chronos2, small, lambda: flowrank.univariate(random_chronos2())])
def test_adapters_are_added_to_the_weights(make, config, tmp_path):
    pipeline = make()
    before = weights(pipeline)
    inputs = [walk(60), walk(50)]
    tuned = pipeline.fit(inputs, **QUICK, finetune_mode="lora", lora_config=config, output_dir=tmp_path)
    after = weights(tuned)
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    wanted = ADAPTED if config is None else ["self_attention.q"]
    assert changed == {f"{name}.weight" for name in linears_of(pipeline.model, wanted)}
    assert tuned.path == "exact"
    assert set(after) == set(before)
    again = flowrank.load(tmp_path / "finetuned-ckpt")
    assert all(map(torch.equal, again.predict(inputs), tuned.predict(inputs)))
    assert [path.name for path in tmp_path.iterdir()] == ["finetuned-ckpt"]


@pytest.mark.skipif(not HAS_PEFT, reason="peft is not installed")
def test_adapters_are_trained_as_those_of_the_stock_pipeline(tmp_path):
    class Begin(TrainerCallback):
        """Adapters begin with the same numbers, whatever was drawn before."""

        def on_train_begin(self, args, state, control, model, **kwargs):
            generator = torch.Generator().manual_seed(0)
            for name, parameter in model.named_parameters():
                if "lora_A" in name:
                    parameter.data.copy_(torch.randn(parameter.shape, generator=generator))

    pipeline = random_chronos2()
    options = {**QUICK, "finetune_mode": "lora", "callbacks": [Begin()]}
    expected = stock(pipeline).fit(SERIES, **options, output_dir=tmp_path / "stock").model.eval()
    for number, one in enumerate((pipeline, twin_of(pipeline))):
        tuned = one.fit(SERIES, **options, output_dir=tmp_path / str(number))
        with torch.no_grad():
            found, theirs = (model(walk(3, 40)).quantile_preds for model in (tuned.model, expected))
        torch.testing.assert_close(found.arcsinh(), theirs.arcsinh(), rtol=1e-3, atol=1e-4)
