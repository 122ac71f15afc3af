"""The search for the smallest model, against evaluate, its own log and undisturbed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

import flowrank
from flowrank import Budget, FlowrankError, Tolerance, WholeModel
from flowrank.family import family_of, tensor_digest
from flowrank.forecasting.corrections import excess_level
from flowrank.healing import checkpoints
from flowrank.search import SEARCH_LOG, Backtester
from flowrank.search.backtester import Comparison, _Part, _ratio, evenly
from flowrank.search.stages import Stage, next_ratio, read_stages
from flowrank.series import Series
from tests.conftest import make_bolt

QUICK = {"steps": 4, "calibration_series": 24, "validation_series": 48, "horizon": 8}
ROOMY = Tolerance(0.5, confidence=0.5)


def walks(count: int, length: int = 64) -> list[Series]:
    """Series whose histories, without the last 8 values, have mean magnitude 1."""
    rng = np.random.default_rng(0)
    values = 5 + rng.normal(size=(count, length)).cumsum(axis=1)
    return [Series(str(i), one / np.abs(one[:-8]).mean()) for i, one in enumerate(values)]


@pytest.fixture
def few_stages(monkeypatch):
    """Sizes far apart, and the last bisections left out: what a search does with its stages needs few of them."""
    smallest = import_module("flowrank.search.stages")
    monkeypatch.setattr(smallest, "_STEP", 0.3)
    monkeypatch.setattr(smallest, "_PRECISION", 4.0)


@pytest.fixture
def child(pipeline):
    """Half of the parameters."""
    return flowrank.compress(pipeline, WholeModel(Budget(0.5), rounds=1), calibration_series=12, calibration_points=64)


@pytest.mark.parametrize("metric", ["WQL", "MASE"])
def test_the_backtester_agrees_with_evaluate(pipeline, child, metric):
    if family_of(pipeline).sample_paths:
        pytest.skip("judged step by step, see the next test")
    # A moved level shows the last bits of what both round differently.
    series = [one for one in walks(40) if excess_level(one.target[:-8], 0.5) == 0][:20]
    scores = flowrank.evaluate({"parent": pipeline, "child": child}, {"walks": series}, prediction_length=8)
    expected = scores.set_index("model")[metric]
    backtester = Backtester(pipeline, series=series, horizon=8, metric=metric, confidence=0.5)
    assert backtester.series == 20
    assert 1 + backtester.compare(child).loss == pytest.approx(expected["child"] / expected["parent"], rel=2e-3)


def test_paths_are_judged_step_by_step(pipeline, child):
    """The first step is that of many paths, and no chance is left in what follows."""
    if not family_of(pipeline).sample_paths:
        pytest.skip("gives quantiles of the whole horizon at once")
    step = family_of(pipeline).input_step
    series = [one for one in walks(200, length=30) if excess_level(one.target[:-1], step) == 0][:40]
    assert len(series) == 40
    past = torch.tensor(np.stack([one.target[:-1] for one in series]), dtype=torch.float32)
    truth, levels = np.array([one.target[-1] for one in series]), np.arange(1, 10) / 10

    def drawn(model):
        paths = model.predict(past, prediction_length=1, num_samples=4000, seed=0)[:, :, 0]
        error = truth[:, None] - np.quantile(paths, levels, axis=1).T
        return np.maximum(levels * error, (levels - 1) * error).sum()

    backtester = Backtester(pipeline, series=series, horizon=1, confidence=0.5)
    assert 1 + backtester.compare(child).loss == pytest.approx(drawn(child) / drawn(pipeline), rel=0.02)
    again = Backtester(pipeline, series=series, horizon=1, confidence=0.5, seed=5)
    assert again.compare(child) == backtester.compare(child)


def test_the_users_series_are_judged_in_thirds(pipeline):
    """As many series in each, from those that the parent forecasts closely to those that it does not."""
    series = walks(400)
    backtester = Backtester(pipeline, series=series, also_synthetic=True, count=400, horizon=8)
    thirds = [np.concatenate(part.groups) for part in backtester._parts[:3]]
    assert sorted(np.concatenate(thirds)) == list(range(400))
    assert all(120 <= len(one) <= 140 for one in thirds)
    closely = [backtester._parent[one] for one in thirds]  # all series have 8 steps and magnitude 1
    assert closely[0].max() <= closely[1].min()
    assert closely[1].max() <= closely[2].min()
    assert len(backtester._parts) == 4 + family_of(pipeline).reads_groups
    assert len(Backtester(pipeline, series=series[:100], horizon=8)._parts) == 1  # too few to take apart
    assert len(Backtester(pipeline, count=400, horizon=8)._parts) == 1 + family_of(pipeline).reads_groups


def test_a_part_is_the_geometric_mean_of_its_groups_and_the_worst_part_counts():
    first, second, third = (np.arange(start, start + 5) for start in (0, 5, 10))
    mine, theirs = np.repeat([3.0, 5.0, 1.4], 5), np.repeat([2.0, 5.0, 1.0], 5)
    assert _ratio(mine, theirs, [_Part((first, second))]) == pytest.approx(1.5**0.5 - 1)
    assert _ratio(mine, theirs, [_Part((first, second)), _Part((third,))]) == pytest.approx(0.4)


def test_series_are_drawn_again_from_their_own_group():
    drawn = _Part((np.arange(5), np.arange(5, 10))).resampled(np.random.default_rng(0)).groups
    assert [one.shape[1] for one in drawn] == [5, 5]
    assert [(one.min(), one.max()) for one in drawn] == [(0, 4), (5, 9)]


def test_a_gain_on_some_series_does_not_pay_for_a_loss_on_others():
    parts = [_Part((np.arange(5), np.arange(5, 10)))]
    mine, theirs = np.repeat([3.0, 1.0], 5), np.repeat([2.0, 5.0], 5)
    assert _ratio(mine, theirs, parts) == pytest.approx(1.5**0.5 - 1)
    assert _ratio(theirs / 2, theirs, parts) == 0


def test_the_upper_end_is_above_and_a_model_loses_nothing_to_itself(pipeline, child):
    backtester = Backtester(pipeline, count=64, horizon=8)
    assert backtester.compare(pipeline).loss == backtester.compare(pipeline).upper == 0
    better, worse = pipeline, child
    if not backtester.compare(child).loss:  # of random weights the smaller model may be the better one
        better, worse = child, pipeline
    comparison = Backtester(better, count=64, horizon=8).compare(worse)
    assert comparison.upper > comparison.loss > 0
    assert Backtester(better, count=64, horizon=8, confidence=0.99).compare(worse).upper > comparison.upper


def test_the_smallest_model_holds_and_says_how_it_came_about(pipeline, tmp_path, few_stages):
    seen: list[Stage] = []
    found = flowrank.smallest(pipeline, ROOMY, folder=tmp_path / "s", on_stage=seen.append, **QUICK)
    counts = found.recipe["parameters"]
    assert found.inner_model.num_parameters() == counts["child"] < counts["parent"]
    stages = read_stages(tmp_path / "s" / SEARCH_LOG)
    assert stages == seen
    best = min((stage for stage in stages if stage.held), key=lambda stage: stage.cost)
    assert counts["child"] == best.parameters
    assert best.upper <= ROOMY.max_loss
    again = Backtester(pipeline, count=48, horizon=8, confidence=0.5).compare(found)
    assert again.loss == pytest.approx(best.loss, abs=1e-6)
    assert all(stage.upper > ROOMY.max_loss for stage in stages if not stage.held and stage.upper is not None)
    found.save_pretrained(tmp_path / "model")
    opened = flowrank.load(tmp_path / "model")
    assert tensor_digest(opened.inner_model) == tensor_digest(found.inner_model)
    assert opened.recipe["search"]["stages"] == [vars(stage) for stage in stages]


def test_where_nothing_smaller_holds_the_parent_comes_back(bolt_folder, monkeypatch):
    """Every model is found to lose a little more than it may: sizes come near the parent's, and then it is enough."""
    parent, seen = flowrank.load(bolt_folder), []
    monkeypatch.setattr(Backtester, "compare", lambda *_: Comparison(loss=0.01, upper=0.0101))
    found = flowrank.smallest(parent, Tolerance(0.01), on_stage=seen.append, **{**QUICK, "steps": 0})
    assert found is parent
    assert not any(stage.held for stage in seen)
    assert [stage.ratio for stage in seen] == pytest.approx([0.6**0.5**number for number in range(4)])


