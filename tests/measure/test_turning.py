"""Queries and keys that turn: every choice is compared with the layer that it makes."""

from __future__ import annotations

import pytest
import torch

import flowrank
from flowrank.compression.children import child_of
from flowrank.compression.factorize import HeadComponents
from flowrank.compression.plan import Plan
from flowrank.compression.turned import turned_tensors, widths_of
from flowrank.family import SeriesGroup, family_of
from flowrank.measure import head_moments, rank_losses
from flowrank.measure.planes import Choice, choices, cost_of, frequencies_of, turn
from flowrank.nn.shapes import AttentionShape, Shapes
from tests.conftest import make_chronos2, relative_gap


@pytest.fixture(scope="module")
def contexts():
    generator = torch.Generator().manual_seed(5)
    found = [torch.randn(n, generator=generator).cumsum(0) for n in (100, 80, 64, 40, 30, 100)]
    known = torch.tensor([False, True])
    return [*found, SeriesGroup(torch.randn(2, 90, generator=generator).cumsum(1), known)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, contexts):
    folder = make_chronos2(tmp_path_factory.mktemp("turning") / "model", d_kv=16, num_heads=2)
    family = family_of(flowrank.load(folder)).private()
    heads = HeadComponents(family, head_moments(family, contexts, seed=1))
    losses = rank_losses(family, contexts, heads.bases, turning=heads.turning, seed=2)
    return family, heads, losses


def child(family, site, turning, choice):
    """The model in which one layer's queries and keys are made by a choice."""
    width, planes, ranks = widths_of(turning, choice)
    shape = AttentionShape((width,) * site.heads, (site.d_vo,) * site.heads, ranks, tuple(planes))
    plan = Plan(Shapes({site.name: shape}), turned_tensors(turning, choice, range(site.heads)))
    return family_of(family.pipeline_of(child_of(family.model, plan)))


def test_features_turn_as_stock_rotary_positions_do(chronos2_folder):
    from chronos.chronos2.layers import Chronos2RotaryEmbedding as Stock

    family = family_of(flowrank.load(chronos2_folder))
    site = family.sites[0]
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, site.heads, 9, site.d_qk, generator=generator) for _ in range(2))
    cosines, sines = Stock(family.model.config)(query, torch.arange(9)[None])
    expected = Stock.apply_rotary_pos_emb(query, key, cosines, sines)
    angles = torch.arange(9.0)[:, None] * frequencies_of(site)[:, None]
    for one, features in zip(expected, (query, key), strict=True):
        assert torch.allclose(turn(features, angles, site.d_qk // 2), one, atol=1e-5)


def test_every_choice_costs_what_its_layer_has(measured):
    family, heads, _ = measured
    for site in family.sites:
        if site.name not in heads.turning:
            continue
        turning = heads.turning[site.name]
        for choice in turning.choices:
            made = child(family, site, turning, choice)
            layer = next(one for one in made.attention if one.name == site.name)
            assert cost_of(layer) == choice.cost < cost_of(site)


@pytest.mark.parametrize("kind", ["planes", "merged", "factors"])
def test_what_is_measured_is_what_the_smaller_layer_does(measured, contexts, kind):
    """The change of the heads' output in the measured pass, against the layer that was really made."""
    family, heads, _ = measured
    site = family.sites[0]  # of the first layer: what it reads does not change
    turning = heads.turning[site.name]
    seen = {}

    def look(view):
        module = next(one for one in view.attention if one.name == site.name).output.module
        hook = module.register_forward_pre_hook(lambda _m, inputs: seen.__setitem__("read", inputs[0].detach()))
        with torch.no_grad():
            view.run(contexts)
        hook.remove()
        return seen["read"]

    queries = {}
    hooks = [
        projection.module.register_forward_hook(lambda _m, _i, out, name=name: queries.__setitem__(name, out.detach()))
        for name, projection in site.projections.items()
        if name in "qkv"
    ]
    look(family)
    for hook in hooks:
        hook.remove()
    query, key, value = (queries[name].unflatten(-1, (site.heads, -1)).transpose(1, 2) for name in "qkv")
    visible = family.attention_mask(contexts)
    for index, scores in turning.scores(query, key):
        choice = turning.choices[index]
        if choice.kind != kind:
            continue
        scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
        expected = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        found = look(child(family, site, turning, choice))
        assert relative_gap(found[visible], expected[visible]) < 1e-4, choice


@pytest.mark.parametrize("kind", ["planes", "merged", "factors"])
def test_the_engine_runs_every_choice(measured, kind):
    family, heads, _ = measured
    site = family.sites[0]
    turning = heads.turning[site.name]
    series = [torch.randn(2, 60), torch.randn(100)]
    for choice in turning.choices:
        if choice.kind == kind:
            pipeline = child(family, site, turning, choice).pipeline
            found = pipeline.predict(series, prediction_length=20)
            pipeline.engine = "stock"
            expected = pipeline.predict(series, prediction_length=20)
            assert relative_gap(torch.cat(found), torch.cat(expected)) < 1e-5, choice


def test_losses_fall_with_what_is_kept_and_end_at_nothing(measured):
    family, heads, losses = measured
    for site in family.sites:
        if site.name in heads.turning:
            table = losses[site.name]["QK"]
            assert table.shape == (site.heads, heads.turning[site.name].features + 1)
            total = table.sum(dim=0)
            assert (total[1:] <= total[:-1] + 1e-12).all()
            assert not table[:, -1].any()
            assert (total[0] > 0).all()


def test_merging_beats_dropping_where_planes_hardly_turn(tmp_path, contexts):
    """With angles near nothing, a block of full rank is the layer, and half of the planes is not."""
    folder = make_chronos2(tmp_path / "slow", d_kv=16, num_heads=2, rope_theta=1e12)
    family = family_of(flowrank.load(folder)).private()
    heads = HeadComponents(family, head_moments(family, contexts, seed=1))
    rank_losses(family, contexts, heads.bases, turning=heads.turning, seed=2)
    site = family.sites[0]
    turning = heads.turning[site.name]
    total = {choice: float(loss.sum()) for choice, loss in zip(turning.choices, turning.losses, strict=True)}
    merged = [total[one] for one in turning.choices if one.kind == "merged" and one.planes == 2 and one.rank == 8]
    dropped = [total[one] for one in turning.choices if one.kind == "planes" and one.planes == 6]
    assert merged
    assert dropped
    assert max(merged) < 0.1 * min(dropped)


def test_without_losses_it_is_two_factors(measured):
    family, _, _ = measured
    heads = HeadComponents(family, head_moments(family, [torch.randn(60)], seed=1))
    turning = next(iter(heads.turning.values()))
    assert turning.at(turning.features) is None
    chosen = turning.at(turning.features // 2)
    assert chosen.kind == "factors"
    assert chosen.cost <= turning.features // 2 * 2 * turning.site.d_model * turning.site.heads
    assert turning.at(0) == Choice("merged", 0, 0, 0)


def test_choices_are_all_smaller_and_unlike(measured):
    family, _, _ = measured
    site = family.sites[0]
    found = choices(site, 20)
    assert len(set(found)) == len(found)
    assert {one.kind for one in found} == {"planes", "merged", "factors"}
    assert all(2 * one.planes + one.rank < site.d_qk for one in found if one.kind != "factors")
