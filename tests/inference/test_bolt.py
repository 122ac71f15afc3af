from __future__ import annotations

import pytest
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import nn

import flowrank
from flowrank import Budget, FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.pipelines import FlowrankBoltPipeline
from tests.conftest import BOLT_PATCHES, relative_gap, tiny_config


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
}


def both(pipeline, inputs, **options):
    stock = FlowrankBoltPipeline(pipeline.inner_model)
    stock.engine = "stock"
    return pipeline.predict(inputs, **options), stock.predict(inputs, **options)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_quantiles_are_the_stock_models(make, series):
    pipeline = make()
    if pipeline.inner_model.chronos_config.input_patch_stride != 8:
        series = [one for one in series if len(one) >= 8]
    found, expected = both(pipeline, series)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_gap(ours, theirs) <= 1e-5


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
        random_bolt().predict(series, prediction_length=0)


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
    with torch.no_grad():
        pipeline.inner_model.decoder.block[1].layer[0].SelfAttention.v.weight.normal_()
        pipeline.inner_model.shared.weight.normal_()
    after, expected = both(pipeline, series)
    assert relative_gap(after[0], before[0]) > 1e-3
    assert relative_gap(after, expected) <= 1e-5


def test_weights_of_other_kinds_go_the_stock_way(series):
    pipeline = random_bolt()
    layer = pipeline.inner_model.encoder.block[0].layer[0].SelfAttention
    expected = pipeline.predict(series)
    layer.q = nn.Sequential(layer.q)
    assert pipeline.inference.engine_for(pipeline.inner_model) is None
    torch.testing.assert_close(pipeline.predict(series), expected, rtol=1e-4, atol=1e-3)


def test_half_precision_stays_close(series):
    pipeline = random_bolt()
    expected = pipeline.predict(series[:3])
    pipeline.inner_model.to(torch.bfloat16)
    assert relative_gap(pipeline.predict(series[:3]), expected) < 0.05
