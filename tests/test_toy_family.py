"""A family is one file: the toy is analysed, compressed, saved, opened again and served, with no change to flowrank."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig

import flowrank
from flowrank import Budget, FlowrankError, InputSVD, JointHeads, Uniform, WeightSVD, WholeModel
from flowrank.family import family_of, register, unregister
from flowrank.nn.config import SENTENCE
from tests.conftest import relative_gap
from tests.toy_family import Toy, ToyConfig, ToyModel, ToyPipeline

SMALL = {"calibration_series": 24, "calibration_points": 48}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def toy():
    register(Toy)
    yield
    unregister(Toy)


@pytest.fixture
def parent():
    torch.manual_seed(0)
    return ToyPipeline(ToyModel(ToyConfig()).eval())


@pytest.fixture
def series():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator).cumsum(0) for n in (48, 30, 13)]


@pytest.mark.parametrize("method", [WeightSVD, InputSVD, JointHeads, WholeModel])
def test_full_rank_is_the_stock_model(parent, series, method):
    child = flowrank.compress(parent, method(Budget(1.0)), **SMALL)
    assert relative_gap(child.predict(series), parent.predict(series)) < 1e-4


@pytest.mark.parametrize(
    "method",
    [WeightSVD(Uniform(0.5)), InputSVD(Budget(0.5)), JointHeads(Budget(0.75)), WholeModel(Budget(0.6), rounds=1)],
    ids=lambda method: type(method).__name__,
)
def test_children_are_smaller_and_open_again(parent, series, method, tmp_path):
    child = flowrank.compress(parent, method, **SMALL)
    counts = child.recipe["parameters"]
    if not isinstance(method, WholeModel):
        assert counts["attention_child"] <= method.allocation.ratio * counts["attention_parent"]
    assert counts["child"] < counts["parent"]
    folder = child.save_pretrained(tmp_path / "child")
    again = flowrank.load(folder)
    assert isinstance(again, ToyPipeline)
    assert again.path == "stock"
    assert torch.equal(again.predict(series), child.predict(series))
    assert torch.isfinite(again.predict(series)).all()


def test_under_rotary_positions_queries_and_keys_stay_whole(parent):
    """In another basis of a head its planes would turn by other angles: only values and outputs become narrower."""
    child = flowrank.compress(parent, JointHeads(Budget(0.75)), **SMALL)
    table = flowrank.rank_table(child)
    assert (table.query("part == 'QK' and kept > 0").kept == 8).all()
    assert (table.query("part == 'VO'").kept < 8).any()
    before, after = (one.inner_model.blocks[0].attention.layer.q_proj.weight for one in (parent, child))
    kept = child.inner_model.blocks[0].attention.layer.active
    assert torch.equal(after, before.view(3, 8, -1)[kept].flatten(0, 1))


def test_a_ratio_that_whole_queries_exceed_is_refused(parent):
    with pytest.raises(FlowrankError, match=r"ratio: expected at least 0\.5"):
        flowrank.compress(parent, JointHeads(Budget(0.4)), **SMALL)


def test_it_is_analysed(parent):
    profile = flowrank.analyze(parent, count=16, points=48)
    assert set(profile.ranks.quantity) >= {"W_Q", "queries", "keys", "values", "attention", "update", "stream"}
    assert (profile.ranks["rank"] >= 1).all()


def test_it_becomes_one_of_integers(series):
    torch.manual_seed(0)
    parent = ToyPipeline(ToyModel(ToyConfig(d_model=64, d_kv=32, d_ff=128)).eval())
    child = flowrank.quantize(parent)
    assert 0 < relative_gap(child.predict(series), parent.predict(series)) < 0.1


def test_what_it_lacks_is_refused_by_name(parent):
    with pytest.raises(FlowrankError, match="a cost model, found toy, which has none"):
        flowrank.compress(parent, WholeModel(Budget(0.5, unit="flops")), **SMALL)


def test_nothing_else_opens_its_child(parent, tmp_path):
    folder = flowrank.compress(parent, InputSVD(Budget(0.5)), **SMALL).save_pretrained(tmp_path / "child")
    assert json.loads((folder / "config.json").read_text())["model_type"] == SENTENCE
    with pytest.raises(ValueError, match=SENTENCE):
        ToyModel.from_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).family == "toy"


def test_of_two_families_of_one_name_the_second_is_refused():
    with pytest.raises(FlowrankError, match="a name that no other family has"):
        register(type("Twin", (Toy,), {}))


def test_the_view_finds_every_matrix(parent):
    family = family_of(parent)
    found = {id(p) for site in (*family.attention, *family.mlps) for p in site.module.parameters()}
    others = [name for name, p in parent.inner_model.named_parameters() if id(p) not in found and p.ndim > 1]
    assert others == ["embed.weight", "head.weight"]
