"""Plots draw what the frames hold."""

from __future__ import annotations

import numpy as np
import pytest

import flowrank
from flowrank import FlowrankError

plt = pytest.importorskip("matplotlib.pyplot")


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
        assert list(line.get_ydata()) == rows[rows["quantity"] == quantity]["rank"].tolist()


def test_the_flow_runs_through_every_sublayer(profile, ax):
    profile.plot_flow(ax, epsilon=0.1)
    table = profile.flow(0.1)
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    assert [list(map(float, pair)) for pair in drawn] == table[["before", "after"]].astype(float).to_numpy().tolist()


def test_bounds_lie_above_what_they_bound(profile, ax):
    profile.plot_bound(ax, stack="decoder", kind="cross", layer=1)
    measured, bound = (np.asarray(line.get_ydata()) for line in ax.lines)
    assert (measured <= bound * (1 + 1e-6)).all()


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
