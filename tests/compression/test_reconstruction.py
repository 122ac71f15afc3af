"""Layer-wise reconstruction against what is known to be repairable."""

from __future__ import annotations

import copy

import pytest
import torch

import flowrank
from flowrank import Budget, WholeModel
from flowrank.compression.reconstruction import reconstruct
from flowrank.family import family_of, tensor_digest
from flowrank.measure.calibration import Calibration
from tests.conftest import outputs, relative_gap


@pytest.fixture
def series():
    return Calibration.read(None, count=192, points=64, seed=5, mixed=True).contexts


def test_every_layer_is_a_place_once(pipeline):
    names = [place.name for place in family_of(pipeline).anatomy.places()]
    assert len(names) == len(set(names))
    layers = pipeline.inner_model.config
    ends = 2 if hasattr(pipeline.inner_model, "input_patch_embedding") else 0
    assert len(names) == 2 * layers.num_layers + 3 * layers.num_decoder_layers + ends


def test_matrices_that_were_spoilt_come_back(pipeline, series, contexts):
    """Only output matrices are wrong: least squares must find them again, whatever the layers before did."""
    expected = outputs(pipeline, contexts)
    spoilt = copy.deepcopy(pipeline)
    model = spoilt.inner_model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place in family_of(spoilt).anatomy.places():
            for writer in place.writers:
                weight = model.get_submodule(writer).weight
                weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
    before = relative_gap(outputs(spoilt, contexts), expected)
    reconstruct(family_of(spoilt), family_of(pipeline), series)
    assert relative_gap(outputs(spoilt, contexts), expected) < 0.25 * before


def test_a_child_comes_nearer_and_its_parent_stays(pipeline, series):
    """On other series, run as the fitted ones were: a T5 with the true tokens before each."""
    digest = tensor_digest(pipeline.inner_model)
    child = flowrank.compress(
        pipeline, WholeModel(Budget(0.6), rounds=1, refit=False), calibration_series=24, calibration_points=64
    )
    fresh = Calibration.read(None, count=64, points=64, seed=77).contexts

    @torch.no_grad()
    def distance() -> float:
        return float((family_of(child).run(fresh) - family_of(pipeline).run(fresh)).square().mean())

    before = distance()
    reconstruct(family_of(child), family_of(pipeline), series)
    assert distance() < before
    assert tensor_digest(pipeline.inner_model) == digest


def test_a_model_that_is_its_parent_is_left_alone(pipeline, series, contexts):
    child = copy.deepcopy(pipeline)
    reconstruct(family_of(child), family_of(pipeline), series)
    assert relative_gap(outputs(child, contexts), outputs(pipeline, contexts)) < 1e-4


@pytest.mark.parametrize("groups", [False, True])
def test_skipped_layers_change_nothing(pipeline, series, monkeypatch, groups):
    """The fit that runs every layer for every place gives the same weights, bit for bit."""
    parent = flowrank.load("flow-2-mini") if groups else pipeline
    child = flowrank.compress(
        parent, WholeModel(Budget(0.6), rounds=1, refit=False), calibration_series=24, calibration_points=64
    )
    quick, whole = copy.deepcopy(child), copy.deepcopy(child)
    family = type(family_of(child))
    known: list[bool] = []
    skipped = family.skipped

    def counted(self, *asked):
        found = skipped(self, *asked)
        known.append(found is not None)
        return found

    monkeypatch.setattr(family, "skipped", counted)
    reconstruct(family_of(quick), family_of(parent), series)
    monkeypatch.setattr(family, "skipped", lambda *asked: None)
    reconstruct(family_of(whole), family_of(parent), series)
    assert any(known)
    assert tensor_digest(quick.inner_model) == tensor_digest(whole.inner_model) != tensor_digest(child.inner_model)
    assert not any("forward" in vars(module) for module in quick.inner_model.modules())
