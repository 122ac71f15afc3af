"""Planes that turn and attention over groups, against the stock model's own features and weights in numpy."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

import flowrank
from flowrank import FlowrankError
from flowrank.analysis.measure import profile_of, streams_of, through
from flowrank.family import SeriesGroup, family_of
from tests.conftest import make_chronos2

BASE, HEADS, WIDTH = 1e4, 4, 8


@pytest.fixture(scope="module")
def pipeline(chronos2_folder):
    return flowrank.load(chronos2_folder)


def group(seed: int, series: int, points: int, missing: int = 0) -> SeriesGroup:
    """Random walks of which all but the first lack their first points."""
    values = torch.randn(series, points, generator=torch.Generator().manual_seed(seed)).cumsum(1)
    values[1:, :missing] = torch.nan
    known = torch.zeros(series, dtype=torch.bool)
    known[-1] = series > 2
    return SeriesGroup(values, known)


CONTEXTS = [group(0, 3, 100, missing=30), group(1, 1, 60).values[0], group(2, 2, 80), group(3, 4, 64, missing=40)]


def measured(pipeline, contexts=CONTEXTS):
    family = family_of(pipeline).private()
    streams = streams_of(family.model, list(family.anatomy.blocks), 1e-6)
    with streams.watching():
        for _ in through(family, streams, contexts):
            pass
    return profile_of(streams, [0.1, 0.01], about_of(pipeline))


def about_of(pipeline):
    config = pipeline.inner_model.config
    layers = {"encoder": config.num_layers, "decoder": 0}
    return {"model": {"d_model": config.d_model, "d_kv": config.d_kv, "layers": layers}}


@pytest.fixture(scope="module")
def profile(pipeline):
    return measured(pipeline)


def stock_pass(pipeline, contexts=CONTEXTS):
    """What the model computes on all series in one batch: weights over groups, features before they turn, tokens."""
    family = family_of(pipeline)
    model, inputs = family.model, family._inputs(contexts)
    features: dict[tuple[int, str], np.ndarray] = {}
    handles = [
        getattr(block.layer[0].self_attention, name).register_forward_hook(
            lambda _m, _i, output, key=(number, name): features.__setitem__(key, output.double().numpy())
        )
        for number, block in enumerate(model.encoder.block)
        for name in "qk"
    ]
    inputs.pop("targets")
    with torch.no_grad():
        encoded, *_ = model.encode(**inputs, num_output_patches=3, output_attentions=True)
    for handle in handles:
        handle.remove()
    rows = inputs["context"].numpy()
    whole = np.pad(rows, ((0, 0), (-rows.shape[1] % 8, 0)), constant_values=np.nan)
    patches = np.isfinite(whole).reshape(len(rows), -1, 8)
    seen = np.concatenate([patches.any(axis=2), np.ones((len(rows), 4), bool)], axis=1)
    return encoded.all_group_self_attn_weights, features, seen


def test_attention_matrices_over_a_group_are_the_blocks_of_groups(pipeline, profile):
    weights, _, seen = stock_pass(pipeline)
    sizes = [3, 1, 2, 4]
    for layer, all_weights in enumerate(weights):
        for head in range(HEADS):
            curves = []
            for size, start in zip(sizes, np.cumsum([0, *sizes]), strict=False):
                places = []
                for token in range(seen.shape[1]):
                    rows = start + np.flatnonzero(seen[start : start + size, token])
                    if len(rows) < 2:
                        continue
                    block = all_weights[token, head].numpy()[np.ix_(rows, rows)].astype(float)
                    np.testing.assert_allclose(block.sum(axis=1), 1, rtol=1e-5)
                    sigma = np.linalg.svd(block, compute_uv=False)
                    places.append(np.pad(sigma / sigma[0], (0, 4 - len(sigma))))
                if places:
                    curves.append(np.mean(places, axis=0))
            assert len(curves) == 3
            found = profile.spectra.query(
                f"kind == 'group' and quantity == 'attention' and layer == {layer} and head == {head}"
            )
            np.testing.assert_allclose(found["sigma"], np.mean(curves, axis=0), rtol=1e-3, atol=1e-5)
    rows = profile.ranks.query("kind == 'group' and quantity == 'attention'")
    assert len(rows) == 2 * HEADS * 2
    assert (rows["dim"] == 4).all()


def test_theorem_4_holds_for_attention_over_a_group(pipeline):
    for seed in range(3):
        bounds = measured(pipeline, [group(seed, 3, 60), group(seed + 9, 1, 50).values[0], group(seed, 2, 90)]).bounds
        assert set(bounds["kind"]) == {"self", "group"}
        assert (bounds["sigma"] <= bounds["bound"] * (1 + 1e-6) + 1e-6).all()


def test_single_series_have_no_attention_over_a_group(pipeline):
    series = [np.random.default_rng(seed).normal(size=90).cumsum() for seed in range(3)]
    profile = flowrank.analyze(pipeline, series=series)
    assert "attention" not in set(profile.ranks.query("kind == 'group'")["quantity"])
    advice = flowrank.advise(profile)
    group = advice.layers[advice.layers["kind"] == "group"]
    assert group["single_key"].all()
    assert (group["need_qk"] == 0).all()
    assert "flowrank.univariate" in str(advice)


def terms(query, key, plane, planes, theta, head):
    """Each plane's part of all scores of a series, with queries and keys turned by 2 × 2 matrices."""
    turned = []
    for features in (query, key):
        mine = features[:, head * WIDTH : (head + 1) * WIDTH]
        rows = []
        for place, row in enumerate(mine):
            c, s = math.cos(theta * place), math.sin(theta * place)
            rows.append(np.array([[c, -s], [s, c]]) @ row[[plane, planes + plane]])
        turned.append(np.stack(rows))
    return turned[0] @ turned[1].T


