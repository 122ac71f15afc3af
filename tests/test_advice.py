"""Advice against profiles whose answer is known, and a real one."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

import flowrank
from flowrank import FlowOfRanks, FlowrankError
from flowrank.analysis import RankProfile

HEADS, D_KV, LAYERS = 4, 64, 6


def profile_with(need, together=None, decoder_layers: int = 0) -> RankProfile:
    """Each head of layer i uses need(i) components; all heads together ``together(i)``, or as many as fit."""
    rows = []

    def add(stack, kind, layer, depth, quantity, head, dim, rank):
        for epsilon, factor in ((0.1, 1), (0.01, 2)):
            value = min(dim, factor * rank)
            rows.append([stack, kind, layer, depth, quantity, head, dim, epsilon, value, 1.0, 1.0])

    stacks = [("encoder", "self", i, i) for i in range(LAYERS)]
    stacks += [("decoder", "self", i, i) for i in range(decoder_layers)]
    stacks += [("decoder", "cross", i, LAYERS + i) for i in range(decoder_layers)]
    for stack, kind, layer, depth in stacks:
        for quantity in ("queries", "keys", "values", "head_outputs"):
            for head in range(HEADS):
                add(stack, kind, layer, depth, quantity, head, D_KV, need(depth))
            whole = HEADS * need(depth) if together is None else together(depth)
            add(stack, kind, layer, depth, quantity, -1, HEADS * D_KV, whole)
        add(stack, "residual", layer, layer, "residual", -1, 256, 20 + layer)
    columns = ["stack", "kind", "layer", "depth", "quantity", "head", "dim", "epsilon"]
    ranks = pd.DataFrame(rows, columns=[*columns, "rank", "effective_rank", "stable_rank"])
    layers = {"encoder": LAYERS, "decoder": decoder_layers}
    about = {"model": {"d_model": 256, "d_kv": D_KV, "layers": layers}}
    return RankProfile(ranks.drop_duplicates(), pd.DataFrame(), pd.DataFrame(), about)


@pytest.mark.parametrize(("d0", "alpha"), [(8, 0.6), (20, 0.0), (40, -0.4)])
def test_the_schedule_behind_the_ranks_is_found(d0, alpha):
    advice = flowrank.advise(profile_with(lambda i: round(d0 * (1 + i) ** alpha), decoder_layers=3), budget=0.25)
    assert advice.alpha == pytest.approx(alpha, abs=0.02)
    assert advice.fitted_d0 == pytest.approx(d0, rel=0.05)
    assert advice.r_squared > 0.99 or alpha == 0
    expected = FlowOfRanks(d0=d0, alpha=alpha)
    sites = [*range(LAYERS), *range(3), *range(LAYERS, LAYERS + 3)]
    natural = np.mean([expected.width(i) for i in sites]) / D_KV
    assert advice.natural == pytest.approx(natural, rel=0.1)


@pytest.mark.parametrize("budget", [0.075, 0.25, 1.0])
def test_the_budget_is_met_from_below_by_the_parameters_it_counts(budget):
    advice = flowrank.advise(profile_with(lambda i: 8 + 2 * i, decoder_layers=3), budget=budget)
    sites = [*range(LAYERS), *range(3), *range(LAYERS, LAYERS + 3)]
    kept = sum(advice.widths[i] for i in sites) / (D_KV * len(sites))
    assert advice.savings["attention_parameters"] == pytest.approx(kept)
    assert budget - 0.6 / D_KV * 2 <= kept <= budget + 1e-9
    cached = [*range(3), *range(LAYERS, LAYERS + 3)]
    assert advice.savings["cache"] == pytest.approx(np.mean([advice.widths[i] for i in cached]) / D_KV)
    assert advice.schedule == FlowOfRanks(ratio=budget, alpha=advice.alpha)


def test_layers_are_ordered_by_how_little_they_use():
    advice = flowrank.advise(profile_with(lambda i: [60, 10, 40, 64, 20, 30][i]))
    assert advice.layers["layer"].tolist() == [1, 4, 5, 2, 0, 3]
    assert advice.layers["order"].tolist() == ["first"] * 3 + ["next"] + ["keep"] * 2
    text = str(advice)
    assert "Compress first: encoder self 1, encoder self 4, encoder self 5" in text
    assert "Leave alone: encoder self 0, encoder self 3" in text


def test_heads_that_look_at_the_same_are_counted_once():
    advice = flowrank.advise(profile_with(lambda i: 10, together=lambda i: 10 if i == 2 else 25))
    needed = advice.layers.set_index("layer")["heads_needed"]
    assert needed[2] == 1
    assert (needed.drop(2) == 3).all()
    assert "down to 1 of 4 in encoder self 2" in str(advice)
    assert "Keep the number of heads" in str(flowrank.advise(profile_with(lambda i: 10)))


def test_the_width_holds_the_stream_at_the_smallest_epsilon():
    advice = flowrank.advise(profile_with(lambda i: 10))
    assert advice.d_model == 64  # the stream reaches rank 2 · 25
    assert "after layer 5 of the encoder" in str(advice)


def test_a_real_profile_says_it_all(pipeline):
    series = [np.random.default_rng(seed).normal(size=60).cumsum() for seed in range(4)]
    profile = flowrank.analyze(pipeline, series=series)
    advice = flowrank.advise(profile, 0.5)
    assert len(advice.layers) == 6
    assert len(advice.widths) == 4
    one_token = advice.layers.query("stack == 'decoder' and kind == 'self'")["need_qk"]
    assert (one_token == 0).all() == (not hasattr(pipeline, "tokenizer"))
    again = json.loads(json.dumps(advice.to_dict()))
    assert again["widths"] == list(advice.widths)
    assert math.isfinite(again["alpha"])
    assert len(again["lines"]) >= 4
    child = flowrank.compress(
        pipeline, flowrank.JointHeads(advice.schedule), calibration_series=8, calibration_points=64
    )
    counts = child.recipe["parameters"]
    assert counts["attention_child"] <= 0.5 * counts["attention_parent"]


def test_bad_requests_are_refused():
    profile = profile_with(lambda i: 10)
    with pytest.raises(FlowrankError, match="budget: expected the kept share"):
        flowrank.advise(profile, 1.5)
    with pytest.raises(FlowrankError, match=r"epsilon: expected one of 0\.01, 0\.1"):
        flowrank.advise(profile, epsilon=0.3)
    nothing = RankProfile(
        profile.ranks[profile.ranks["kind"] == "residual"], pd.DataFrame(), pd.DataFrame(), profile.about
    )
    with pytest.raises(FlowrankError, match="profile: expected ranks of attention layers"):
        flowrank.advise(nothing)