OPTIONS = {"steps": 45, "calibration_series": 24, "validation_series": 48, "horizon": 8}
SCRIPT = """
import json, os, signal, sys, torch
import flowrank
from flowrank import Tolerance
from flowrank.search.smallest import _Search
torch.set_num_threads(1)
def killed(self, number, start, ratio, stage=_Search._stage):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return stage(self, number, start, ratio)
_Search._stage = killed
sys.modules["flowrank.search.stages"]._PRECISION = 2.0
tolerance = Tolerance(0.0, confidence=0.5)
flowrank.smallest(flowrank.load(sys.argv[1]), tolerance, folder=sys.argv[2], **json.loads(sys.argv[3]))
"""


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    return make_bolt(tmp_path_factory.mktemp("search") / "bolt", num_layers=1, seed=1)


def searched(model, folder):
    """What the script does, here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(import_module("flowrank.search.stages"), "_PRECISION", 2.0)  # the last bisections left out
        return flowrank.smallest(flowrank.load(model), Tolerance(0.0, confidence=0.5), folder=folder, **OPTIONS)


@pytest.fixture(scope="module")
def undisturbed(one_layer, tmp_path_factory):
    """A search that nothing stopped, and its stages."""
    folder = tmp_path_factory.mktemp("search") / "whole"
    return searched(one_layer, folder), read_stages(folder / SEARCH_LOG)


@pytest.mark.parametrize("where", ["between stages", "in a healing"])
def test_a_search_that_was_cut_off_goes_on_to_the_same_model(undisturbed, one_layer, tmp_path, where):
    whole, stages = undisturbed
    assert any(stage.healed for stage in stages)
    if where == "between stages":
        command = [sys.executable, "-c", SCRIPT, str(one_layer), str(tmp_path / "cut"), json.dumps(OPTIONS)]
        killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(read_stages(tmp_path / "cut" / SEARCH_LOG)) == 1
    else:
        save, saved = checkpoints.Folder.save, []

        def stopping(self, *arguments, **options):
            save(self, *arguments, **options)
            saved.append(self)
            raise Stopped

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(checkpoints.Folder, "save", stopping)
            with pytest.raises(Stopped):
                searched(one_layer, tmp_path / "cut")
        assert len(saved) == 1
        assert list((tmp_path / "cut").glob("healing-*/state.json"))
    found = searched(one_layer, tmp_path / "cut")
    assert tensor_digest(found.inner_model) == tensor_digest(whole.inner_model)
    again = read_stages(tmp_path / "cut" / SEARCH_LOG)
    assert [replace(one, seconds=0.0) for one in again] == [replace(one, seconds=0.0) for one in stages]


def test_a_half_written_line_is_done_again(tmp_path):
    line = json.dumps(vars(Stage(1, 0, 0.6, 0.6, 10, 0.0, 0.0, False, True, 1.0)))
    (tmp_path / "log").write_text(f"{line}\n{line[:20]}", encoding="utf-8")
    assert len(read_stages(tmp_path / "log")) == 1


def test_sizes_are_bisected_between_what_held_and_what_did_not():
    def stage(number: int, ratio: float, held: bool) -> Stage:
        return Stage(number, 0, ratio, ratio, 1, 0.0, 0.0, False, held, 0.0)

    assert next_ratio([]) == pytest.approx(0.6)
    one = stage(1, 0.6, held=True)
    assert next_ratio([one]) == pytest.approx(0.36)
    two = stage(2, 0.36, held=False)
    assert next_ratio([one, two]) == pytest.approx((0.6 * 0.36) ** 0.5)
    assert next_ratio([one, two, stage(3, 0.4, held=True)]) is None


def test_series_of_the_user_are_judged_on_their_ends(bolt_folder, few_stages):
    parent = flowrank.load(bolt_folder)
    found = flowrank.smallest(parent, ROOMY, series=walks(30), **QUICK)
    assert found.recipe["search"]["validation_series"] == 30
    assert found.recipe["calibration"]["series"] <= 24


def test_synthetic_series_calibrate_and_judge_too_where_they_are_asked_for(bolt_folder, few_stages):
    """What is promised then is the geometric mean of the two losses, however many series each comes from."""
    parent = flowrank.load(bolt_folder)
    own = walks(30)
    found = flowrank.smallest(parent, ROOMY, series=own, also_synthetic=True, **{**QUICK, "steps": 0})
    search, calibration = found.recipe["search"], found.recipe["calibration"]
    assert search["validation_series"] == 30 + 48
    assert calibration["source"] == "list; synthetic, seed 0"
    assert calibration["series"] == 24
    losses = [
        Backtester(parent, series=series, count=48, horizon=8, confidence=0.5).compare(found).loss
        for series in (own, None)
    ]
    assert 1 + search["loss"] == pytest.approx(((1 + losses[0]) * (1 + losses[1])) ** 0.5, rel=1e-6)


def test_synthetic_series_beside_none_are_refused(bolt_folder):
    with pytest.raises(FlowrankError, match="also_synthetic: expected series given with it"):
        flowrank.smallest(flowrank.load(bolt_folder), ROOMY, also_synthetic=True, **QUICK)


def test_series_are_taken_from_all_over_a_sorted_source():
    """Calibrated or judged on the beginning alone, a search would never see the rest."""
    chosen = evenly(walks(200, length=16))
    assert sorted(int(one.item_id) for one in chosen) == list(range(200))
    for count in (10, 25, 60):
        places = np.sort([int(one.item_id) for one in chosen[:count]])
        assert np.diff([-1, *places, 200]).max() <= 3 * 200 / count


def test_latency_is_timed_once_for_a_search(bolt_folder, tmp_path, few_stages, monkeypatch):
    """On a machine that takes a nanosecond a parameter."""
    timed = []

    def seconds_of(pipelines, **_):
        timed.append(len(pipelines))
        return {name: 1e-9 * one.inner_model.num_parameters() for name, one in pipelines.items()}

    monkeypatch.setattr(import_module("flowrank.compression.latency"), "seconds_of", seconds_of)
    parent, tolerance = flowrank.load(bolt_folder), replace(ROOMY, unit="latency")
    first = flowrank.smallest(parent, tolerance, folder=tmp_path / "s", **{**QUICK, "steps": 0})
    times, law = len(timed), (tmp_path / "s" / "latency.json").read_bytes()
    assert times > 0
    again = flowrank.smallest(parent, tolerance, folder=tmp_path / "s", **{**QUICK, "steps": 0})
    assert len(timed) == times
    assert (tmp_path / "s" / "latency.json").read_bytes() == law
    assert tensor_digest(again.inner_model) == tensor_digest(first.inner_model)


def test_a_folder_of_something_else_is_refused(bolt_folder, tmp_path, few_stages):
    parent = flowrank.load(bolt_folder)
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(FlowrankError, match="something else"):
        flowrank.smallest(parent, ROOMY, folder=tmp_path, **QUICK)
    flowrank.smallest(parent, ROOMY, folder=tmp_path / "s", **{**QUICK, "steps": 0})
    with pytest.raises(FlowrankError, match="another steps"):
        flowrank.smallest(parent, ROOMY, folder=tmp_path / "s", **QUICK)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_loss": -0.1}, "max_loss"),
        ({"max_loss": "1%"}, "max_loss"),
        ({"max_loss": 0.1, "confidence": 1.0}, "confidence"),
        ({"max_loss": 0.1, "metric": "RMSE"}, "metric"),
        ({"max_loss": 0.1, "unit": "euros"}, "unit"),
    ],
)
def test_a_tolerance_that_makes_no_sense_is_refused(options, match):
    with pytest.raises(FlowrankError, match=match):
        Tolerance(**options)


def test_series_that_cannot_judge_are_refused(pipeline):
    with pytest.raises(FlowrankError, match="series"):
        Backtester(pipeline, series=[torch.ones(40)])


def test_what_the_parent_forecasts_closely_counts_apart():
    """What a smaller model gets wrong shows most where its parent hardly errs; mixed with noisy series all the same."""
    pipeline = flowrank.load("flow-bolt-mini")
    child = flowrank.compress(pipeline, WholeModel(Budget(0.4), rounds=1), calibration_series=48)
    quiet = [Series(f"quiet {i}", 2 + np.sin(2 * np.pi * np.arange(96) / 12 + i)) for i in range(64)]
    noise = np.random.default_rng(0).normal(size=(64, 96))
    noisy = [Series(f"noisy {i}", one.target + 0.5 * noise[i]) for i, one in enumerate(quiet)]
    kinds = [Backtester(pipeline, series=some, horizon=12, confidence=0.5) for some in (quiet, noisy)]
    apart = [kind.compare(child).loss for kind in kinds]
    assert apart[0] > apart[1] > 0
    mixed = [one for pair in zip(noisy, quiet, strict=True) for one in pair]
    both = Backtester(pipeline, series=mixed, horizon=12, confidence=0.5)
    assert both.compare(child).loss == pytest.approx(apart[0], rel=1e-3)
