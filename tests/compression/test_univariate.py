"""Models that read groups, made into models of single series."""

from __future__ import annotations

import pytest
import torch

import flowrank
from flowrank import Budget, FlowrankError, InputSVD, JointHeads, Uniform, WholeModel
from flowrank.family import family_of
from tests.conftest import make_chronos2, relative_gap

SMALL = {"calibration_series": 32, "calibration_points": 64}


@pytest.fixture
def parent(chronos2_folder):
    return flowrank.load(chronos2_folder)


@pytest.fixture
def series():
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(n, generator=generator).cumsum(0) for n in (100, 64, 33, 9)]
    found[1][10:20] = torch.nan
    return found


def quantiles(pipeline, series):
    return torch.cat(pipeline.predict(series, prediction_length=20))


@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_it_forecasts_as_its_parent(parent, series, engine):
    single = flowrank.univariate(parent)
    single.engine = engine
    assert single.path == engine
    assert relative_gap(quantiles(single, series), quantiles(parent, series)) < 1e-5


def test_it_is_one_matrix_a_layer(parent):
    model, single = parent.inner_model, flowrank.univariate(parent).inner_model
    d, layers = model.config.d_model, model.config.num_layers
    assert model.num_parameters() - single.num_parameters() == layers * 3 * d * d


def test_narrow_heads_stay_two_matrices(tmp_path, series):
    parent = flowrank.load(make_chronos2(tmp_path / "narrow", d_kv=4, num_heads=3))
    single = flowrank.univariate(parent)
    saved = 2 * parent.inner_model.config.num_layers * 32 * 12
    assert parent.inner_model.num_parameters() - single.inner_model.num_parameters() == saved
    assert relative_gap(quantiles(single, series), quantiles(parent, series)) < 1e-5


def test_it_is_saved_and_opened(parent, series, tmp_path):
    single = flowrank.univariate(parent)
    single.save_pretrained(tmp_path / "single")
    again = flowrank.load(tmp_path / "single")
    assert again.univariate
    assert torch.equal(quantiles(again, series), quantiles(single, series))


@pytest.mark.parametrize("method", [JointHeads(Budget(0.5)), InputSVD(Uniform(0.5)), WholeModel(Budget(0.6), rounds=1)])
def test_ratios_refer_to_the_parent(parent, series, method):
    child = flowrank.compress(parent, method, univariate=True, **SMALL)
    counts = child.recipe["parameters"]
    if isinstance(method, WholeModel):
        assert 0.5 < counts["child"] / counts["parent"] <= 0.6
    else:
        assert 0.4 < counts["attention_child"] / counts["attention_parent"] <= 0.5
    assert child.recipe["univariate"] is True
    assert child.recipe["parent"]["name"] == parent.name
    assert torch.isfinite(quantiles(child, series)).all()


def test_all_kept_is_the_parent(parent, series):
    child = flowrank.compress(parent, JointHeads(Budget(1.0)), univariate=True, **SMALL)
    assert relative_gap(quantiles(child, series), quantiles(parent, series)) < 1e-5


def test_what_it_would_ignore_is_refused(parent):
    single = flowrank.univariate(parent)
    one = torch.randn(50)
    for inputs in (
        torch.randn(2, 3, 50),
        [torch.randn(2, 50)],
        [{"target": one, "past_covariates": {"price": torch.randn(50)}}],
    ):
        with pytest.raises(FlowrankError, match="single series"):
            single.predict(inputs, prediction_length=4)
    with pytest.raises(FlowrankError, match="cross_learning"):
        single.predict([one], prediction_length=4, cross_learning=True)


def test_other_families_read_single_series_anyway(bolt_folder):
    with pytest.raises(FlowrankError, match="univariate"):
        flowrank.univariate(flowrank.load(bolt_folder))


def test_groups_are_calibrated_on(parent):
    child = flowrank.compress(parent, JointHeads(Budget(0.9)), **SMALL)
    assert "synthetic groups" in child.recipe["calibration"]["source"]
    single = flowrank.compress(parent, JointHeads(Budget(0.9)), univariate=True, **SMALL)
    assert "groups" not in single.recipe["calibration"]["source"]
    groups = [site for site in family_of(child).attention if site.kind == "group"]
    assert any(site.d_qk > 0 for site in groups)
