"""No child is much worse than its parent without a word."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch

import flowrank
from flowrank import AccuracyWarning, Budget, InputSVD, JointHeads, Uniform, WeightSVD, WholeModel
from flowrank.compression import coverage
from flowrank.compression.accuracy import Accuracy
from flowrank.measure.calibration import Calibration
from tests.compression.test_coverage import weeks
from tests.families.test_chronos_bolt_engine import random_bolt
from tests.families.test_chronos_t5_engine import random_t5

CLEAN = weeks(120, 180, 99, 240, seed=5)


@pytest.fixture(scope="module")
def mini():
    return flowrank.load("flow-bolt-mini")


@pytest.fixture
def no_rule(monkeypatch):
    """Few series stay few."""
    monkeypatch.setattr(coverage, "LEAST_SERIES", 0)
    monkeypatch.setattr(coverage, "tokens_needed", lambda *_: {"encoder": 0, "decoder": 0})


def error(pipeline) -> float:
    """Mean absolute error of the median over the 14 days after series of one clean week."""
    forecast = pipeline.predict(CLEAN, prediction_length=14)[:, 4]
    truth = torch.stack([10 + torch.sin(2 * torch.pi * torch.arange(n, n + 14) / 7) for n in map(len, CLEAN)])
    return float((forecast - truth).abs().mean())


def caught(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [one for one in found if issubclass(one.category, AccuracyWarning)]


class TestWarning:
    """Either a child is nearly as good as its parent on clean weeks, or there is a warning."""

    @pytest.mark.parametrize("count", [4, 16, 32])
    @pytest.mark.parametrize("method", [JointHeads, InputSVD])
    def test_clean_weeks_are_kept_or_there_is_a_warning(self, mini, method, count):
        child, told = caught(lambda: flowrank.compress(mini, method(Budget(0.25)), calibration_series=count))
        assert error(child) < 1.5 * error(mini) or told
        if method is JointHeads:
            assert error(child) < 1.5 * error(mini)

    def test_own_weeks_are_kept(self, mini):
        child, _ = caught(lambda: flowrank.compress(mini, JointHeads(Budget(0.25)), series=weeks(150, 200, 90)))
        assert error(child) < 1.5 * error(mini)

    @pytest.mark.usefixtures("no_rule")
    def test_what_used_to_be_ruined_silently(self, mini):
        child, told = caught(lambda: flowrank.compress(mini, JointHeads(Budget(0.25)), calibration_series=16))
        assert error(child) > 5 * error(mini)
        (one,) = told
        check = child.recipe["check"]
        assert f"{check['wql_ratio']:.2f} times" in str(one.message)
        assert "above its 0.9-quantile" in str(one.message)
        assert "calibration_series" in str(one.message)
        assert one.filename == __file__
        assert check["wql_ratio"] > 3
        assert check["crossing"] > 0.3 > check["parent_crossing"]

    def test_a_good_child_is_silent(self, mini):
        child, told = caught(lambda: flowrank.compress(mini, JointHeads(Budget(0.5))))
        assert not told
        assert child.recipe["check"]["wql_ratio"] < 1.05

    def test_a_child_without_attention_is_not(self, mini):
        child, told = caught(lambda: flowrank.compress(mini, WeightSVD(Uniform(0.02))))
        assert told
        assert child.recipe["check"]["wql_ratio"] > 1.2

    def test_forecasts_that_are_not_finite(self, mini):
        broken = copy.deepcopy(mini)
        with torch.no_grad():
            broken.inner_model.output_patch_embedding.output_layer.weight.fill_(torch.nan)
        found = Accuracy.measure(mini, broken)
        assert found.wql_ratio is None
        with pytest.warns(AccuracyWarning, match="not finite"):
            found.warn()


class TestMeasure:
    """The figure is a ratio of quantile losses on series that were not calibrated on."""

    def test_against_the_definition(self, mini):
        """On one kind of series, written out: a child that forecasts twice too high."""
        high = copy.deepcopy(mini)
        predict = high.predict_quantiles
        high.predict_quantiles = lambda *args, **options: tuple(2 * one for one in predict(*args, **options))
        own = [10 + one / one.abs().max() for one in weeks(*[60] * 16)]
        found = Accuracy.measure(mini, high, own)
        levels = np.arange(1, 10) / 10
        losses = []
        for factor in (1, 2):
            total = 0.0
            for one in own:
                past, future = one[:-12].double().numpy(), one[-12:].double().numpy()
                quantiles = factor * mini.predict(one[:-12][None], prediction_length=12)[0].double().numpy().T
                miss = future[:, None] - quantiles
                total += (np.where(miss > 0, levels, levels - 1) * miss).sum() / np.abs(past).mean()
            losses.append(total)
        synthetic = Accuracy.measure(mini, high).wql_ratio
        assert synthetic is not None
        assert found.wql_ratio == pytest.approx((synthetic * losses[1] / losses[0]) ** 0.5, rel=1e-3)
        assert (found.series, found.own, found.horizon) == (192 + 16, 16, 12)

    @pytest.mark.parametrize("make", [random_bolt, random_t5])
    def test_a_model_beside_itself(self, make):
        one, other = make(), make()
        before = torch.random.get_rng_state()
        found = Accuracy.measure(one, other)
        assert found.wql_ratio == 1.0
        assert torch.equal(before, torch.random.get_rng_state())

    def test_no_series_is_one_of_calibration(self, mini, monkeypatch):
        shown = []
        predict = mini.predict_quantiles

        def seen(batch, **options):
            shown.append(batch)
            return predict(batch, **options)

        child = copy.copy(mini)
        monkeypatch.setattr(child, "predict_quantiles", seen)
        Accuracy.measure(mini, child)
        ends = {tuple(np.round(row[-8:] / row[-8:].abs().max(), 4).tolist()) for row in shown[0]}
        assert len(ends) == 192
        for one in Calibration.read(None, count=512).contexts:
            pieces = one.unfold(0, 8, 1) if len(one) >= 8 else one.new_zeros(0, 8)
            scaled = pieces / pieces.abs().amax(dim=1, keepdim=True)
            usable = scaled[(scaled.diff(dim=1).abs() > 1e-3).sum(dim=1) == 7]
            assert not ends & {tuple(row) for row in np.round(usable, 4).tolist()}

    def test_own_series_without_an_end_to_score_do_not_count(self, mini):
        gone = torch.cat([torch.rand(40), torch.full((12,), torch.nan)])
        flat = torch.cat([torch.ones(40), torch.rand(12)])
        found = Accuracy.measure(mini, mini, [gone, flat, *weeks(50)])
        assert found.own == 1


@pytest.mark.parametrize(
    "method", [JointHeads(Budget(0.5)), WeightSVD(Uniform(0.5)), WholeModel(Budget(0.6), rounds=1)]
)
def test_every_method_leaves_its_figure_in_the_saved_recipe(method, tmp_path):
    child = flowrank.compress(random_bolt(), method, calibration_series=32, calibration_points=64)
    child.save_pretrained(tmp_path / "child")
    (recipe,) = [json.loads(path.read_text()) for path in (tmp_path / "child").glob("*recipe*.json")]
    assert recipe["check"] == child.recipe["check"]
    assert recipe["check"]["series"] == 192
    assert recipe["check"]["wql_ratio"] > 0
