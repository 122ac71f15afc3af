"""The benchmark of planes that stop turning, on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flowrank

PATH = Path(__file__).parents[1] / "benchmarks" / "slow_planes.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("slow_planes_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_fall_as_more_planes_turn(benchmark, chronos2_folder, tmp_path, monkeypatch):
    output, figure = tmp_path / "found.json", tmp_path / "found.svg"
    words = ["slow_planes.py", str(chronos2_folder), "--series", "2", "--pairs", "64", "--spans", "15", "577"]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(output), "--figure", str(figure)])
    benchmark.main()
    rows = json.loads(output.read_text())["rows"]
    assert sorted({row["tokens"] for row in rows}) == [15, 21]  # what it reads: 16 patches, [REG], 4 ahead
    for tokens in (15, 21):
        mine = [row for row in rows if row["tokens"] == tokens]
        assert [row["turning"] for row in mine] == [0, 1, 2, 3, 4]
        assert [row["largest_angle"] for row in mine[:4]] == pytest.approx([10.0**-p * (tokens - 1) for p in range(4)])
        errors = [row["score_error"] for row in mine]
        assert errors == sorted(errors, reverse=True)
        assert all(row["score_error"] <= row["score_bound"] for row in mine)
        assert mine[-1]["score_error"] == mine[-1]["forecast_error"] == 0
        assert mine[0]["forecast_error"] > 10 * mine[3]["forecast_error"] > 0
    assert b"<svg" in figure.read_bytes()
    with pytest.raises(flowrank.FlowrankError, match="overwrit"):
        benchmark.main()


def test_no_plane_turning_is_all_tokens_at_one_place(benchmark, chronos2_folder):
    model = flowrank.load(chronos2_folder).inner_model
    context = benchmark.contexts(model, 15, 2)
    usual = benchmark.forecast(model, context)
    with benchmark.turning(benchmark.time_attention(model), 0):
        found = benchmark.forecast(model, context)
    assert torch.equal(benchmark.forecast(model, context), usual)

    def one_place(_module, args, kwargs):
        places = torch.zeros(1, args[0].shape[1], dtype=torch.long)
        return args, {**kwargs, "position_ids": places}

    handles = [block.layer[0].register_forward_pre_hook(one_place, with_kwargs=True) for block in model.encoder.block]
    expected = benchmark.forecast(model, context)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(expected, usual, rtol=1e-2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_narrowed_models_are_refused(benchmark, bolt_folder):
    with pytest.raises(SystemExit, match="MODEL"):
        benchmark.time_attention(flowrank.load(bolt_folder).inner_model)