def test_shares_of_planes_are_those_of_the_scores(pipeline, profile):
    _, features, seen = stock_pass(pipeline)
    planes = WIDTH // 2
    for layer, head in ((0, 0), (1, 3)):
        energy, variance = np.zeros(planes), np.zeros(planes)
        for query, key, mask in zip(features[layer, "q"], features[layer, "k"], seen, strict=True):
            for plane in range(planes):
                scores = terms(query, key, plane, planes, BASE ** (-2 * plane / WIDTH), head)[np.ix_(mask, mask)]
                variance[plane] += scores.var(axis=1).mean()
                both = [part[mask][:, [head * WIDTH + plane, head * WIDTH + planes + plane]] for part in (query, key)]
                lengths = [(one**2).sum(axis=1) for one in both]
                energy[plane] += np.outer(*lengths).mean()
        rows = profile.positions.query(f"layer == {layer} and head == {head}")
        np.testing.assert_allclose(rows["energy"], energy / energy.sum(), rtol=1e-4)
        np.testing.assert_allclose(rows["variance"], variance / variance.sum(), rtol=1e-4)
        np.testing.assert_allclose(rows["frequency"], BASE ** (-2 * np.arange(planes) / WIDTH), rtol=1e-6)
    longest = max(np.ptp(np.flatnonzero(mask)) for mask in seen)
    assert (profile.positions["tokens"] == longest + 1).all()
    np.testing.assert_allclose(profile.positions["angle"], profile.positions["frequency"] * longest, rtol=1e-6)


