"""Plots draw what the frames hold."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

import flowrank
from flowrank import FlowrankError
from flowrank.figures.depth import LOWEST


@pytest.fixture
def profile(pipeline):
    series = [np.random.default_rng(seed).normal(size=60).cumsum() for seed in range(4)]
    return flowrank.analyze(pipeline, series=series)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_lines_are_the_values(profile, ax):
    assert profile.plot_ranks(ax, quantities=("input", "keys"), epsilon=0.1) is ax
    rows = profile.ranks.query("stack == 'encoder' and kind == 'self' and head == -1 and epsilon == 0.1")
    for line, quantity in zip(ax.lines, ("input", "keys"), strict=True):
        expected = rows[rows["quantity"] == quantity]
        assert list(line.get_ydata()) == expected["rank"].tolist()
        assert list(line.get_xdata()) == expected["layer"].tolist()


def test_the_flow_runs_through_every_sublayer(profile, ax):
    profile.plot_flow(ax, epsilon=0.1)
    table = profile.flow(0.1)
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    assert [list(map(float, pair)) for pair in drawn] == table[["before", "after"]].astype(float).to_numpy().tolist()


def test_bounds_lie_above_what_they_bound(profile, ax):
    profile.plot_bound(ax, stack="decoder", kind="cross", layer=1)
    measured, bound = (dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in ax.lines)
    assert len(measured) > 1
    assert all(value <= bound[k] * (1 + 1e-6) for k, value in measured.items())
    rows = profile.bounds.query("stack == 'decoder' and kind == 'cross' and layer == 1")
    for drawn, column in ((measured, "sigma"), (bound, "bound")):
        assert drawn == {k: value for k, value in zip(rows["k"], rows[column], strict=True) if value >= LOWEST}


def test_spectra_are_the_singular_values(profile, ax):
    profile.plot_spectra(ax, quantity="keys", stack="decoder")
    rows = profile.spectra.query("quantity == 'keys' and stack == 'decoder' and head == -1")
    expected = {
        (kind, layer): curve.loc[curve["sigma"] >= LOWEST, ["j", "sigma"]].to_numpy()
        for (kind, layer), curve in rows.groupby(["kind", "layer"])
    }
    assert len(ax.lines) == len(expected) == 4
    for line, (kind, layer) in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), expected[kind, layer], rtol=1e-12)
        assert line.is_dashed() == (kind == "cross")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"layer 0", "layer 1"}


def test_weights_are_counted_above_noise(profile, ax):
    profile.plot_weights(ax)
    rows = profile.ranks.query("stack == 'encoder' and kind == 'self' and head == -1 and epsilon == 0.01")
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert drawn[name] == rows[rows["quantity"] == name].sort_values("layer")["signal"].tolist()


def test_all_have_labels(profile, ax):
    for plot in (profile.plot_flow, profile.plot_ranks, profile.plot_bound, profile.plot_weights, profile.plot_spectra):
        ax.clear()
        plot(ax)
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    own = profile.plot_spectra(quantity="keys")
    assert own is not ax
    plt.close(own.figure)


def test_what_was_not_measured_is_refused(profile, ax):
    with pytest.raises(FlowrankError, match=r"epsilon: expected one of 0\.01, 0\.1"):
        profile.plot_flow(ax, epsilon=0.5)
    with pytest.raises(FlowrankError, match=r"quantity: expected one of .*residual"):
        profile.plot_spectra(ax, quantity="nothing")
    with pytest.raises(FlowrankError, match=r"layer: expected one of .*encoder self 1"):
        profile.plot_bound(ax, layer=7)
    with pytest.raises(FlowrankError, match="measure: expected one of"):
        profile.flow(0.1, "size")
