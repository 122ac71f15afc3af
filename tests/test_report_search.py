"""What the report says of a search and of models that were compressed as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

import flowrank
from flowrank import Budget, FlowrankError, WholeModel
from flowrank.figures import COLOURS, inline_svg
from flowrank.report import figures, write_report
from flowrank.report.folder import Findings
from flowrank.report.ranks import neurons_in
from flowrank.report.search import best_of, front_of, stage_table, tradeoff
from flowrank.search.stages import Stage, read_stages

STAGES = [
    Stage(1, 0, 0.6, 0.59, 590, -0.002, 0.001, False, True, 41.2),
    Stage(2, 1, 0.354, 0.35, 350, 0.004, 0.008, True, True, 232.0),
    Stage(3, 2, 0.21, 0.2, 200, 0.031, 0.038, True, False, 230.5),
    Stage(4, 2, 0.27, 0.265, 265, 0.41, 0.45, False, False, 30.0),
    Stage(5, 2, 0.3, 0.35, 350, None, None, False, False, 9.0),
]
TOLERANCE = {"max_loss": 0.01, "metric": "WQL", "unit": "parameters", "confidence": 0.9}
RECIPE = {
    "method": {"name": "WholeModel", "healed": True},
    "allocation": {"name": "Tolerance", **TOLERANCE},
    "search": {
        **{"steps": 300, "validation_series": 2048, "horizon": 24, "loss": 0.004, "upper": 0.008},
        "stages": [asdict(stage) for stage in STAGES],
    },
    "parent": {"name": "hub/parent"},
    "parameters": {"parent": 1000, "child": 350, "attention_parent": 400, "attention_child": 80},
}


def log(stages=STAGES) -> str:
    return "".join(json.dumps(asdict(stage)) + "\n" for stage in stages)


def written(folder) -> tuple[dict, str, str]:
    page = write_report(folder, overwrite=True)
    record = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    return record, page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


def claim(record: dict, key: str) -> dict:
    return next(c for c in record["claims"] if c["key"] == key)


@pytest.fixture
def stages(tmp_path) -> pd.DataFrame:
    (tmp_path / "search.jsonl").write_text(log())
    return Findings.read(tmp_path).search


@pytest.mark.parametrize("source", ["log", "recipe", "work folder"])
def test_a_search_is_shown_wherever_it_is_told_of(tmp_path, source):
    if source != "recipe":
        (tmp_path / "search.jsonl").write_text(log())
    if source == "work folder":
        settings = {"tolerance": TOLERANCE, "steps": 300, "validation_series": 2048, "horizon": 24}
        (tmp_path / "search.json").write_text(json.dumps(settings))
    else:
        (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    record, html, markdown = written(tmp_path)
    assert record["sections"]["search"]["stages"] == [asdict(stage) for stage in STAGES]
    found = claim(record, "search")
    assert found["value"] == 0.35
    assert found["shown"] == "35.0%"
    assert found["label"] == "of the parent's parameters at 0.40% loss"
    assert found["detail"] == "at most 0.80% with 90% confidence, WQL"
    assert "tolerance: 1%" in html
    assert "5 steps; the models of 2 of them stayed within 1% of the parent&#39;s WQL" in html
    assert "up to 2,048, 24 steps ahead" in html
    assert "| 2 | 1 | 35.4% | 35.0% | 350 | +0.40% | +0.80% | yes | yes | 232 s |" in markdown
    assert "| 5 | 2 | 30.0% | 35.0% | 350 | – | – | no | no | 9 s |" in markdown


def test_a_log_alone_says_what_it_can(tmp_path):
    (tmp_path / "search.jsonl").write_text(log())
    record, html, _ = written(tmp_path)
    assert claim(record, "search")["label"] == "of the parent's cost at 0.40% loss"
    assert claim(record, "search")["detail"] == "best estimate"
    assert "tolerance: 1%" not in html
    assert list(record["sections"]) == ["search"]


def test_another_unit_is_named_and_parameters_have_a_claim_of_their_own(tmp_path):
    allocation = RECIPE["allocation"] | {"unit": "latency", "confidence": 0.5}
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE | {"allocation": allocation}))
    record, html, _ = written(tmp_path)
    assert record["title"] == "parent, lowest latency within 1% of its WQL, healed"
    assert claim(record, "search")["label"] == "of the parent's latency at 0.40% loss"
    assert claim(record, "search")["detail"] == "best estimate, WQL"
    assert claim(record, "parameters_kept")["shown"] == "35.0%"
    assert ">latency over the parent&#x27;s<" in html


def test_a_search_in_which_nothing_held_claims_nothing(tmp_path):
    (tmp_path / "search.jsonl").write_text(log(STAGES[2:]))
    record, html, _ = written(tmp_path)
    assert record["claims"] == []
    assert "3 steps; the models of 0 of them" in html


@pytest.mark.parametrize("tail", ['{"number": 6, "sta', "\0\0\0", "\n\n"])
def test_a_line_that_was_cut_off_does_not_count(tmp_path, tail):
    (tmp_path / "search.jsonl").write_text(log() + tail)
    shown = Findings.read(tmp_path).search
    assert shown["number"].tolist() == [stage.number for stage in read_stages(tmp_path / "search.jsonl")]
    (tmp_path / "search.jsonl").write_text('{"number": 1, "sta')
    assert Findings.read(tmp_path).search is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hello\n", r"search\.jsonl: expected a readable jsonl file"),
        ("hello\n" + log(), r"search\.jsonl: expected a readable jsonl file"),
        (log()[:-40] + "\n" + log(), r"search\.jsonl: expected a readable jsonl file"),
        ("[1, 2]\n", r"search\.jsonl: .*not one JSON object a stage"),
        ('{"step": 3, "loss": 0.1}\n', r"search\.jsonl: expected columns number, .* found none called number"),
        (log().replace("0.6,", '"much",'), r"search\.jsonl, column 'ratio': expected numbers"),
        (log().replace('"held": true', '"held": 7'), r"search\.jsonl: .*'held' is neither true nor false"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, content, words):
    (tmp_path / "search.jsonl").write_text(content)
    with pytest.raises(FlowrankError, match=words):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["search.jsonl"]


@pytest.mark.parametrize("search", [3, {}, {"stages": 3}, {"stages": [3]}, {"stages": [{"number": 1}]}])
def test_a_recipe_with_a_broken_search_is_refused(tmp_path, search):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE | {"search": search}))
    with pytest.raises(FlowrankError, match=r"recipe\.json, search"):
        write_report(tmp_path)


def test_front_and_best_of_a_search(stages):
    assert front_of(stages) == [(0.2, 0.031), (0.35, 0.004), (0.59, -0.002)]  # the parent is beaten by the first
    assert front_of(stages[stages["number"] > 1])[-1] == (1.0, 0.0)
    assert best_of(stages)["number"] == 2
    assert best_of(stages[~stages["held"]]) is None
    assert stage_table(stages).rows[3]["upper"] == 0.45


def test_figure_of_a_search(stages):
    figure = tradeoff(stages, TOLERANCE)
    loss, course = figure.panels
    expected = [(0.59, -0.2), (0.35, 0.4), (0.2, 3.0), (0.265, 3.0)]  # stage 5 made no model
    np.testing.assert_allclose(points(loss), expected)
    assert points(course) == [(1, 0.59), (2, 0.35), (3, 0.2), (4, 0.265), (5, 0.3)]
    notes = [text.get_text() for text in loss.axes[0].texts]
    assert notes == ["tolerance: 1%", "↑ 3.1%", "↑ 41%"]  # above the chart, so that they do not squeeze the others
    assert [entry.label for entry in figure.legend] == [
        "the parent",
        "stayed within the tolerance",
        "the same, thanks to healing",
        "lost too much",
        "lost too much in spite of healing",
        "front: nothing else is both cheaper and better",
    ]
    assert len(tradeoff(stages[:1], TOLERANCE).legend) == 3
    marks = [line for line in loss.axes[0].lines if line.get_marker() == "o"]
    blue, red = COLOURS["blue"], COLOURS["vermillion"]
    assert [line.get_color() for line in marks] == [blue, red, red, blue]
    assert [line.get_markerfacecolor() for line in marks] == [blue, red, COLOURS["paper"], COLOURS["paper"]]
    assert [line.get_marker() for line in course.axes[0].lines][-1] == "x"
    whiskers = [area.get_segments()[0].tolist() for area in loss.axes[0].collections]
    assert whiskers[0] == [[0.59, pytest.approx(-0.2)], [0.59, pytest.approx(0.1)]]
    assert loss.axes[0].get_xscale() == "log"
    assert "0.5" in [label.get_text() for label in loss.axes[0].get_xticklabels()]
    front = next(line for line in loss.axes[0].lines if line.get_label() == "front")
    np.testing.assert_allclose(front.get_xydata(), [[0.35, 0.4], [0.59, -0.2]])
    best = next(line for line in course.axes[0].lines if line.get_label() == "cheapest that held")
    assert best.get_ydata()[-1] == 0.35


def points(panel) -> list[tuple[float, float]]:
    """Places of the marks of steps."""
    marks = [line for line in panel.axes[0].lines if line.get_marker() in ("o", "x")]
    return [tuple(map(float, line.get_xydata()[0])) for line in marks]


@pytest.mark.parametrize("tolerance", [TOLERANCE, {}, TOLERANCE | {"max_loss": 0}])
def test_odd_searches_are_drawn(stages, tolerance):
    for rows in (stages[:1], stages[2:], stages[4:], stages[stages["held"]]):
        assert len(tradeoff(rows, tolerance).panels) == 2
        assert "nan" not in "".join(inline_svg(panel) for panel in tradeoff(rows, tolerance).panels)


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        (RECIPE, "parent, fewest parameters within 1% of its WQL, healed"),
        (
            RECIPE | {"method": {"name": "WholeModel", "rounds": 2}, "allocation": {"name": "Budget", "unit": "cache"}},
            "parent, compressed by WholeModel + Budget of key/value cache",
        ),
        (
            {"method": {"name": "JointHeads"}, "allocation": {"name": "Budget"}, "healing": {"steps": 9}},
            "A model, compressed by JointHeads + Budget, healed",
        ),
    ],
)
def test_titles(tmp_path, recipe, title):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert written(tmp_path)[0]["title"] == title


def test_the_record_of_the_compression_leaves_the_stages_to_their_table(tmp_path):
    healing = {"steps": 40, "options": {"batch": 64}, "loss_before": 0.5}
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE | {"healing": healing}))
    rows = {row["key"]: row["value"] for row in written(tmp_path)[0]["sections"]["provenance"]["record_recipe"]}
    assert rows["search · validation_series"] == "2048"
    assert rows["allocation · max_loss"] == "0.01"
    assert rows["healing · options · batch"] == "64"
    assert not [key for key in rows if "stages" in key]


def test_neurons_are_shown_beside_attention_and_not_counted_with_it(tmp_path, bolt_folder):
    child = flowrank.compress(flowrank.load(bolt_folder), WholeModel(Budget(0.5), rounds=1), calibration_series=9)
    table = flowrank.rank_table(child)
    table.to_parquet(tmp_path / "ranks.parquet")
    (tmp_path / "recipe.json").write_text(json.dumps(child.recipe))
    record, html, _ = written(tmp_path)
    counts = child.recipe["parameters"]
    assert claim(record, "attention_parameters_kept")["value"] == counts["attention_child"] / counts["attention_parent"]
    assert claim(record, "parameters_kept")["value"] == counts["child"] / counts["parent"]
    tables = record["sections"]["ranks"]
    assert tables["kept_by_site"][-1]["cost"] == counts["attention_child"]
    assert not [row for row in tables["kept_by_site"] if "MLP" in row["site"] or "Block" in row["site"]]
    neurons = table.query("part == 'neurons'")
    assert tables["kept_neurons_by_site"][-1]["cost"] == neurons["cost"].sum()
    sites = [row["site"] for row in tables["kept_neurons_by_site"]]
    assert sites == ["Encoder, MLP", "Decoder, MLP", *(f"Block that {x}" for x in _BLOCKS), "All of these"]
    layers = [row for row in tables["kept_by_layer"] if row["part"] == "neurons"]
    assert sum(row["kept"] for row in layers) == neurons["kept"].sum()
    assert "Hidden neurons before and after" in html
    figure = figures.kept_neurons(neurons_in(table))
    labels = [[label.get_text() for label in panel.axes[0].get_yticklabels()] for panel in figure.panels]
    assert labels == [["patch block", "layer 0", "layer 1"], ["layer 0", "layer 1", "patch block"]]
    for panel, (_, part) in zip(figure.panels, neurons_in(table).groupby("stack", sort=False), strict=True):
        widths = [bar.get_width() for bar in panel.axes[0].patches]
        assert widths == [*part["full"], *part["kept"]]


_BLOCKS = ("embeds patches", "reads forecasts off")


def test_untouched_neurons_are_left_out(tmp_path, bolt_folder):
    child = flowrank.compress(flowrank.load(bolt_folder), flowrank.WeightSVD(flowrank.Uniform(0.5)))
    flowrank.rank_table(child).to_parquet(tmp_path / "ranks.parquet")
    record, html, _ = written(tmp_path)
    assert "kept_neurons_by_site" not in record["sections"]["ranks"]
    assert "neurons" not in html