def test_a_row_a_head_follows_from_the_planes(profile):
    table = profile.turning(0.1)
    assert len(table) == 2 * HEADS
    tokens = int(table["tokens"].iloc[0])
    for row in table.to_dict("records"):
        planes = profile.positions.query(f"layer == {row['layer']} and head == {row['head']}")
        p = planes["variance"].to_numpy()
        assert row["effective_planes"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
        assert row["planes_below_0.5"] == (planes["angle"] < 0.5).sum() == 2
        assert row["variance_below_0.5"] == pytest.approx(p[planes["angle"] < 0.5].sum())
        angles = np.outer(np.arange(1 - tokens, tokens), planes["frequency"])
        sigma = np.linalg.svd(np.hstack([np.cos(angles), np.sin(angles)]), compute_uv=False)
        assert row["position_rank"] == (sigma > 0.1 * sigma[0]).sum()
    with pytest.raises(FlowrankError, match=r"epsilon: expected one of 0\.01, 0\.1"):
        profile.turning(0.5)


def test_features_that_do_not_turn_are_one_row(tmp_path):
    """A head that keeps one plane and a block: energies follow from its own features."""
    from flowrank.families.chronos2.attention import NarrowMHA
    from flowrank.nn.shapes import AttentionShape

    pipeline = flowrank.load(make_chronos2(tmp_path / "model", seed=3))
    layer = pipeline.inner_model.encoder.block[0].layer[0]
    shape = replace(AttentionShape.dense(HEADS, 5), planes=((1,),) * HEADS)
    torch.manual_seed(0)
    layer.self_attention = NarrowMHA(pipeline.inner_model.config, shape, use_rope=True).eval()
    contexts = [group(5, 1, 96).values[0], group(6, 1, 96).values[0]]
    found = measured(pipeline, contexts)
    _, features, seen = stock_pass(pipeline, contexts)
    assert seen.all()
    flat = np.zeros(2)
    turning = np.zeros(2)
    for query, key in zip(features[0, "q"], features[0, "k"], strict=True):
        q, k = query[:, :5], key[:, :5]
        scores = q[:, 2:] @ k[:, 2:].T
        flat += (scores**2).mean(), scores.var(axis=1).mean()
        places = np.arange(len(q))
        theta = BASE ** (-2 / WIDTH)
        z = [(one[:, 0] + 1j * one[:, 1]) * np.exp(1j * theta * places) for one in (q, k)]
        scores = np.real(np.conj(z[0])[:, None] * z[1])
        turning += np.outer(np.abs(z[0]) ** 2, np.abs(z[1]) ** 2).mean(), scores.var(axis=1).mean()
    rows = found.positions.query("layer == 0 and head == 0")
    assert rows["plane"].tolist() == [1, -1]
    assert rows["frequency"].iloc[1] == rows["angle"].iloc[1] == 0
    for name, number in (("energy", 0), ("variance", 1)):
        expected = np.array([turning[number], flat[number]])
        np.testing.assert_allclose(rows[name], expected / expected.sum(), rtol=1e-4)
    head = found.turning().query("layer == 0 and head == 0").iloc[0]
    assert (head["planes"], head["effective_planes"]) == (1, pytest.approx(1))
    assert head["variance_below_0.1"] == pytest.approx(rows["variance"].iloc[1])


def test_saved_tables_read_back(profile, tmp_path):
    again = flowrank.RankProfile.read(profile.save(tmp_path / "one"))
    pd.testing.assert_frame_equal(again.positions, profile.positions)
    pd.testing.assert_frame_equal(again.turning(), profile.turning())


def test_others_have_an_empty_table(bolt_folder, tmp_path):
    profile = flowrank.analyze(flowrank.load(bolt_folder), count=4, points=64)
    assert profile.positions.empty
    assert profile.turning().empty
    again = flowrank.RankProfile.read(profile.save(tmp_path / "one"))
    pd.testing.assert_frame_equal(again.positions, profile.positions)
    with pytest.raises(FlowrankError, match="queries and keys that turn"):
        profile.plot_positions()
    flowrank.write_report(tmp_path / "one")
    assert "Rank in position" not in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")


def test_the_curve_adds_up_the_planes(profile):
    figure, ax = plt.subplots()
    profile.plot_positions(ax)
    for layer in range(2):
        rows = profile.positions.query(f"layer == {layer}")
        share = rows.groupby("angle")["variance"].mean().sort_index().cumsum()
        np.testing.assert_allclose(ax.lines[layer].get_xydata(), np.stack([share.index, share], 1), rtol=1e-12)
    plt.close(figure)


def test_the_report_says_what_turns_and_what_to_do(profile, tmp_path):
    profile.save(tmp_path)
    flowrank.write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rank in position" in page
    assert "a head has 4 planes" in page
    assert "attention over a group" in page
    assert "flowrank.univariate" not in page
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    rows = record["sections"]["positions"]["positions"]
    expected = profile.turning(0.01).groupby("layer")[["effective_planes", "position_rank"]].mean()
    for row in rows:
        assert row["effective_planes"] == pytest.approx(expected.loc[row["layer"], "effective_planes"])
        assert row["position_rank"] == expected.loc[row["layer"], "position_rank"]
    kinds = {row["kind"] for row in record["sections"]["ranks"]["flow_parts"]}
    assert kinds == {"self", "group", "mlp"}


def test_the_report_of_single_series_names_the_smaller_model(pipeline, tmp_path):
    series = [np.random.default_rng(seed).normal(size=90).cumsum() for seed in range(3)]
    flowrank.analyze(pipeline, series=series).save(tmp_path)
    flowrank.write_report(tmp_path)
    assert "flowrank.univariate" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_advice_counts_slow_planes(profile):
    text = str(flowrank.advise(profile))
    assert "Merge slow planes: 2 of 4 planes" in text
    assert "flowrank.univariate" not in text
