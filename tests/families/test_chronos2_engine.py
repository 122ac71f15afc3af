"""The exact engine of Chronos-2 against chronos-forecasting's own pipeline of the same model."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowrank import FlowrankError
from flowrank.benchmarking import peak_memory
from flowrank.families.chronos2.engine import Chronos2Engine, Inputs, chunks, tokens_of_groups
from flowrank.nn.factored import FactoredLinear
from tests.families.chronos2 import assert_equal_forecasts, both, largest_gap, random_chronos2, stock, walk

NAN = torch.nan


def series():
    """Lengths that fill patches and that do not, holes everywhere, no value at all, constants, all magnitudes."""
    found = [walk(n, seed=n) for n in (64, 50, 33, 17, 1, 5, 200, 20, 40, 41, 63, 30, 31)]
    found[0][10:30] = NAN  # patches and parts of patches
    found[1][[0, 5, 31]] = NAN
    found[2][:9] = NAN
    found[3][-4:] = NAN
    found[7][:] = NAN
    found[8][:] = 7.0
    found[9] *= 1e-6
    found[10] *= 1e6
    found[11] += 1e3
    found[12][-20:] = NAN
    return found


def groups():
    """One to seven series that share holes or do not."""
    found = [walk(count, 20 + 9 * count, seed=count) for count in range(1, 8)]
    found[1][0, :12] = NAN
    found[2][1] = NAN
    found[3][2, -9:] = NAN
    found[3][:, 17:33] = NAN
    found[4][0] *= 1e6
    found[5][3] = 1.0
    return found


def task(points, *, horizon, covariates=2, targets=1, seed=0):
    """A task with covariates, half of them known ahead, in parts."""
    past = {f"c{i}": walk(points, seed=seed + 10 + i) for i in range(covariates)}
    future = {f"c{i}": walk(horizon, seed=seed + 20 + i) for i in range(0, covariates, 2)}
    past["c0"][3:12], future["c0"][horizon // 2] = NAN, NAN
    return {"target": walk(targets, points, seed=seed), "past_covariates": past, "future_covariates": future}


MODELS = {
    "heads as wide as the model": {},
    "wide heads": {"d_kv": 16, "num_heads": 5},
    "narrow heads": {"d_kv": 2, "num_heads": 7},
    "one head": {"d_kv": 6, "num_heads": 1},
    "large patches": {"input_patch_size": 16, "input_patch_stride": 16, "output_patch_size": 16},
    "one layer": {"num_layers": 1},
    "one patch ahead": {"max_output_patches": 1},
    "no arcsinh": {"use_arcsinh": False},
    "gelu": {"feed_forward_proj": "gelu"},
    "overlapping patches": {"input_patch_stride": 4},
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
def test_forecasts_are_the_stock_pipelines(changes):
    pipeline = random_chronos2(**changes)
    horizon = 11
    tasks = [task(points, horizon=horizon, seed=points) for points in (80, 64, 21, 2 * horizon)]
    for inputs in (series(), groups(), tasks):
        assert_equal_forecasts(pipeline, inputs, prediction_length=horizon)
    assert_equal_forecasts(pipeline, groups(), cross_learning=True)


@pytest.mark.parametrize("horizon", [1, 8, 9, 24, 25, 60])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"cross_learning": True}, {"context_length": 20}])
def test_every_horizon_batch_and_context(horizon, options):
    pipeline = random_chronos2(num_layers=1)
    inputs = [walk(2, 70, seed=1), walk(30), walk(1, seed=3), walk(3, 41, seed=2)]
    assert_equal_forecasts(pipeline, inputs, prediction_length=horizon, **options)
    inputs = [task(points, horizon=horizon, covariates=3, targets=2) for points in (33, 75)]
    assert_equal_forecasts(pipeline, inputs, prediction_length=horizon, **options)


def test_paths_of_long_horizons_as_they_are_asked_for():
    pipeline = random_chronos2(num_layers=1)
    inputs = [walk(2, 40)]
    for options in ({"unrolled_quantiles": [0.1, 0.5, 0.9]}, {"max_output_patches": 5}, {"max_output_patches": 1}):
        assert_equal_forecasts(pipeline, inputs, prediction_length=70, **options)


rows = st.builds(
    lambda count, length, seed, power, holes: holed(walk(count, length, seed=seed, scale=10.0**power), holes, seed),
    st.integers(1, 4),
    st.integers(1, 90),
    st.integers(0, 10**6),
    st.integers(-6, 6),
    st.sampled_from(["none", "some", "most", "tail", "head", "a series"]),
)


def holed(values, holes, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn, length = torch.rand(values.shape, generator=generator), values.shape[1]
    places = torch.arange(length)
    masks = {
        "none": drawn < 0,
        "some": drawn < 0.2,
        "most": drawn < 0.8,
        "tail": (places >= length // 2).expand_as(drawn),
        "head": (places < length // 2).expand_as(drawn),
        "a series": (torch.arange(len(values)) == 0)[:, None].expand_as(drawn),
    }
    return values.masked_fill(masks[holes], NAN)


DRAWN = random_chronos2(seed=3, d_kv=6, num_heads=5)


@settings(max_examples=30, derandomize=True)
@given(
    inputs=st.lists(rows, min_size=1, max_size=5),
    horizon=st.integers(1, 40),
    batch_size=st.integers(1, 8),
    cross_learning=st.booleans(),
)
def test_whatever_is_drawn(inputs, horizon, batch_size, cross_learning):
    options = {"prediction_length": horizon, "batch_size": batch_size, "cross_learning": cross_learning}
    ours, theirs = both(DRAWN, inputs, **options)
    reach = DRAWN.model_prediction_length
    first = [[one[..., :reach] for one in found] for found in (ours, theirs)]
    assert largest_gap(inputs, *first) <= 1e-5
    # Beyond it paths go on from rounded quantiles, the outermost of which this random model throws far off: what is
    # rounded there grows by hundreds (6e-4 was drawn once). Fixed cases of such horizons are held to 1e-5 above.
    assert largest_gap(inputs, ours, theirs) <= 1e-2


def test_forecasts_do_not_depend_on_neighbours_or_chunks():
    pipeline = random_chronos2()
    inputs = [*series(), *groups()]
    together = pipeline.predict(inputs)
    alone = [pipeline.predict([one])[0] for one in inputs]
    assert largest_gap(inputs, alone, together) <= 1e-5
    pipeline.memory_budget = 7 * 12 * 4 * 24 * 4
    assert largest_gap(inputs, pipeline.predict(inputs), together) <= 1e-5


def test_a_group_larger_than_a_given_budget_is_refused_with_what_would_do():
    pipeline = random_chronos2()
    group = [walk(7, 64)]  # 7 series of 8 patches, the register and 3 patches ahead
    need = 7 * 12 * 4 * 24 * 4
    expected = pipeline.predict(group)[0]
    pipeline.memory_budget = need - 1
    with pytest.raises(FlowrankError, match=rf"at least {need:,} bytes for a group of 7 series, 84 tokens"):
        pipeline.predict(group)
    pipeline.predict(list(group[0]))  # single series always run
    pipeline.memory_budget = need
    torch.testing.assert_close(pipeline.predict(group)[0], expected)
    with pytest.raises(FlowrankError, match="group of 14 series"):
        pipeline.predict(group * 2, cross_learning=True)
    pipeline.memory_budget = None
    pipeline.predict(group * 2, cross_learning=True)


def test_the_default_budget_refuses_nothing(monkeypatch):
    pipeline = random_chronos2()
    inputs = groups()
    expected = pipeline.predict(inputs)
    monkeypatch.setattr("flowrank.engine.chunks.DEFAULT_BUDGET", 1)
    assert largest_gap(inputs, pipeline.predict(inputs), expected) <= 1e-5


@pytest.mark.parametrize(("length", "count"), [(10, 1), (400, 1), (400, 5)])
def test_the_memory_budget_is_kept(length, count):
    pipeline = random_chronos2(context_length=512, d_model=64, d_kv=16, d_ff=128, num_heads=4)
    pipeline.memory_budget = 8_000_000
    batch = walk(1000 // count, count, length)
    fixed = 12 * batch.nbytes + 3 * 4 * 1000 * 21 * 24 + 1_000_000
    pipeline.predict(batch, batch_size=1000)  # the fastest products are found out once, and packed
    assert peak_memory(lambda: pipeline.predict(batch, batch_size=1000)) <= pipeline.memory_budget + fixed


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=20), st.integers(1, 30))
def test_chunks_hold_whole_groups_and_each_series_once(pairs, most):
    names, tokens = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
    found = chunks(names, tokens, most)
    assert sorted(torch.cat(found).tolist()) == list(range(len(pairs)))
    for chunk in found:
        inside = set(names[chunk].tolist())
        assert not inside & set(names[np.setdiff1d(np.arange(len(pairs)), chunk)].tolist())
        assert int(tokens[chunk].sum()) <= most or len(inside) == 1
    sizes, counts = tokens_of_groups(names, tokens)
    for place, name in enumerate(sorted(set(names.tolist()))):
        assert (int(sizes[place]), int(counts[place])) == (int(tokens[names == name].sum()), int((names == name).sum()))


def test_half_precision_is_as_close_to_the_truth_as_the_stock_pipeline():
    """By the mean square over many series; fp32 is the truth. The gap in bf16 is 0.6 % of what is forecast."""
    pipeline = random_chronos2()
    inputs = [*walk(48, 64), *walk(8, 3, 50)]
    expected = torch.cat(pipeline.predict(inputs)).arcsinh()
    pipeline.model.to(torch.bfloat16)
    found, theirs = (torch.cat(one).arcsinh() for one in both(pipeline, inputs))
    gap, reference = (float((one - expected).square().mean()) for one in (found, theirs))
    assert 0 < gap < 1.2 * reference
    assert math.sqrt(gap / float(expected.square().mean())) < 0.01


def test_a_changed_weight_changes_the_forecast():
    pipeline = random_chronos2()
    before = pipeline.predict(groups())
    with torch.no_grad():
        pipeline.model.encoder.block[1].layer[1].self_attention.v.weight.normal_()
    pipeline.model.encoder.block[0].layer[1].self_attention.o.weight.data.normal_()
    assert largest_gap(groups(), pipeline.predict(groups()), before) > 1e-2
    assert_equal_forecasts(pipeline, groups())


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "q", nn.Sequential(layer.q).eval()),
        lambda layer: setattr(layer, "q", nn.Linear(24, 24, bias=True).eval()),
        lambda layer: setattr(layer, "q", FactoredLinear(24, 24, 2, bias=True).eval()),
        lambda layer: layer.k.register_forward_hook(lambda _m, _i, output: 0 * output),
        lambda layer: setattr(layer, "forward", layer.forward),
        lambda layer: layer.train(),
    ],
)
def test_what_the_engine_does_not_know_goes_the_stock_way(change):
    pipeline = random_chronos2()
    change(pipeline.model.encoder.block[0].layer[1].self_attention)
    assert pipeline.path == "stock"
    found, expected = pipeline.predict(groups()), stock(pipeline).predict(groups())
    assert all(map(torch.equal, found, expected))


def test_a_copy_and_another_model_are_computed_as_they_are():
    pipeline, other = random_chronos2(), random_chronos2(seed=1, num_layers=3)
    expected = pipeline.predict(groups())
    assert all(map(torch.equal, copy.deepcopy(pipeline).predict(groups()), expected))
    pipeline.model = pipeline.inner_model = other.model
    assert all(map(torch.equal, pipeline.predict(groups()), other.predict(groups())))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 3e38])
def test_a_group_that_is_not_finite_harms_itself_alone(value):
    """The stock pipeline gives no forecast of the whole batch where one value of it is infinite."""
    pipeline = random_chronos2()
    inputs = groups()
    expected = pipeline.predict(inputs)
    inputs[2][0, -1] = value
    found = pipeline.predict(inputs)
    alone = stock(pipeline).predict([inputs[2]])[0]
    assert torch.equal(found[2].isfinite(), alone.isfinite())
    assert largest_gap(inputs[3:], found[3:], expected[3:]) <= 1e-5


def test_the_engine_takes_groups_of_any_number_and_order():
    pipeline = random_chronos2()
    context, names = walk(6, 40), torch.tensor([9, -1, 9, 4, 4, 9])
    with torch.no_grad():
        expected = pipeline.model(context, group_ids=names, num_output_patches=2).quantile_preds
    found = Chronos2Engine(pipeline.model).quantiles(Inputs(context, names, None), 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
