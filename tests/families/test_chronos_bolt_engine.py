from __future__ import annotations

import copy

import pytest
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import nn

import flowrank
from flowrank import Budget, FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.benchmarking import peak_memory
from flowrank.families.chronos_bolt.pipeline import FlowrankBoltPipeline
from flowrank.nn.factored import FactoredLinear
from tests.conftest import BOLT_PATCHES, relative_gap, small_mlps, tiny_config, with_own_widths
from tests.layers import mlp_layers


@pytest.fixture
def series():
    """Lengths that fill patches and that do not, holes of whole patches and of parts, one series without a value."""
    generator = torch.Generator().manual_seed(0)
    drawn = [100 * torch.randn(n, generator=generator).cumsum(0) for n in (64, 50, 33, 17, 33, 1, 90, 20, 40)]
    drawn[1][10:30] = torch.nan
    drawn[4][[0, 5, 31]] = torch.nan
    drawn[7][:] = torch.nan
    drawn[8][:] = 7.0
    return drawn


def random_bolt(**changes):
    torch.manual_seed(0)
    chronos_config = {**BOLT_PATCHES, **changes.pop("chronos_config", {})}
    model = ChronosBoltModelForForecasting(tiny_config(chronos_config, "ChronosBoltPipeline", **changes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "relative_attention_bias" in name:
            nn.init.normal_(parameter, std=0.5)
    return FlowrankBoltPipeline(model.eval())


def compressed(method):
    return flowrank.compress(random_bolt(), method, calibration_series=8, calibration_points=64)


def with_small_mlps(**changes):
    model = random_bolt(**changes).inner_model
    return FlowrankBoltPipeline(with_own_widths(model, mlp=small_mlps(model)))


def without_neurons():
    model = random_bolt().inner_model
    return FlowrankBoltPipeline(with_own_widths(model, mlp={key: {"width": 0} for key in mlp_layers(model)}))


MODELS = {
    "dense": random_bolt,
    "gated": lambda: random_bolt(feed_forward_proj="gated-gelu"),
    "without register": lambda: random_bolt(chronos_config={"use_reg_token": False}),
    "overlapping patches": lambda: random_bolt(chronos_config={"input_patch_stride": 4}),
    "unequal depths": lambda: random_bolt(num_layers=1, num_decoder_layers=3),
    "narrow heads": lambda: random_bolt(d_kv=2, num_heads=4),
    "equal heads": lambda: compressed(JointHeads(Uniform(0.4))),
    "unequal heads": lambda: compressed(JointHeads(Budget(0.25), per_head=True)),
    "heads that are gone": lambda: compressed(JointHeads(Budget(0.02), per_head=True)),
    "factors": lambda: compressed(WeightSVD(Uniform(0.4))),
    "small feed-forward layers and blocks": with_small_mlps,
    "small gated feed-forward layers": lambda: with_small_mlps(feed_forward_proj="gated-gelu", num_layers=4),
    "no neurons": without_neurons,
}


def normalised_gap(context, ours, theirs) -> float:
    """Largest difference over the scale of the model's own output, before the series' level and scale are put back.

    What the series' own rounding hides is not asked for.
    """
    known = context[-64:][~context[-64:].isnan()].double()
    level = known.mean() if len(known) else torch.zeros(())
    scale = known.std(correction=0) if len(known) else torch.ones(())
    scale = scale if scale > 0 else torch.tensor(1e-5)
    rounding = 4 * torch.finfo(torch.float32).eps * float(level.abs() / scale)
    ours, theirs = ((forecast.double() - level) / scale for forecast in (ours, theirs))
    return float((ours - theirs).abs().max() / theirs.abs().max()) - rounding


def both(pipeline, inputs, **options):
    stock = FlowrankBoltPipeline(pipeline.inner_model)
    stock.engine = "stock"
    return pipeline.predict(inputs, **options), stock.predict(inputs, **options)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_quantiles_are_the_stock_models(make, series):
    pipeline = make()
    if pipeline.inner_model.chronos_config.input_patch_stride != 8:
        series = [one for one in series if len(one) >= 8]
    assert pipeline.path == "exact"
    found, expected = both(pipeline, series)
    for context, ours, theirs in zip(series, found, expected, strict=True):
        assert normalised_gap(context, ours, theirs) <= 1e-5


@pytest.mark.filterwarnings("ignore:We recommend", "ignore:prediction_length")
def test_far_horizons_go_on_from_every_quantile_as_stock_chronos_does(series):
    found, expected = both(random_bolt(), series, prediction_length=45)
    assert found.shape == (len(series), 9, 45)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_gap(ours, theirs) <= 1e-4


def test_a_far_horizon_warns_or_is_refused(series):
    with pytest.warns(UserWarning, match="beyond 16"):
        random_bolt().predict(series, prediction_length=17)
    with pytest.raises(FlowrankError, match="prediction_length: expected at most 16"):
        random_bolt().predict(series, prediction_length=17, limit_prediction_length=True)
    with pytest.raises(FlowrankError, match="prediction_length"):
        random_bolt().predict(series, prediction_length=-1)
    assert random_bolt().predict(series, prediction_length=0).shape == (len(series), 9, 0)


def test_forecasts_do_not_depend_on_batches_chunks_or_padding(series):
    pipeline = random_bolt()
    together = pipeline.predict(series)
    for number in range(len(series)):
        assert relative_gap(pipeline.predict(series[number])[0], together[number]) <= 1e-5
    pipeline.memory_budget = 1
    for ours, theirs in zip(pipeline.predict(series), together, strict=True):
        assert relative_gap(ours, theirs) <= 1e-5


def test_contexts_longer_than_the_model_reads_are_cut(series):
    pipeline = random_bolt()
    long = torch.randn(3, 200, generator=torch.Generator().manual_seed(3)).cumsum(1)
    torch.testing.assert_close(pipeline.predict(long), pipeline.predict(long[:, -64:]))


def test_a_changed_weight_changes_the_forecast(series):
    pipeline = random_bolt()
    before = pipeline.predict(series)
    pipeline.inner_model.decoder.block[1].layer[0].SelfAttention.v.weight.data.normal_()
    pipeline.inner_model.shared.weight.data.normal_()
    after, expected = both(pipeline, series)
    assert relative_gap(after[0], before[0]) > 1e-3
    assert relative_gap(after, expected) <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "q", nn.Sequential(layer.q).eval()),
        lambda layer: setattr(layer, "q", nn.Linear(24, 18, bias=True).eval()),
        lambda layer: setattr(layer, "q", FactoredLinear(24, 18, 2, bias=True).eval()),
        lambda layer: layer.k.register_forward_hook(lambda _m, _i, output: 0 * output),
        lambda layer: setattr(layer, "forward", layer.forward),
        lambda layer: layer.train(),
    ],
)
def test_what_the_engine_does_not_know_goes_the_stock_way(change, series):
    pipeline = random_bolt()
    change(pipeline.inner_model.encoder.block[0].layer[0].SelfAttention)
    assert pipeline.path == "stock"
    found, expected = both(pipeline, series)
    assert torch.equal(found, expected)


