"""Smaller Chronos-2 models: the engine against the stock code of the same child, and layers against formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from chronos.chronos2.layers import MHA

import flowrank
from flowrank import Budget, FlowrankError, InputSVD, JointHeads, WholeModel
from flowrank.families.chronos2.attention import NarrowMHA
from flowrank.families.chronos2.pipeline import FlowrankChronos2Pipeline
from flowrank.families.chronos2.rotary import columns_of
from flowrank.nn.shapes import AttentionShape
from tests.families.chronos2 import (
    assert_equal_forecasts,
    largest_gap,
    narrow_chronos2,
    random_chronos2,
    random_model,
    stock,
    walk,
)
from tests.families.test_chronos2_engine import groups, series, task
from tests.layers import attention_layers, mlp_layers, narrow_model

SMALL = {"calibration_series": 24, "calibration_points": 64}
METHODS = {"heads": JointHeads, "inputs": InputSVD, "whole": WholeModel}
FULL = (0, 1, 2, 3)


def times(model):
    return [name for name, layer in attention_layers(model).items() if layer.use_rope]


def of_groups(model):
    return [name for name, layer in attention_layers(model).items() if not layer.use_rope]


def layers(over_time, over_groups, **sizes):
    """A pipeline whose layers over time have one shape each, and those over groups another."""
    model = random_model(**sizes)
    attention = dict.fromkeys(times(model), over_time) | dict.fromkeys(of_groups(model), over_groups)
    return narrow_chronos2(attention={name: one for name, one in attention.items() if one}, **sizes)


def turning(*planes, d_qk, d_vo=(8, 8, 8), **ranks):
    shape = {"d_qk": [d_qk] * 3, "d_vo": list(d_vo), "ranks": ranks}
    return shape | ({"planes": [list(one) for one in planes]} if planes else {})


GROUP = {"d_qk": [3, 0, 5], "d_vo": [6, 2, 4], "ranks": {}}
SHAPES = {
    "all planes": (turning(d_qk=8), None),
    "uneven values": (turning(d_qk=8, d_vo=(1, 8, 5)), GROUP),
    "planes of each head": (turning((0, 2), (1, 3), (0, 1), d_qk=4), GROUP),
    "planes and what does not turn": (turning((0,), (3,), (2,), d_qk=5, d_vo=(3, 9, 8)), None),
    "no planes": (turning((), (), (), d_qk=3), None),
    "as many planes as fit": (turning(d_qk=6), GROUP),
    "factors": (turning(d_qk=8, q=2, k=3, v=4, o=5), {**GROUP, "ranks": {"q": 2, "k": 1, "v": 3, "o": 4}}),
    "a head is gone": (turning((0, 1), (), (2, 3), d_qk=4, d_vo=(4, 0, 6)), {**GROUP, "d_vo": [0, 0, 7]}),
    "no heads": (turning(d_qk=8, d_vo=(0, 0, 0)), {**GROUP, "d_vo": [0, 0, 0]}),
    "wider than the model": (turning(d_qk=9, d_vo=(20, 20, 11)), {**GROUP, "d_vo": [40, 1, 30]}),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_layers_of_every_shape(shapes):
    pipeline = layers(*shapes)
    for inputs in (series(), groups(), [task(50, horizon=11), task(33, horizon=11)]):
        assert_equal_forecasts(pipeline, inputs, prediction_length=11)


def test_small_feed_forward_layers_and_blocks():
    kinds = [{"width": 5, "ranks": {}}, {"width": 9, "ranks": {"wi": 3, "wo": 2}}, {"width": 0, "ranks": {}}]
    block = {"width": 7, "ranks": {"hidden_layer": 2, "output_layer": 3, "residual_layer": 4}}
    names = list(mlp_layers(random_model(num_layers=3)))
    plain = [name for name in names if "patch" not in name]
    for width, patches in ((7, block), (0, {"width": 0, "ranks": {"residual_layer": 3}})):
        mlp = dict(zip(plain, kinds, strict=True)) | {name: patches for name in names if "patch" in name}
        assert_equal_forecasts(narrow_chronos2(mlp=mlp, num_layers=3), [*series(), *groups()], prediction_length=20)
        assert patches["width"] == width


@pytest.fixture(scope="module")
def parent():
    return random_chronos2()


@pytest.mark.parametrize("univariate", [False, True])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_compressed_children(parent, method, univariate):
    options = {"rounds": 1} if method is WholeModel else {}
    child = flowrank.compress(parent, method(Budget(0.3), **options), univariate=univariate, **SMALL)
    assert child.univariate is univariate
    assert_equal_forecasts(child, series())
    if not univariate:
        assert_equal_forecasts(child, groups(), prediction_length=40)
        assert_equal_forecasts(child, [task(50, horizon=9)], prediction_length=9)


def test_integers():
    """Rows are rounded as they come, so what differs in the last place may be rounded otherwise."""
    wide = random_chronos2(d_model=64, d_ff=64, d_kv=16, num_heads=4)
    for pipeline in (wide, flowrank.univariate(wide)):
        small = flowrank.quantize(pipeline)
        for inputs in (series(), [*walk(3, 40)] if small.univariate else groups()):
            assert_equal_forecasts(small, inputs, within=0.03)
            assert largest_gap(inputs, small.predict(inputs), wide.predict(inputs)) < 0.1


def test_a_model_for_single_series_forecasts_as_its_parent(parent):
    child = flowrank.univariate(parent)
    assert sum(p.numel() for p in child.model.parameters()) < sum(p.numel() for p in parent.model.parameters())
    assert_equal_forecasts(child, series())
    assert largest_gap(series(), child.predict(series()), stock(parent).predict(series())) <= 1e-5


GROUPS_OF = {
    "variates": lambda: {"inputs": walk(2, 3, 40)},
    "variates of a list": lambda: {"inputs": [walk(40), walk(2, 40)]},
    "targets": lambda: {"inputs": [{"target": walk(2, 40)}]},
    "a list of rows": lambda: {"inputs": [{"target": walk(2, 40).tolist()}]},
    "covariates": lambda: {"inputs": [{"target": walk(40), "past_covariates": {"a": walk(40)}}]},
    "cross-learning": lambda: {"inputs": [walk(40)], "cross_learning": True},
    "its old name": lambda: {"inputs": [walk(40)], "predict_batches_jointly": True},
}


@pytest.mark.parametrize("options", GROUPS_OF.values(), ids=GROUPS_OF.keys())
@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_a_model_for_single_series_refuses_others(parent, options, engine):
    child = flowrank.univariate(parent)
    child.engine = engine
    with pytest.raises(FlowrankError, match=r"inputs: expected single series without covariates"):
        child.predict(**options())


def test_a_model_for_single_series_takes_them_in_every_form(parent):
    child = flowrank.univariate(parent)
    values = walk(3, 40)
    forms = [values[:, None], list(values), [one[None] for one in values], [{"target": one} for one in values]]
    forms += [[{"target": one, "past_covariates": {}, "future_covariates": {}} for one in values]]
    for inputs in forms:
        torch.testing.assert_close(child.predict(inputs), parent.predict(list(values)), rtol=1e-4, atol=1e-4)
        child.embed(values[:, None])
    with pytest.raises(FlowrankError, match="single series"):
        child.embed(walk(2, 3, 40))


def test_full_layers_are_the_stock_model():
    dense = random_chronos2()
    names = attention_layers(dense.model)
    shapes = {name: turning(*((FULL,) * 3 if name in times(dense.model) else ()), d_qk=8) for name in names}
    mlp = {name: {"width": 40, "ranks": {}} for name in mlp_layers(dense.model)}
    model = narrow_model(dense.model, attention=shapes, mlp=mlp)
    model.load_state_dict(dense.model.state_dict())
    narrow = FlowrankChronos2Pipeline(model.eval())
    for inputs in (series(), groups()):
        ours = narrow.predict(inputs)
        assert largest_gap(inputs, ours, stock(dense).predict(inputs)) <= 1e-5
        assert largest_gap(inputs, stock(narrow).predict(inputs), stock(dense).predict(inputs)) <= 1e-5


def attention(model, number=0):
    return model.encoder.block[number].layer[0].self_attention


def by_hand(layer, x, angle, planes, d_qk):
    """Attention over time in float64, one head and one pair of tokens at a time."""
    x = x.double()
    query, key, value, output = (getattr(layer, name).weight.detach().double() for name in "qkvo")
    length, result, first = len(x), torch.zeros(len(x), 24, dtype=torch.float64), 0
    for head, width in enumerate(layer.shape.d_vo):
        rows = slice(head * d_qk, (head + 1) * d_qk)
        q, k, scores = x @ query[rows].T, x @ key[rows].T, torch.zeros(length, length, dtype=torch.float64)
        for i in range(length):
            for j in range(length):
                count, score = len(planes[head]), 0.0
                for place, plane in enumerate(planes[head]):
                    turn = angle(plane) * (i - j)
                    a, b = q[i, place], q[i, count + place]
                    c, d = k[j, place], k[j, count + place]
                    score = score + turn.cos() * (a * c + b * d) + turn.sin() * (a * d - b * c)
                scores[i, j] = score + q[i, 2 * count :] @ k[j, 2 * count :]
        read = scores.softmax(-1) @ (x @ value[first : first + width].T)
        result += read @ output[:, first : first + width].T
        first += width
    return result


@pytest.mark.parametrize("planes", [((0, 3), (1, 2), (0, 1)), ((0,), (1,), (3,)), ((), (), ())])
def test_a_head_is_its_formula(planes):
    """Two tokens score Σ_p cos(θ_p (i − j)) (a c + b d) + sin(θ_p (i − j)) (a d − b c), and what does not turn."""
    model = layers(turning(*planes, d_qk=5, d_vo=(2, 8, 3)), None).model
    layer, x = attention(model), walk(1, 6, 24) / 3
    expected = by_hand(layer, x[0], lambda plane: torch.tensor(10000.0 ** (-2 * plane / 8)).double(), planes, 5)
    with torch.no_grad():
        found = layer(x, mask=torch.zeros(1, 1, 1, 6), position_ids=torch.arange(6)[None])[0][0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_all_planes_at_full_width_are_the_stock_layer():
    dense = attention(random_model())
    layer = NarrowMHA(dense.config, AttentionShape((8,) * 3, (8,) * 3, {}, (FULL,) * 3), use_rope=True)
    layer.load_state_dict(dense.state_dict())
    assert type(dense) is MHA
    x, places = walk(2, 9, 24), torch.arange(9)[None]
    mask = torch.zeros(2, 1, 1, 9)
    mask[1, ..., :4] = torch.finfo(torch.float32).min
    for eager in (True, False):
        dense.config._attn_implementation = layer.config._attn_implementation = "eager" if eager else "sdpa"
        with torch.no_grad():
            found, expected = (one(x, mask=mask, position_ids=places)[0] for one in (layer, dense))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_slow_planes_that_hardly_turn_are_merged_at_full_rank():
    """Planes that turn by nothing are plain features: W_Qᵀ W_K of them at full rank is what they score."""
    model = random_model(rope_theta=1e30, context_length=64)  # plane 1 on: some 1e-8 radians a token
    slow, columns = (1, 2, 3), columns_of((1, 2, 3), 8)
    shapes = {name: turning((0,), (0,), (0,), d_qk=8) for name in times(model)}
    child = narrow_model(model, attention=shapes)
    child.load_state_dict(model.state_dict())
    with torch.no_grad():
        for number in range(2):
            layer, dense = attention(child, number), attention(model, number)
            for head in range(3):
                start = 8 * head
                turns = [start + one for one in columns_of((0,), 8)]
                product = dense.q.weight[[start + c for c in columns]].T @ dense.k.weight[[start + c for c in columns]]
                left, values, right = torch.linalg.svd(product)
                rank = 2 * len(slow)
                layer.q.weight[start : start + 2] = dense.q.weight[turns]
                layer.k.weight[start : start + 2] = dense.k.weight[turns]
                layer.q.weight[start + 2 : start + 8] = (left[:, :rank] * values[:rank].sqrt()).T
                layer.k.weight[start + 2 : start + 8] = values[:rank].sqrt()[:, None] * right[:rank]
    expected = stock(FlowrankChronos2Pipeline(model)).predict(groups())
    found = FlowrankChronos2Pipeline(child.eval()).predict(groups())
    assert largest_gap(groups(), found, expected) <= 1e-5


def test_attention_weights_of_narrow_layers():
    pipeline = layers(SHAPES["planes of each head"][0], GROUP)
    context = walk(4, 40)
    with torch.no_grad():
        plain = pipeline.model(context, group_ids=torch.tensor([0, 0, 1, 1]))
        asked = pipeline.model(context, group_ids=torch.tensor([0, 0, 1, 1]), output_attentions=True)
    torch.testing.assert_close(plain.quantile_preds, asked.quantile_preds, rtol=1e-4, atol=1e-4)
    for weights in (*asked.enc_time_self_attn_weights, *asked.enc_group_self_attn_weights):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_planes_that_a_layer_does_not_have_are_refused():
    name = times(random_model())[0]
    wrong = [
        turning((0, 4), (0, 1), (0, 1), d_qk=4),
        turning((0, 1), (0, 1), (0,), d_qk=4),
        {**turning(d_qk=8), "d_qk": [8, 8, 9]},
    ]
    for shape in wrong:
        with pytest.raises(FlowrankError, match=r"config\.json flowrank\.attention"):
            narrow_model(random_model(), attention={name: shape})
    name = of_groups(random_model())[0]
    with pytest.raises(FlowrankError, match="for attention over a group, no planes"):
        narrow_model(random_model(), attention={name: turning((0,), (0,), (0,), d_qk=4)})


def test_a_child_in_half_precision_and_copied():
    pipeline = layers(*SHAPES["planes and what does not turn"])
    expected = torch.cat(pipeline.predict(groups())).arcsinh()
    assert torch.equal(torch.cat(copy.deepcopy(pipeline).predict(groups())).arcsinh(), expected)
    pipeline.model.to(torch.bfloat16)
    assert pipeline.path == "exact"
    gap = (torch.cat(pipeline.predict(groups())).arcsinh() - expected).square().mean() / expected.square().mean()
    assert 0 < float(gap.sqrt()) < 0.05
