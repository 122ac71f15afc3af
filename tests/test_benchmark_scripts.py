"""What the benchmarks of joint forecasts, of the headline and of fine-tuning compute, on small things."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank


@pytest.fixture
def script(monkeypatch):
    """Modules of the folder of benchmarks, by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def test_rows_are_computed_once_and_another_run_is_refused(script, tmp_path):
    shared, path = script("shared"), tmp_path / "rows.json"
    calls = []

    def compute():
        calls.append(1)
        return {"WQL": 0.5, "span": (1.0, 0.9, 1.1)}

    first = shared.Rows(path, {"model": "m"}).row("a", compute)
    assert shared.Rows(path, {"model": "m"}).row("a", compute) == first
    assert len(calls) == 1
    assert json.loads(path.read_text())["rows"] == [{"key": "a", "WQL": 0.5, "span": [1.0, 0.9, 1.1]}]
    with pytest.raises(flowrank.FlowrankError, match="model 'm'"):
        shared.Rows(path, {"model": "other"})


def test_relative_scores_leave_out_what_the_base_cannot_score_but_no_failure(script):
    shared = script("shared")
    base = pd.DataFrame({"WQL": [1.0, 4.0, np.nan], "MASE": [1.0, 1.0, 1.0]}, index=["a", "b", "c"])
    scores = pd.DataFrame({"WQL": [2.0, 2.0, np.nan], "MASE": [2.0, np.nan, 1.0]}, index=["a", "b", "c"])
    found = shared.relative(scores, base)
    assert found["WQL"] == pytest.approx(1.0)
    assert np.isnan(found["MASE"])


def test_the_ratio_of_a_group_is_that_of_sums_within_its_interval(script):
    joint = script("joint")
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 2, 300)
    above = below * rng.uniform(0.8, 1.0, 300)
    (ratio, low, high), spread = joint.ratio(above, below)
    assert ratio == pytest.approx(above.sum() / below.sum())
    assert low < ratio < high
    assert (high - low) / ratio == pytest.approx(2 * joint.NORMAL * spread, rel=0.15)


def test_tasks_have_several_series_and_known_covariates_and_other_seeds_give_others(script):
    joint = script("joint")
    driven = joint.cases("weather", 64, 24, 8, joint.SEED)
    assert len(driven) == 8
    for case in driven:
        assert len(case.covariates) > 0
        assert case.targets.shape[1] == 64
        assert case.truth.shape == (len(case.targets), 24)
        assert case.ahead.shape == (len(case.covariates), 24)
    together = joint.cases("factors", 64, 24, 4, joint.SEED)
    assert all(len(case.targets) > 1 and not len(case.covariates) for case in together)
    others = joint.cases("weather", 64, 24, 8, joint.SEED + 1)
    assert not np.array_equal(driven[0].targets, others[0].targets, equal_nan=True)


def test_without_group_attention_the_group_adds_nothing(script, chronos2_folder):
    joint, shared = script("joint"), script("shared")
    some = joint.cases("weather", 64, 24, 3, joint.SEED)
    zeroed = shared.without_attention(str(chronos2_folder), "group")
    apart, group = (joint.losses(zeroed, some, 24, together=together) for together in (False, True))
    assert apart == pytest.approx(group, rel=1e-4)
    whole = flowrank.load(chronos2_folder)
    apart, group = (joint.losses(whole, some, 24, together=together) for together in (False, True))
    assert not np.allclose(apart, group, rtol=1e-4)


def test_ranks_of_heads_are_those_of_the_products(script):
    tuning = script("fine_tuning")
    left, right = (torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    expected = torch.linalg.svdvals(left.T @ right)[:4]
    assert torch.allclose(tuning.spectrum(left, right).sigma, expected)
    wide = torch.randn(12, 9, dtype=torch.float64)
    assert torch.allclose(tuning.spectrum(wide, wide).sigma, torch.linalg.svdvals(wide.T @ wide))
    pipeline = flowrank.load("flow-bolt-mini")
    child = flowrank.compress(pipeline, flowrank.JointHeads(flowrank.Budget(0.25)), calibration_series=128)
    heads = tuning.products(pipeline)
    same, fewer = tuning.ranks(pipeline, heads), tuning.ranks(child, heads)
    assert same["QK change"] == same["VO change"] == 0
    assert 0 < fewer["QK change"] < 1.2
    assert fewer["QK rank 0.01"] < same["QK rank 0.01"]


def test_adapters_are_merged_into_a_plain_model(script, tmp_path):
    pytest.importorskip("peft")
    tuning = script("fine_tuning")
    pipeline = flowrank.load("flow-bolt-mini", dtype=torch.float32)
    options = {"steps": 3, "eval_steps": 1, "batch": 4, "rate_lora": 1e-2, "lora_rank": 2, "seed": 0}
    time = np.arange(120, dtype=np.float32)
    histories = [np.sin(time * speed) + 0.01 * time for speed in (0.3, 0.4, 0.5)]
    tuned = tuning.Tuned(histories, 8, type("Options", (), options))(pipeline, "lora", tmp_path)
    before, after = (dict(one.inner_model.named_parameters()) for one in (pipeline, tuned))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("Attention" in name for name in changed)
    tuned.save_pretrained(tmp_path / "tuned")
    again = flowrank.load(tmp_path / "tuned")
    assert all(torch.equal(one, after[name]) for name, one in again.inner_model.named_parameters())
    context = torch.tensor(histories[0])
    assert torch.allclose(again.predict([context]), tuned.predict([context]), atol=1e-5)


def test_a_table_has_what_was_timed_and_no_more(script):
    t5_runtimes = script("t5_runtimes")
    rows = [{"shape": "tiny", "batch": 1, "side": "stock", "least": 2.0, "median": 4.0}]
    rows += [{"shape": "tiny", "batch": 1, "side": "exact", "least": 0.5, "median": 3.0}]
    rows += [{"shape": "tiny", "batch": 1, "side": "compiled", "why": "no compiler"}]
    assert t5_runtimes.table(rows).splitlines()[-1] == "| tiny | 1 | 2 s (4) | no | 0.25 (0.75) |  |  |  |"
