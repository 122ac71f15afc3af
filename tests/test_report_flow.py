"""The flow and theorem 4 in the report, from a profile that was really measured."""

from __future__ import annotations

import numpy as np
import pytest

import flowrank
from flowrank.figures.depth import LOWEST
from flowrank.report import flow


@pytest.fixture
def profile(pipeline):
    series = [np.random.default_rng(seed).normal(size=60).cumsum() for seed in range(4)]
    return flowrank.analyze(pipeline, series=series)


def test_every_sublayer_is_one_piece_of_the_line(profile):
    figure = flow.stream(profile.ranks)
    assert len(figure.panels) == 4  # two stacks, two ε
    tables = [part for e in (0.1, 0.01) for _, part in profile.flow(e).groupby("stack", sort=False)]
    pieces = [
        [line.get_ydata().tolist() for line in panel.axes[0].lines if len(line.get_ydata()) == 2]
        for panel in figure.panels
    ]
    assert pieces == [table[["before", "after"]].to_numpy().tolist() for table in tables]
    assert [len(one) for one in pieces] == [4, 6, 4, 6]
    assert len({line.get_color() for line in figure.panels[1].axes[0].lines}) == 4  # the kinds, and the start
    assert len(figure.legend) == 3


def test_the_table_says_what_each_step_changes(profile):
    table = flow.parts_table(profile.ranks)
    expected = profile.flow()
    assert [row["total"] for row in table.rows] == expected["total"].tolist()
    assert all(row["mixing"] is None for row in table.rows if row["kind"] == "mlp")


def test_first_and_last_layers_are_held_against_theorem_4(profile):
    figure = flow.bounds(profile.bounds)
    assert len(figure.panels) == 6
    for panel in figure.panels:
        title = panel.get_suptitle()
        kind = "cross" if "cross" in title else "self"
        rows = profile.bounds.set_index(["stack", "kind", "layer"]).sort_index()
        curve = rows.loc[(title.split(",")[0].lower(), kind, int(title[-1]))]
        measured, limit = panel.axes[0].lines
        assert measured.get_ydata().tolist() == curve.loc[curve["sigma"] >= LOWEST, "sigma"].tolist()
        assert limit.get_ydata().tolist() == curve.loc[curve["bound"] >= LOWEST, "bound"].tolist()
    assert flow.bounds(profile.bounds.head(0)) is None


def test_a_folder_written_by_analyze_has_both(profile, tmp_path):
    profile.save(tmp_path)
    flowrank.write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What moves the rank" in page
    assert "How much an attention layer may lift" in page


def test_profiles_without_sublayers_have_no_flow(profile):
    old = profile.ranks[~profile.ranks["quantity"].isin(["stream", "update"]) & (profile.ranks["kind"] != "mlp")]
    assert flow.stream(old) is None
    assert flow.parts_table(old) is None
