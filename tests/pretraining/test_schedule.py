"""Widths follow the paper's formula, count cross-attention after the encoder's layers, and use a budget up."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.family import anatomy_of
from flowrank.nn.shapes import AttentionShape
from flowrank.pretraining import Widths
from flowrank.pretraining.schedule import attention_shapes, layer_widths, schedule_from, schedule_to

NEAR = 1e-6
SIZES = {"layers": st.integers(1, 6), "decoder_layers": st.integers(1, 6), "d_kv": st.integers(1, 64)}
FLOWS = {"d0": st.floats(0.1, 40), "alpha": st.floats(-0.5, 1.5)}


@given(**FLOWS, **SIZES)
@settings(max_examples=200)
def test_ceiling_of_the_papers_formula(d0, alpha, layers, decoder_layers, d_kv):
    widths = layer_widths(FlowOfRanks(d0=d0, alpha=alpha), layers=layers, decoder_layers=decoder_layers, d_kv=d_kv)
    assert len(widths) == layers + decoder_layers
    for number, width in enumerate(widths):
        exact = d0 * (1 + number) ** alpha
        assert 1 <= width <= d_kv
        assert width >= exact - NEAR or width == d_kv
        assert width - 1 <= exact + NEAR


@given(**FLOWS, **SIZES)
@settings(max_examples=200)
def test_nearest_power_of_two(d0, alpha, layers, decoder_layers, d_kv):
    schedule = FlowOfRanks(d0=d0, alpha=alpha, rounding="power_of_two")
    for number, width in enumerate(layer_widths(schedule, layers=layers, decoder_layers=decoder_layers, d_kv=d_kv)):
        logarithm = math.log2(d0 * (1 + number) ** alpha)
        if width == d_kv:
            assert logarithm >= math.log2(d_kv) - 1 or d_kv == 1
        else:
            assert width in (1, 2, 4, 8, 16, 32)
            assert abs(logarithm - math.log2(width)) <= 0.5 + NEAR or (width == 1 and logarithm < 0)


@given(rounding=st.sampled_from(["ceil", "power_of_two"]), **FLOWS, **SIZES)
def test_widths_are_monotone(rounding, d0, alpha, layers, decoder_layers, d_kv):
    schedule = FlowOfRanks(d0=d0, alpha=alpha, rounding=rounding)
    widths = layer_widths(schedule, layers=layers, decoder_layers=decoder_layers, d_kv=d_kv)
    assert list(widths) == sorted(widths, reverse=alpha < 0)


def test_widths_by_hand():
    assert layer_widths(FlowOfRanks(d0=7, alpha=0.4), layers=2, decoder_layers=2, d_kv=64) == (7, 10, 11, 13)
    assert layer_widths(FlowOfRanks(d0=7, alpha=0.4), layers=2, decoder_layers=2, d_kv=10) == (7, 10, 10, 10)
    assert layer_widths(FlowOfRanks(d0=2, alpha=0.5), layers=1, decoder_layers=3, d_kv=64) == (2, 3, 4, 4)
    assert layer_widths(None, layers=2, decoder_layers=1, d_kv=5) == (5, 5, 5)


def every_schedule(alpha: float, rounding: str, total: int, d_kv: int) -> list[tuple[int, ...]]:
    """All that the formula gives for some d0: a width changes where d0 (1 + i)^α passes a whole number, or 2^(k+½)."""
    steps = range(1, d_kv + 1) if rounding == "ceil" else [2 ** (k + 0.5) for k in range(8)]
    turns = sorted({0.0, *(step / (1 + i) ** alpha for i in range(total) for step in steps)})
    turns.append(2 * turns[-1] + 1)
    found = []
    for before, after in pairwise(turns):
        if after - before < NEAR * after:
            continue  # one turn, but for rounding errors
        exact = [(before + after) / 2 * (1 + i) ** alpha for i in range(total)]
        if rounding == "ceil":
            found.append(tuple(min(d_kv, math.ceil(x)) for x in exact))
        else:
            found.append(tuple(min(d_kv, 2 ** max(0, math.floor(math.log2(x) + 0.5))) for x in exact))
    return found


@given(
    ratio=st.floats(0.02, 1.0), alpha=st.floats(-0.5, 1.5), rounding=st.sampled_from(["ceil", "power_of_two"]), **SIZES
)
@example(ratio=0.29, alpha=0.0, rounding="ceil", layers=2, decoder_layers=1, d_kv=100)
@example(ratio=1.0, alpha=0.5, rounding="ceil", layers=4, decoder_layers=4, d_kv=64)
@example(ratio=1.0, alpha=0.0, rounding="power_of_two", layers=1, decoder_layers=1, d_kv=17)
@settings(max_examples=150)
def test_ratio_is_kept_and_used_up(ratio, alpha, rounding, layers, decoder_layers, d_kv):
    """Encoder, decoder, cross-attention each have their layers. One more step of d0 would go over the budget."""

    def price(widths: tuple[int, ...]) -> int:
        return sum(widths[:layers]) + sum(widths[:decoder_layers]) + sum(widths[layers:])

    schedule = FlowOfRanks(ratio=ratio, alpha=alpha, rounding=rounding)
    widths = layer_widths(schedule, layers=layers, decoder_layers=decoder_layers, d_kv=d_kv)
    total = layers + decoder_layers
    budget = ratio * price((d_kv,) * total)
    within = [other for other in every_schedule(alpha, rounding, total, d_kv) if price(other) <= budget + 1e-10]
    if not within:
        assert set(widths) == {1}  # one feature a head at least
        return
    assert max(map(price, within)) <= price(widths) <= budget + NEAR


@given(ratio=st.floats(0.01, 1.0), alpha=st.floats(0, 1.5), **SIZES)
def test_schedule_of_a_ratio_is_that_of_some_d0(ratio, alpha, layers, decoder_layers, d_kv):
    widths = layer_widths(
        FlowOfRanks(ratio=ratio, alpha=alpha), layers=layers, decoder_layers=decoder_layers, d_kv=d_kv
    )
    least = max((width - 1) / (1 + i) ** alpha for i, width in enumerate(widths))
    most = min((width / (1 + i) ** alpha for i, width in enumerate(widths) if width < d_kv), default=math.inf)
    assert least <= most + NEAR


@given(ratio=st.floats(0.001, 1.0), **SIZES)
@example(ratio=0.29, layers=1, decoder_layers=1, d_kv=100)
def test_uniform_takes_the_widest_within_its_ratio(ratio, layers, decoder_layers, d_kv):
    [width] = set(layer_widths(Uniform(ratio), layers=layers, decoder_layers=decoder_layers, d_kv=d_kv))
    assert width == 1 or width <= ratio * d_kv + NEAR
    assert width + 1 > ratio * d_kv - NEAR


@pytest.mark.parametrize(("layers", "decoder_layers"), [(3, 2), (1, 3)])
def test_cross_attention_counts_after_the_encoder(layers, decoder_layers):
    heads = 4
    widths = layer_widths(FlowOfRanks(d0=2, alpha=0.7), layers=layers, decoder_layers=decoder_layers, d_kv=32)
    config = T5Config(
        d_model=8, d_kv=2, num_heads=2, d_ff=8, num_layers=layers, num_decoder_layers=decoder_layers, vocab_size=8
    )
    named = {layer.name: layer.depth for layer in anatomy_of(T5ForConditionalGeneration(config)).attention}
    shapes = attention_shapes(widths, named, heads)
    assert len(shapes) == layers + 2 * decoder_layers
    for name, shape in shapes.items():
        number = int(name.split(".")[2]) + (layers if "EncDec" in name else 0)
        width = math.ceil(2 * (1 + number) ** 0.7)
        assert shape == AttentionShape((width,) * heads, (width,) * heads, {}), name


@pytest.mark.parametrize(
    "schedule",
    [None, Uniform(0.25), Widths((1, 2, 3)), FlowOfRanks(d0=3, alpha=0.27), FlowOfRanks(ratio=0.5, rounding="ceil")],
)
def test_plain_values_and_back(schedule):
    assert schedule_from(json.loads(json.dumps(schedule_to(schedule)))) == schedule
    assert schedule_from(schedule) is schedule


@pytest.mark.parametrize(
    "raw", [3, "Uniform", {"name": "Budget", "ratio": 0.5}, {"ratio": 0.5}, {"name": "Uniform", "share": 0.5}, [0.5]]
)
def test_what_is_no_schedule_is_refused(raw):
    with pytest.raises(FlowrankError, match="schedule"):
        schedule_from(raw)


@pytest.mark.parametrize("widths", [(), (0, 1), (1.0, 2), (True, 1), (-1,)])
def test_bad_widths(widths):
    with pytest.raises(FlowrankError, match="widths"):
        Widths(widths)


@pytest.mark.parametrize("widths", [(1, 2), (1, 2, 3, 4), (1, 2, 9)])
def test_widths_that_do_not_fit_the_model(widths):
    with pytest.raises(FlowrankError, match="3 widths"):
        layer_widths(Widths(widths), layers=2, decoder_layers=1, d_kv=8)
    assert layer_widths(Widths((8, 1, 3)), layers=2, decoder_layers=1, d_kv=8) == (8, 1, 3)