def test_autocast_goes_the_stock_way_and_leaves_nothing_behind(series):
    pipeline = random_bolt()
    expected = pipeline.predict(series)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pipeline.path == "stock"
        pipeline.predict(series)
    assert torch.equal(pipeline.predict(series), expected)


def test_another_model_in_the_pipeline_is_the_one_that_runs(series):
    pipeline, other = random_bolt(), random_bolt(num_layers=3)
    pipeline.model = other.model
    assert torch.equal(pipeline.predict(series), other.predict(series))


def test_a_copy_forecasts_the_same(series):
    pipeline = random_bolt()
    expected = pipeline.predict(series)
    assert torch.equal(copy.deepcopy(pipeline).predict(series), expected)


@pytest.mark.filterwarnings("ignore:We recommend", "ignore:prediction_length")
def test_a_series_that_is_not_finite_harms_no_other():
    pipeline = random_bolt(chronos_config={"use_reg_token": False})
    batch = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    expected = pipeline.predict(batch, prediction_length=100)
    batch[0, -1] = torch.inf
    found = pipeline.predict(batch, prediction_length=100)
    assert found.shape == (3, 9, 100)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], expected[1:])


def test_half_precision_is_as_close_as_the_stock_models():
    """By the mean square over many series: of a few, the largest error is a matter of luck, and of the processor."""
    pipeline = random_bolt()
    series = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    expected = pipeline.predict(series)
    pipeline.inner_model.to(torch.bfloat16)
    found, stock = (float((one - expected).square().mean()) for one in both(pipeline, series))
    assert 0 < found < 1.2 * stock


@pytest.mark.parametrize("length", [10, 400])
def test_the_memory_budget_is_kept(length):
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 8}
    pipeline = random_bolt(chronos_config={"context_length": 512}, **shape)
    pipeline.memory_budget = 4_000_000
    batch = torch.randn(1500, length).cumsum(1)
    fixed = 12 * batch.nbytes + 3 * 4 * 1500 * 9 * 16 + 1_000_000
    pipeline.predict(batch)  # the fastest products are found out once, and packed
    assert peak_memory(lambda: pipeline.predict(batch)) <= pipeline.memory_budget + fixed
