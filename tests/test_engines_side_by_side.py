"""Engines in processes of their own: turns, ratios, and what becomes of a process that fails."""

from __future__ import annotations

import json
import os
import shutil
from typing import ClassVar

import pytest

import flowrank
from flowrank.benchmarking import compare_engines, engines
from flowrank.errors import FlowrankError


def _ends(pipe, model, engine, settings):
    """A process that dies before it says anything."""
    os._exit(3)


def _ends_when_asked(pipe, model, engine, settings):
    pipe.send({"context_length": 8, "horizon": 2, "samples": False, "device": {"type": "cpu", "name": "a test"}})
    pipe.recv()
    os._exit(4)


class Side:
    """Answers as a process would: seconds by engine and batch size, or why there are none."""

    asked: ClassVar[list] = []
    seconds_of: ClassVar[dict] = {"stock": 0.4, "exact": 0.2, "openvino": 0.1}

    def __init__(self, model, engine, settings):
        self.model, self.engine, self.settings = model, engine, settings
        self.facts, self.why, self.unfit = {}, "", False

    def await_opening(self):
        self.unfit = self.engine == "onnxruntime"
        self.why = "not for this family" if self.unfit else ""
        device = {"type": "cpu", "name": "a test"}
        facts = {"context_length": 96, "horizon": 12, "samples": False, "device": device}
        self.facts = {} if self.unfit else facts

    def seconds(self, work, count):
        if self.why:
            return [], self.why
        Side.asked.append((self.model, self.engine, work, count))
        if self.engine == "openvino" and work[0] > 1:
            return [], "MemoryError: too much"
        return [self.seconds_of[self.engine] * work[0]] * count, ""

    def close(self):
        self.why = "closed"


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setattr(engines, "_Side", Side)
    monkeypatch.setattr(engines, "PAUSE", 0)
    monkeypatch.setattr(engines, "installed", lambda: ["onnxruntime", "openvino"])
    monkeypatch.setattr(engines, "version", lambda package: "1")
    monkeypatch.setattr(engines, "check_installed", lambda name, argument: name)
    Side.asked = []


def test_engines_take_turns_and_are_compared_with_the_stock_code_of_the_first_model(stubbed):
    told = []
    models = ["flow-bolt-mini", "flow-bolt"]
    found = compare_engines(models, batch_sizes=[1, 4], repeats=6, threads=1, on_row=told.append)
    assert json.loads(json.dumps(found)) == found
    assert told == found["rows"]
    assert (found["workload"]["context_length"], found["workload"]["horizon"]) == (96, 12)
    assert found["device"] == {"type": "cpu", "name": "a test", "threads": 1}
    assert found["versions"]["openvino"] == "1"
    sides = [(model, engine) for model in models for engine in ("stock", "exact", "openvino")]
    one = [(model, engine) for model, engine, work, _ in Side.asked if work[0] == 1]
    assert one == 5 * sides  # a warm-up and four rounds
    counts = [count for model, engine, work, count in Side.asked if (model, engine, work[0]) == (*sides[0], 1)]
    assert counts == [3, 2, 2, 1, 1]
    rows = {(row["model"], row["engine"], row["batch_size"]): row for row in found["rows"]}
    assert rows["flow-bolt", "exact", 4]["least_s"] == pytest.approx(0.8)
    assert rows["flow-bolt", "exact", 4]["median_over_stock"] == pytest.approx(0.5)
    assert rows["flow-bolt", "openvino", 1]["least_over_stock"] == pytest.approx(0.25)
    failed = rows["flow-bolt", "openvino", 4]
    assert (failed["why"], failed["least_s"], failed["least_over_stock"]) == ("MemoryError: too much", None, None)
    assert all(row["why"] is None for key, row in rows.items() if key[1:] != ("openvino", 4))


