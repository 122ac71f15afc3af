"""A recipe's model is a stock one, or one of known widths, with T5's initial weights at each layer's own width."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline, ChronosBoltPipeline, ChronosConfig, ChronosPipeline
from chronos.chronos_bolt import ChronosBoltConfig, ChronosBoltModelForForecasting
from transformers import T5Config, T5ForConditionalGeneration

import flowrank
from flowrank.compression import FlowOfRanks
from flowrank.errors import FlowrankError
from flowrank.families.chronos_bolt.model import NarrowChronosBolt
from flowrank.families.chronos_t5.model import NarrowChronosT5
from flowrank.nn.shapes import AttentionShape
from flowrank.pretraining import Widths
from flowrank.pretraining.architecture import adopted, build, trainable
from tests.conftest import BOLT_PATCHES, T5_TOKENS
from tests.layers import attention_layers, attention_parameters

WIDE = {"d_model": 96, "d_kv": 32, "d_ff": 80, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 1}
WIDTHS = (4, 8, 16)
FAMILIES = pytest.mark.parametrize("family", ["bolt", "t5"])


def number(layer: str) -> int:
    """Of an attention layer: cross-attention goes on where the encoder ended."""
    return int(layer.split(".")[2]) + (WIDE["num_layers"] if "EncDec" in layer else 0)


def assert_normal(weights: torch.Tensor, spread: float) -> None:
    """Mean and standard deviation within five standard errors of their estimates."""
    count = weights.numel()
    assert abs(float(weights.std()) / spread - 1) < 5 / (2 * count) ** 0.5
    assert abs(float(weights.mean())) < 5 * spread / count**0.5


@FAMILIES
@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("schedule", [None, Widths(WIDTHS)], ids=["dense", "widths"])
def test_initial_spread_is_that_of_t5_at_each_layers_width(recipe, family, factor, schedule):
    made = recipe(family=family, schedule=schedule, initializer_factor=factor, **WIDE)
    model = build(made).inner_model
    for name, layer in attention_layers(model).items():
        width = 32 if schedule is None else WIDTHS[number(name)]
        assert layer.q.weight.shape == (4 * width, 96)
        assert_normal(layer.q.weight.detach(), factor * (96 * width) ** -0.5)
        assert_normal(layer.k.weight.detach(), factor * 96**-0.5)
        assert_normal(layer.v.weight.detach(), factor * 96**-0.5)
        assert_normal(layer.o.weight.detach(), factor * (4 * width) ** -0.5)
        if layer.has_relative_attention_bias:
            assert_normal(layer.relative_attention_bias.weight.detach(), factor * 96**-0.5)
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            assert_normal(block.layer[-1].DenseReluDense.wi.weight.detach(), factor * 96**-0.5)
            assert_normal(block.layer[-1].DenseReluDense.wo.weight.detach(), factor * 80**-0.5)
    assert_normal(model.shared.weight.detach(), factor * (0.1 if family == "t5" else 1.0))
    assert family == "bolt" or model.lm_head.weight is model.shared.weight


@FAMILIES
@pytest.mark.parametrize("schedule", [None, Widths((2, 4, 4, 8))], ids=["dense", "widths"])
def test_output_scale_is_that_of_the_output_only(recipe, family, schedule):
    whole, small = (
        dict(build(recipe(family=family, schedule=schedule, output_scale=scale)).inner_model.named_parameters())
        for scale in (1.0, 0.125)
    )
    scaled = {
        "bolt": {f"output_patch_embedding.{name}_layer.weight" for name in ("output", "residual")},
        "t5": {"shared.weight"},
    }[family]
    for name, weights in whole.items():
        assert torch.equal(small[name], weights * (0.125 if name in scaled else 1)), name
    assert scaled <= set(whole)


def test_dense_bolt_is_a_stock_model(recipe, tmp_path):
    pipeline = build(recipe(context_length=48, prediction_length=12, lengths=(48,), quantiles=(0.25, 0.5)))
    model = pipeline.inner_model
    assert type(model) is ChronosBoltModelForForecasting
    assert type(model.config) is T5Config
    settings = ChronosBoltConfig(**model.config.chronos_config)
    assert settings == ChronosBoltConfig(
        context_length=48,
        prediction_length=12,
        input_patch_size=8,
        input_patch_stride=8,
        quantiles=[0.25, 0.5],
        use_reg_token=True,
    )
    pipeline.save_pretrained(tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert written["model_type"] == "t5"
    assert written["architectures"] == ["ChronosBoltModelForForecasting"]
    assert set(BOLT_PATCHES) <= set(written["chronos_config"])
    opened = BaseChronosPipeline.from_pretrained(str(tmp_path / "model"))
    assert type(opened) is ChronosBoltPipeline
    assert_same_forecasts(pipeline, opened, quantiles=[0.25, 0.5])


def test_dense_t5_is_a_stock_model(recipe, tmp_path):
    pipeline = build(recipe(family="t5", n_tokens=128, use_eos_token=False))
    model = pipeline.inner_model
    assert type(model) is T5ForConditionalGeneration
    assert type(model.config) is T5Config
    assert ChronosConfig(**model.config.chronos_config) == ChronosConfig(
        **{**T5_TOKENS, "n_tokens": 128, "use_eos_token": False, "num_samples": 20}
    )
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.vocab_size) == (0, 1, 128)
    pipeline.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "t5"
    opened = BaseChronosPipeline.from_pretrained(str(tmp_path / "model"))
    assert type(opened) is ChronosPipeline
    assert_same_forecasts(pipeline, opened, quantiles=[0.1, 0.5])


def assert_same_forecasts(one, other, quantiles: list[float]) -> None:
    forecasts = []
    for pipeline in (one, other):
        if hasattr(pipeline, "engine"):
            pipeline.engine = "stock"  # the only one that chronos itself knows for a dense model
        torch.manual_seed(0)
        context = [torch.arange(30.0)]
        forecasts.append(pipeline.predict_quantiles(context, prediction_length=6, quantile_levels=quantiles)[0])
    torch.testing.assert_close(*forecasts)


@FAMILIES
def test_shape_is_the_recipes(recipe, family):
    made = recipe(
        family=family, **WIDE, relative_attention_num_buckets=12, relative_attention_max_distance=50, dropout_rate=0.2
    )
    config = build(made).inner_model.config
    for name, value in {
        **WIDE,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 50,
        "dropout_rate": 0.2,
    }.items():
        assert getattr(config, name) == value, name
    model = build(made).inner_model
    assert (len(model.encoder.block), len(model.decoder.block)) == (2, 1)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert all(weights.requires_grad for weights in model.parameters())


@FAMILIES
def test_parameters_are_those_of_the_shapes(recipe, family):
    made = recipe(family=family, **WIDE)
    dense = build(made).inner_model
    narrow = build(recipe(family=family, schedule=Widths(WIDTHS), **WIDE)).inner_model
    assert type(narrow) is {"bolt": NarrowChronosBolt, "t5": NarrowChronosT5}[family]
    expected = sum(
        sum(AttentionShape.dense(4, WIDTHS[number(name)]).parameters(96).values()) for name in attention_layers(dense)
    )
    assert attention_parameters(narrow) == expected == 4 * 96 * 4 * (2 * 4 + 8 + 16)
    saved = 4 * 96 * 4 * (4 * 32) - expected
    assert sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in narrow.parameters()) == saved


def test_cross_attention_goes_on_where_the_encoder_ended(recipe):
    """⌈ 2 (1 + i)^0.5 ⌉ by hand: 2, 3 in encoder and decoder, 4, 4 in cross-attention."""
    model = build(recipe(schedule=FlowOfRanks(d0=2, alpha=0.5))).inner_model
    found = {name: layer.q.out_features // 2 for name, layer in attention_layers(model).items()}
    assert found == {
        "encoder.block.0.layer.0.SelfAttention": 2,
        "encoder.block.1.layer.0.SelfAttention": 3,
        "decoder.block.0.layer.0.SelfAttention": 2,
        "decoder.block.0.layer.1.EncDecAttention": 4,
        "decoder.block.1.layer.0.SelfAttention": 3,
        "decoder.block.1.layer.1.EncDecAttention": 4,
    }


def test_widths_that_do_not_fit(recipe):
    with pytest.raises(FlowrankError, match="4 widths"):
        build(recipe(schedule=Widths((2, 2, 2))))


@FAMILIES
@pytest.mark.parametrize("schedule", [None, Widths((2, 4, 4, 8))], ids=["dense", "widths"])
def test_seed_alone_decides_the_weights(recipe, family, schedule):
    def weights(seed: int, around: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(around)
        return build(recipe(family=family, schedule=schedule, seed=seed)).inner_model.state_dict()

    one, again, other = weights(3, around=0), weights(3, around=1), weights(4, around=0)
    assert all(torch.equal(values, again[name]) for name, values in one.items())
    matrices = [name for name, values in one.items() if values.ndim == 2]
    assert not any(torch.equal(one[name], other[name]) for name in matrices)


@FAMILIES
def test_chance_of_the_caller_is_left_alone(recipe, family):
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    build(recipe(family=family))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_start_from_another_model(recipe, folder):
    made = recipe(initial_model=str(folder), lengths=(16, 32, 64), seed=9)
    pipeline = build(made)
    stock = BaseChronosPipeline.from_pretrained(str(folder))
    for name, weights in stock.inner_model.state_dict().items():
        assert torch.equal(weights, pipeline.inner_model.state_dict()[name]), name
    shape = adopted(made, pipeline)
    assert shape.family == ("bolt" if isinstance(stock, ChronosBoltPipeline) else "t5")
    for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers"):
        assert getattr(shape, name) == getattr(stock.inner_model.config, name), name
    assert (shape.context_length, shape.prediction_length, shape.schedule) == (64, 16, None)
    if shape.family == "bolt":
        assert shape.input_patch_size == BOLT_PATCHES["input_patch_size"]
        assert list(shape.quantiles) == BOLT_PATCHES["quantiles"]
    else:
        assert (shape.n_tokens, shape.use_eos_token) == (64, True)
    assert (shape.lengths, shape.seed, shape.max_steps) == ((16, 32, 64), 9, made.max_steps)


def test_lengths_that_another_model_cannot_take_are_dropped(recipe, bolt_folder):
    pipeline = build(recipe(initial_model=str(bolt_folder)))
    longer = recipe(context_length=512, lengths=(32, 64, 128, 512))
    assert adopted(longer, pipeline).lengths == (32, 64)
    assert adopted(recipe(context_length=512, lengths=(128, 512)), pipeline).lengths == (64,)
    assert adopted(recipe(prediction_length=64, horizons=(4, 64)), pipeline).horizons == (4,)


def test_embedding_of_another_model(recipe, t5_folder):
    donor = BaseChronosPipeline.from_pretrained(str(t5_folder)).inner_model
    made = recipe(family="t5", d_model=24, token_embedding=str(t5_folder), freeze_token_embedding=True)
    model = build(made).inner_model
    assert torch.equal(model.get_input_embeddings().weight, donor.shared.weight)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    trainable(model, made)
    assert [name for name, weights in model.named_parameters() if not weights.requires_grad] == ["shared.weight"]
    with pytest.raises(FlowrankError, match="token_embedding"):
        build(recipe(family="t5", d_model=16, token_embedding=str(t5_folder)))


def test_compressed_models_open_with_their_widths(recipe, tmp_path):
    pipeline = build(recipe(family="t5", schedule=Widths((2, 4, 4, 8))))
    pipeline.save_pretrained(tmp_path / "model")
    assert_same_forecasts(pipeline, flowrank.load(tmp_path / "model"), quantiles=[0.5])
