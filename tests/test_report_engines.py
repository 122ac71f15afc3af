"""Engines side by side in a report."""

from __future__ import annotations

import json

import pytest

from flowrank.errors import FlowrankError
from flowrank.report import engines, write_report
from flowrank.report.accuracy import Roles
from flowrank.report.folder import Findings
from flowrank.report.sections import sections
from tests.test_report import bench, claim, written

SECONDS = {  # model and engine: least for 1 and for 32 series
    ("hub/parent", "stock"): (0.016, 0.048),
    ("hub/parent", "exact"): (0.015, 0.024),
    ("hub/parent", "onnxruntime"): (0.004, 0.036),
    ("out/child", "stock"): (0.012, 0.024),
    ("out/child", "onnxruntime"): (0.002, None),
}


def compared(seconds=SECONDS, *, stock=True):
    """What `compare_engines` returns, for 1 and 32 series."""
    rows = []
    for place, size in enumerate((1, 32)):
        base = seconds.get(("hub/parent", "stock"), (None, None))[place] if stock else None
        for (model, engine), times in seconds.items():
            least = times[place]
            row = {"model": model, "engine": engine, "batch_size": size, "least_s": least}
            row["median_s"] = None if least is None else 2 * least
            ratio = None if least is None or base is None else least / base
            row |= {"least_over_stock": ratio, "median_over_stock": ratio}
            rows.append(row | {"why": None if least is not None else "its process ended with exit code -9"})
    workload = {"batch_sizes": [1, 32], "context_length": 512, "horizon": 64, "repeats": 31}
    return {"workload": workload, "device": {"type": "cpu", "name": "a test", "threads": 2}, "rows": rows}


def test_the_page_says_which_engine_is_the_fastest_and_shows_all(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(bench() | {"engines": compared()}))
    page, record, markdown = written(tmp_path)
    lead = engines.side_by_side({"engines": compared()}).lead
    assert lead.replace("\xa0", " ") in markdown
    assert lead.replace("\xa0", " ") == (
        "parent runs fastest by ONNX Runtime for one series (time 4 ms, 0.250× that of the stock code) and by the "
        "exact engine for 32 series at once (time 24 ms, 0.500× that of the stock code). child runs fastest by ONNX "
        "Runtime for one series (time 2 ms, 0.125× that of the stock code of parent) and by the stock code for 32 "
        "series at once (time 24 ms, 0.500× that of the stock code of parent). "
        "Each model and engine ran in a process of its own, in turns (a test, 2 threads, 512 values a series, 64 "
        "steps ahead, 31 forecasts each)."
    )
    tables = record["sections"]["engines"]
    assert [(row["model"], row["engine"]) for row in tables["engines"]] == [
        (model.split("/")[1], engines.ENGINES[engine]) for model, engine in SECONDS
    ]
    assert tables["engines"][2]["seconds_32"] == 0.036
    assert tables["engines_median"][2]["seconds_32"] == 0.072
    assert "child by ONNX Runtime: its process ended with exit code -9." in page.text
    recorded = {row["key"]: row["value"] for row in record["sections"]["provenance"]["record_engines"]}
    assert recorded["device · name"] == "a test"
    assert not any(row["key"].startswith("engines") for row in record["sections"]["provenance"]["record_benchmark"])
    assert claim(record, "latency")["value"] == 0.6


def test_bars_are_over_the_stock_code_and_have_one_scale():
    (figure,) = engines.side_by_side({"engines": compared()}).figures
    assert len(figure.panels) == 4
    assert "is the stock code of parent" in figure.caption
    lengths = [[bar.get_width() for bar in panel.axes[0].patches] for panel in figure.panels]
    assert lengths[0] == pytest.approx([1, 0.015 / 0.016, 0.25])
    assert lengths[3] == pytest.approx([0.5])
    assert len({panel.axes[0].get_xlim() for panel in figure.panels}) == 1


def test_without_stock_code_the_slowest_is_what_others_are_compared_with():
    seconds = {("a", "exact"): (0.4, 0.8), ("a", "openvino"): (0.1, 1.0)}
    section = engines.side_by_side({"engines": compared(seconds)})
    assert section.lead.replace("\xa0", " ").startswith(
        "a runs fastest by OpenVINO for one series (time 100 ms) and by the exact engine for 32 series at once (time "
        "800 ms)."
    )
    assert "is the slowest" in section.figures[0].caption
    assert [column.kind for column in section.tables[0].columns] == ["text", "text", "seconds", "seconds"]


def test_models_of_one_name_keep_their_folders():
    seconds = {("a/child", "stock"): (1.0, 1.0), ("b/child", "stock"): (1.0, 1.0)}
    rows = engines.side_by_side({"engines": compared(seconds)}).tables[0].rows
    assert [row["model"] for row in rows] == ["a/child", "b/child"]


def test_nothing_that_ran_is_a_table_of_reasons():
    section = engines.side_by_side({"engines": compared({("a", "stock"): (None, None)})})
    assert section.figures == []
    assert section.tables[0].note == "a by stock code: its process ended with exit code -9."


def test_no_engines_no_section(tmp_path):
    assert engines.side_by_side(None) is engines.side_by_side(bench()) is None
    assert engines.side_by_side({"engines": {"rows": []}}) is None
    alone = sections(Findings(bench={"engines": compared()}), Roles(None, None))
    assert [section.key for section in alone] == ["engines", "provenance"]


@pytest.mark.parametrize("found", [[], {"rows": 3}, {"rows": [{"model": "a"}]}])
def test_other_contents_are_refused(tmp_path, found):
    (tmp_path / "bench.json").write_text(json.dumps({"engines": found}))
    with pytest.raises(FlowrankError, match=r"bench\.json, engines: expected rows of model, engine"):
        write_report(tmp_path)