def test_an_engine_that_was_asked_for_and_cannot_run_the_model_is_a_row_that_says_why(stubbed):
    found = compare_engines("flow-bolt-mini", engines=["exact", "onnxruntime"], batch_sizes=[2], repeats=1)
    exact, graph = found["rows"]
    assert (exact["least_s"], exact["least_over_stock"], exact["why"]) == (0.4, None, None)
    assert (graph["engine"], graph["least_s"], graph["why"]) == ("onnxruntime", None, "not for this family")


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, r"models: expected names, hub ids or folders.*found none"),
        (object(), {}, "models: expected names, hub ids or folders.*found object"),
        ("./not-there", {}, "models: expected a hub id.*not there"),
        ("flow-bolt-mini", {"engines": ["steam"]}, "engines: expected some of exact, stock.*found 'steam'"),
        ("flow-bolt-mini", {"engines": "stock"}, "engines: expected a list"),
        ("flow-bolt-mini", {"engines": []}, "engines: expected a list of some of exact.*found none"),
        ("flow-bolt-mini", {"batch_sizes": [0]}, "batch_sizes: expected a whole number ≥ 1, found 0"),
        ("flow-bolt-mini", {"batch_sizes": "1,2"}, "batch_sizes: expected numbers of series"),
        ("flow-bolt-mini", {"repeats": 0}, "repeats: expected a whole number"),
        ("flow-bolt-mini", {"threads": 0}, "threads: expected a whole number"),
        ("flow-bolt-mini", {"horizon": 0}, "horizon: expected a whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused(stubbed, models, options, message):
    with pytest.raises(FlowrankError, match=message):
        compare_engines(models, **options)
    assert Side.asked == []


def test_a_runtime_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr("flowrank.graphs.runtimes.find_spec", lambda name: None)
    with pytest.raises(FlowrankError, match=r"engines: expected the package openvino.*flowrank\[openvino\]"):
        compare_engines("flow-bolt-mini", engines=["openvino"])


@pytest.mark.parametrize(("target", "code"), [(_ends, 3), (_ends_when_asked, 4)])
def test_a_process_that_dies_is_reported(monkeypatch, target, code):
    monkeypatch.setattr(engines, "_serve", target)
    monkeypatch.setattr(engines, "PAUSE", 0)
    found = compare_engines("flow-bolt-mini", engines=["stock"], batch_sizes=[1, 2], repeats=1)
    assert [row["why"] for row in found["rows"]] == [f"its process ended with exit code {code}"] * 2


class Pipe:
    """The other end of a pipe, in one process."""

    def __init__(self, *questions):
        self.questions, self.answers = [*questions, None], []

    def send(self, answer):
        self.answers.append(answer)

    def recv(self):
        return self.questions.pop(0)


SETTINGS = {"threads": 1, "num_samples": 2, "seed": 0, "device_map": "cpu", "dtype": "auto"}


@pytest.fixture
def served(monkeypatch):
    """What a process says, without one."""

    def serve(model, engine, *questions, **settings):
        pipe = Pipe(*questions)
        engines._serve(pipe, str(model), engine, SETTINGS | settings)
        return pipe.answers

    monkeypatch.setattr(engines.warnings, "simplefilter", lambda action: None)
    return serve


def test_a_process_tells_the_model_and_then_seconds(served):
    facts, first = served("flow-bolt-mini", "stock", ((2, 48, 4), 3))
    assert (facts["context_length"], facts["horizon"], facts["samples"]) == (512, 64, False)
    assert facts["device"]["type"] == "cpu"
    assert len(first["seconds"]) == 3
    assert min(first["seconds"]) > 0


def test_models_that_draw_samples_are_timed_too(served):
    facts, seconds = served("flow-t5-mini", "exact", ((1, 16, 2), 1))
    assert facts["samples"]
    assert len(seconds["seconds"]) == 1


def test_a_process_tells_why_a_model_is_not_run_by_an_engine(served, bolt_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("flowrank.graphs.runtimes.find_spec", lambda name: None)
        (refused,) = served(bolt_folder, "onnxruntime")
    assert refused["unfit"]
    assert "the package onnxruntime" in refused["why"]
    (left,) = served(bolt_folder, "exact", dtype="float16")
    assert not left["unfit"]
    assert left["why"] == "model: expected one that the engine 'exact' computes, found one left to 'stock'"
    cut = shutil.copytree(bolt_folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(b"cut")
    (broken,) = served(cut, "stock")
    assert not broken["unfit"]
    assert "a whole safetensors file" in broken["why"]


def test_a_forecast_that_fails_is_told_and_the_process_goes_on(served):
    _, failed, good = served("flow-bolt-mini", "stock", ((1, 16, "far"), 1), ((1, 16, 2), 1))
    assert "Error: " in failed["why"] or "expected" in failed["why"]
    assert len(good["seconds"]) == 1


def test_one_real_process(bolt_folder):
    found = flowrank.compare_engines(bolt_folder, engines=["stock"], batch_sizes=[1], repeats=2, threads=1)
    (row,) = found["rows"]
    assert row["why"] is None
    assert 0 < row["least_s"] <= row["median_s"]
    assert (row["least_over_stock"], row["median_over_stock"]) == (1.0, 1.0)
    assert (found["workload"]["context_length"], found["workload"]["horizon"]) == (64, 16)
