"""Costs are counted from shapes and allocations: both are compared with tensors that really exist."""

from __future__ import annotations

import json

import pytest
import torch
from chronos import BaseChronosPipeline
from torch import nn

from flowrank.benchmarking import benchmark, peak_memory
from flowrank.benchmarking.comparison import _ratios, device_name
from flowrank.errors import FlowrankError
from tests.conftest import make_t5

CONTEXT, HORIZON = 24, 6


def test_peak_memory_of_known_allocations():
    def call():
        first = torch.ones(100_000)  # 400 kB live
        second = torch.ones(50_000)  # 600 kB live
        del first, second
        third = torch.ones(120_000)  # 480 kB live
        return third.shape

    assert peak_memory(call) == 600_000


def test_peak_memory_ignores_what_was_held_before():
    held = torch.ones(1_000_000)
    assert peak_memory(lambda: held.add_(1).shape) < 1000


def test_peak_memory_is_unknown_on_devices_that_do_not_count():
    assert peak_memory(lambda: None, device=torch.device("meta")) is None


def test_peak_memory_on_cuda_reads_its_counter(monkeypatch):
    counters = {"memory_allocated": 70, "max_memory_allocated": 100}
    for name, value in counters.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    assert peak_memory(lambda: None, device=torch.device("cuda", 0)) == 30


def test_benchmark_of_a_narrower_child(t5, tmp_path):
    parent, child = t5, BaseChronosPipeline.from_pretrained(make_t5(tmp_path / "narrow", d_kv=3))
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    result = benchmark(
        child,
        parent,
        batch_size=2,
        context_length=CONTEXT,
        horizon=HORIZON,
        num_samples=3,
        repeats=2,
        threads=1,
        seed=5,
    )
    assert json.loads(json.dumps(result)) == result
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)

    assert result["workload"] == {
        "batch_size": 2,
        "context_length": CONTEXT,
        "horizon": HORIZON,
        "num_samples": 3,
        "repeats": 2,
        "seed": 5,
    }
    assert result["device"]["threads"] == 1
    assert result["device"]["type"] == "cpu"
    assert result["versions"]["torch"] == torch.__version__

    measured = result["models"]["parent"]
    layers = 2 + 2 * 2  # two in the encoder; self and cross in two of the decoder
    assert measured["attention_parameters"] == layers * 4 * 24 * 18
    assert measured["parameters"] == sum(p.numel() for p in parent.inner_model.parameters())
    assert measured["weight_bytes"] == 4 * measured["parameters"]
    assert measured["dtype"] == "float32"
    assert measured["peak_bytes"] > sum(measured["cache_bytes"].values()) > 0
    times = measured["latency_s"]
    assert len(times["all"]) == 2
    assert 0 < times["min"] <= times["median"] <= times["max"]

    ratio = result["ratio"]
    assert ratio["attention_parameters"] == 0.5
    assert ratio["cache_bytes"] == ratio["cache_bytes_self"] == ratio["cache_bytes_cross"] == 0.5
    assert ratio["weight_bytes"] == ratio["parameters"] < 1
    pairs = [c / p for c, p in zip(result["models"]["child"]["latency_s"]["all"], times["all"], strict=True)]
    assert ratio["latency"] == {"min": min(pairs), "median": sum(pairs) / 2, "max": max(pairs)}


def test_benchmark_takes_turns_and_asks_for_the_same_samples(t5, t5_folder, monkeypatch):
    other, calls = BaseChronosPipeline.from_pretrained(t5_folder), []
    for name, pipeline in {"parent": t5, "child": other}.items():
        stock = pipeline.predict

        def predict(*args, name=name, stock=stock, **kwargs):
            samples = stock(*args, **kwargs)
            calls.append((name, samples))
            return samples

        monkeypatch.setattr(pipeline, "predict", predict)
    benchmark(other, t5, batch_size=1, context_length=8, horizon=2, num_samples=2, repeats=1)
    assert [name for name, _ in calls] == ["parent", "child"] * 4  # warm-up twice, timed once, memory once
    assert all(torch.equal(samples, calls[0][1]) for _, samples in calls)


def test_bolt_defaults_come_from_the_parent(bolt):
    result = benchmark(bolt, bolt, batch_size=1, repeats=1)
    assert result["workload"]["context_length"] == 64
    assert result["workload"]["horizon"] == 16
    assert result["workload"]["num_samples"] is None
    assert result["ratio"]["peak_bytes"] == 1.0
    assert result["models"]["child"]["engine"] == "stock"


def test_each_pipeline_takes_its_own_code_path(t5_folder):
    import flowrank

    exact, stock = flowrank.load(t5_folder), flowrank.load(t5_folder, engine="stock")
    result = benchmark(exact, stock, batch_size=2, context_length=CONTEXT, horizon=HORIZON, num_samples=4, repeats=1)
    assert [result["models"][key]["engine"] for key in ("parent", "child")] == ["stock", "exact"]
    assert result["ratio"]["cache_bytes_cross"] == 1 / 4
    assert result["ratio"]["parameters"] == 1
    for model in result["models"].values():
        assert model["floor_s"] > 0
        assert model["flops"] > 0


def test_ratio_is_empty_where_the_parent_has_nothing():
    part = {
        "parameters": 1,
        "attention_parameters": 0,
        "weight_bytes": 4,
        "peak_bytes": None,
        "cache_bytes": {"self": 0, "cross": 0},
        "latency_s": {"all": [1.0]},
    }
    ratio = _ratios(part, part)
    assert ratio["parameters"] == 1
    assert ratio["attention_parameters"] is ratio["peak_bytes"] is ratio["cache_bytes"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number ≥ 1, found 0"),
        ({"repeats": True}, "repeats: expected a whole number"),
        ({"horizon": 0}, "horizon: expected a whole number"),
        ({"context_length": -1}, "context_length: expected"),
        ({"threads": 1.5}, "threads: expected"),
    ],
)
def test_numbers_must_be_positive(t5, options, message):
    with pytest.raises(FlowrankError, match=message):
        benchmark(t5, t5, **options)


def test_other_models_are_refused(t5):
    with pytest.raises(FlowrankError, match=r"child: expected a pipeline .* that forecasts, found Linear"):
        benchmark(nn.Linear(1, 1), t5)
    t5.inner_model = nn.Linear(1, 1)
    with pytest.raises(FlowrankError, match="found Linear"):
        benchmark(t5, t5)


def test_models_on_two_devices_are_refused(t5, t5_folder):
    elsewhere = BaseChronosPipeline.from_pretrained(t5_folder)
    elsewhere.inner_model.to("meta")
    with pytest.raises(FlowrankError, match="a model on the parent's device, cpu, found one on meta"):
        benchmark(elsewhere, t5)


def test_device_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    assert device_name(torch.device("cuda", 0)) == "GPU of a test"

    def refuse(*args, **kwargs):
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    assert "cores" in device_name(torch.device("cpu"))
