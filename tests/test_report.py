"""The report: numbers against values worked out by hand, and a page that is safe to open anywhere."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from flowrank.errors import FlowrankError
from flowrank.figures.depth import LOWEST
from flowrank.report import figures, outcomes, ranks, write_report
from flowrank.report.accuracy import Roles, roles
from flowrank.report.claims import claims
from flowrank.report.folder import FILES, Findings

KEYS = ["stack", "kind", "layer", "depth"]


def rank_profile(head: int = -1) -> pd.DataFrame:
    rows = []
    for stack, kind, layer, depth, quantity, rank in [
        ("encoder", "embedding", 0, 0, "embedding", 3),
        ("encoder", "self", 0, 0, "input", 4),
        ("encoder", "self", 1, 1, "input", 6),
        ("encoder", "self", 0, 0, "W_Q", 9),
        ("encoder", "residual", 0, 0, "residual", 5),
        ("decoder", "self", 0, 2, "input", 7),
        ("decoder", "cross", 0, 2, "input", 8),
    ]:
        rows += [
            (stack, kind, layer, depth, quantity, head, 16, e, r, 2.5, 1.5) for e, r in ((0.1, rank), (0.01, 2 * rank))
        ]
    columns = [*KEYS, "quantity", "head", "dim", "epsilon", "rank", "effective_rank", "stable_rank"]
    return pd.DataFrame(rows, columns=columns)


def spectra() -> pd.DataFrame:
    rows = []
    for stack, kind, depth, quantity in [
        ("encoder", "embedding", 0, "embedding"),
        ("encoder", "self", 0, "input"),
        ("encoder", "self", 1, "W_Q"),
        ("decoder", "cross", 2, "W_Q"),
    ]:
        rows += [(stack, kind, 0, depth, quantity, -1, j, math.exp(1 - j)) for j in range(1, 17)]
    return pd.DataFrame(rows, columns=[*KEYS, "quantity", "head", "j", "sigma"])


def bounds() -> pd.DataFrame:
    rows = [("encoder", "self", 0, 0, k, math.exp(1 - k), math.exp((1 - k) / 2)) for k in range(1, 17)]
    return pd.DataFrame(rows, columns=[*KEYS, "k", "sigma", "bound"])


def positions() -> pd.DataFrame:
    rows = [
        ("encoder", "self", 0, 0, 0, plane, 11, 10.0**-plane, 10.0 ** (1 - plane), 0.25, 0.25) for plane in range(4)
    ]
    return pd.DataFrame(rows, columns=[*KEYS, "head", "plane", "tokens", "frequency", "angle", "energy", "variance"])


def kept() -> pd.DataFrame:
    rows = [
        ("encoder", "self", 0, 0, "QK", 0, 8, 2, 64, 256),
        ("encoder", "self", 0, 0, "QK", 1, 8, 4, 128, 256),
        ("encoder", "self", 1, 1, "QK", 0, 8, 8, 256, 256),
        ("encoder", "self", 1, 1, "QK", 1, 8, 6, 192, 256),
    ]
    return pd.DataFrame(rows, columns=[*KEYS, "part", "head", "full", "kept", "cost", "full_cost"])


SCORES = """dataset,model,MASE,WQL
a,seasonal-naive,2.0,0.4
b,seasonal-naive,1.0,0.1
a,hub/parent,1.0,0.2
b,hub/parent,1.0,0.1
a,out/child,1.1,0.4
b,out/child,1.1,0.1
"""

RECIPE = {
    "method": {"name": "JointHeads"},
    "allocation": {"name": "Budget", "ratio": 0.25},
    "seed": 7,
    "calibration": {"series": 64},
    "parent": {"name": "hub/parent", "sha256": "ab" * 32},
    "parameters": {"parent": 4000, "child": 3250, "attention_parent": 1000, "attention_child": 250},
    "versions": {"flowrank": "0.1.0"},
}


def bench() -> dict:
    def model(name: str, scale: float) -> dict:
        return {
            "name": name,
            "parameters": 1000 * scale,
            "attention_parameters": 400 * scale,
            "weight_bytes": 4_000_000 * scale,
            "cache_bytes": {"self": 1000 * scale, "cross": 9000 * scale},
            "peak_bytes": None,
            "latency_s": {"min": 0.1, "median": 2.0 * scale, "max": 3.0, "all": [0.1]},
        }

    ratio = {
        "parameters": 0.5,
        "attention_parameters": 0.5,
        "weight_bytes": 0.5,
        "cache_bytes": 0.5,
        "peak_bytes": None,
        "latency": {"min": 0.4, "median": 0.6, "max": 1.3},
    }
    return {
        "workload": {"batch_size": 2, "num_samples": None},
        "device": {"name": "a test", "threads": 1},
        "versions": {"torch": "x"},
        "models": {"parent": model("hub/parent", 1.0), "child": model("out/child", 0.5)},
        "ratio": ratio,
    }


FEV = """task,model,metric,error
a,hub/parent,SQL,2.0
b,hub/parent,MASE,1.0
a,out/child,SQL,2.4
b,out/child,MASE,1.2
"""

PROOF = {
    "command": "flowrank prove hub/parent",
    "result": {
        "parameters_kept": 0.8125,
        "WQL": 1.25,
        "MASE": 1.1,
        "datasets": 2,
        "latency": {"min": 0.4, "median": 0.6, "max": 1.3},
        "tolerance": {"max_loss": 0.01, "metric": "WQL", "held_on_benchmark": False},
    },
    "model": {"name": "hub/parent", "revision": "c0ffee", "sha256": "ab" * 32},
    "data": {"a": {"repo": "hub/data", "config": "a", "revision": "beef", "files": {"a.parquet": "cd" * 32}}},
    "fev": {},
}


def forecasts(item: str = "series", model: str | None = None) -> pd.DataFrame:
    stamps = pd.date_range("2024-01-05", periods=3, freq="D")
    frame = pd.DataFrame({"item_id": item, "timestamp": stamps, "predictions": [1.0, 2.0, 3.0]})
    for level, shift in {"0.1": -1.0, "0.5": 0.0, "0.9": 1.0}.items():
        frame[level] = frame["predictions"] + shift
    return frame if model is None else frame.assign(model=model)


def history(item: str = "series") -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=7, freq="D")
    return pd.DataFrame({"item_id": item, "timestamp": stamps, "target": [0, 1, 2, np.nan, 1, 2, 3.0]})


@pytest.fixture
def folder(tmp_path):
    rank_profile().to_parquet(tmp_path / "rank_profile.parquet")
    spectra().to_parquet(tmp_path / "spectra.parquet")
    bounds().to_parquet(tmp_path / "bounds.parquet")
    positions().to_parquet(tmp_path / "positions.parquet")
    kept().to_parquet(tmp_path / "ranks.parquet")
    (tmp_path / "scores.csv").write_text(SCORES)
    (tmp_path / "fev.csv").write_text(FEV)
    (tmp_path / "proof.json").write_text(json.dumps(PROOF))
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "bench.json").write_text(json.dumps(bench()))
    stage = {"number": 1, "start": 0, "ratio": 0.6, "cost": 0.59, "parameters": 2400, "loss": 0.001, "upper": 0.004}
    stage |= {"healed": False, "held": True, "seconds": 3.5}
    (tmp_path / "search.jsonl").write_text(json.dumps(stage) + "\n")
    (tmp_path / "search.json").write_text(json.dumps({"tolerance": {"max_loss": 0.01, "metric": "WQL"}}))
    analysis = {
        "model": {
            "name": "hub/parent",
            "class": "A",
            "d_model": 16,
            "heads": 2,
            "layers": [2, 1],
            "parameters": 4000,
        },
        "device": "cpu",
    }
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    forecasts().to_parquet(tmp_path / "forecasts.parquet")
    history().to_parquet(tmp_path / "history.parquet")
    return tmp_path


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def written(folder) -> tuple[Page, dict, str]:
    page = write_report(folder)
    record = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    html = page.read_text(encoding="utf-8")
    return Page(html), record, page.with_suffix(".md").read_text(encoding="utf-8")


def claim(record: dict, key: str) -> dict:
    return next(c for c in record["claims"] if c["key"] == key)


def test_claims_are_the_measured_numbers(folder):
    page, record, markdown = written(folder)
    assert claim(record, "attention_parameters_kept")["value"] == 0.25
    assert claim(record, "WQL_parent")["value"] == pytest.approx(math.sqrt(2))  # 0.4/0.2 and 0.1/0.1
    assert claim(record, "WQL_naive")["value"] == pytest.approx(1.0)
    assert claim(record, "latency")["value"] == 0.6
    assert claim(record, "cache_bytes")["value"] == 0.5
    assert claim(record, "cache_bytes")["detail"] == "10.0\xa0kB → 5.00\xa0kB"
    for text in (page.text, markdown):
        assert "25.0%" in text
        assert "1.414×" in text
        assert "0.40 to 1.30 over paired runs" in text
        assert "parent, compressed by JointHeads + Budget" in text
        assert "2 + 1 layers" in text


def test_relative_scores(folder):
    page, record, markdown = written(folder)
    rows = {row["model"]: row for row in record["sections"]["accuracy"]["relative"]}
    assert rows["out/child"]["MASE_parent"] == pytest.approx(1.1)
    assert rows["out/child"]["MASE_naive"] == pytest.approx(math.sqrt(1.1 / 2 * 1.1))
    assert rows["hub/parent"]["WQL_naive"] == pytest.approx(math.sqrt(0.5))
    assert rows["seasonal-naive"]["WQL_parent"] is None
    assert "| out/child | 2 | 1.000× | 0.778× | 1.414× | 1.100× |" in markdown
    assert "(compressed)" in page.text


def test_ranks_tables(folder):
    _, record, markdown = written(folder)
    tables = record["sections"]["ranks"]
    encoder = tables["kept_by_site"][0]
    assert encoder == {
        "site": "Encoder",
        "full_cost": 1024.0,
        "cost": 640.0,
        "share": 0.625,
        "first": 0.375,
        "last": 0.875,
    }
    first = tables["kept_by_layer"][0]
    assert (first["kept"], first["kept_min"], first["kept_max"], first["heads"]) == (3.0, 2.0, 4.0, 2)
    flow = {(row["site"], row["quantity"], row["epsilon"]): row for row in tables["flow"]}
    inputs = flow["Encoder", "layer input", 0.1]
    assert (inputs["first"], inputs["last"], inputs["growth"], inputs["dim"]) == (4, 6, 1.5, 16)
    assert flow["Encoder", "embedded tokens", 0.01]["first"] == 6
    assert flow["Decoder, cross-attention", "layer input", 0.1]["last"] is None
    assert tables["layers_0.1"][0] == {
        "site": "Encoder",
        "layer": 0,
        "depth": 0,
        "embedding": 3.0,
        "input": 4.0,
        "W_Q": 9.0,
        "residual": 5.0,
    }
    assert "| Encoder | layer input | 0.1 | 4 | 6 | 1.500× | 16 | 2.5 | 2.5 |" in markdown


def test_cost_table_keeps_weights_cache_and_memory_apart(folder):
    _, record, markdown = written(folder)
    rows = {row["what"]: row for row in record["sections"]["cost"]["cost"]}
    assert rows["Weights"]["child"] == 2_000_000
    assert rows["Key/value cache, self-attention"]["ratio"] == 0.5
    assert rows["Key/value cache, cross-attention"]["parent"] == 9000
    assert rows["Latency, median"]["ratio"] == 0.6
    assert "Peak memory above the loaded model" not in rows  # not measured
    assert "| Weights | 0.500× | 4.00 MB | 2.00 MB |" in markdown
    assert "| Latency, fastest | 0.400× | 100 ms | 100 ms |" in markdown


def test_settings_versions_seed_and_device_are_on_the_page(folder):
    page, record, _ = written(folder)
    recorded = {row["key"]: row["value"] for row in record["sections"]["provenance"]["record_recipe"]}
    assert recorded["seed"] == "7"
    assert recorded["parent · sha256"] == "ab" * 32
    assert recorded["allocation · ratio"] == "0.25"
    for text in ("ab" * 32, "device · name", "a test", "cpu"):
        assert text in page.text


def test_page_loads_nothing_and_runs_nothing(folder):
    page, _, _ = written(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|url\(|@import", html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert links
    assert all(value.startswith("#") for value in links)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "default-src 'none'" in html
    assert len(html) < 2_000_000


def test_every_figure_is_described(folder):
    page, _, _ = written(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert page.tags.count("figcaption") == page.tags.count("figure") >= 8
    panels = re.findall(r'<svg [^>]*role="img"[^>]*>(<title>[^<]+</title><desc>[^<]+</desc>)', html)
    assert len(panels) == len(re.findall(r'<svg [^>]*role="img"', html)) == 19


def test_names_in_the_figures_are_the_page_s_own(folder):
    page, _, _ = written(folder)
    names = [value for name, value in page.attributes if name == "id"]
    links = {value for name, value in page.attributes if name == "href"}
    assert len(names) == len(set(names))
    assert {link.removeprefix("#") for link in links} <= set(names)


def test_user_text_is_escaped(folder):
    evil = '<script>alert(1)</script> & | "x"'
    forecasts(evil).to_parquet(folder / "forecasts.parquet")
    history(evil).to_parquet(folder / "history.parquet")
    frame = pd.read_csv(folder / "scores.csv").replace({"a": evil, "out/child": evil})
    frame.to_csv(folder / "scores.csv", index=False)
    recipe = RECIPE | {"method": {"name": evil}, "note": evil}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    page, record, markdown = written(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "script" not in page.tags
    assert "<script" not in html + markdown
    assert evil in page.text  # shown as it is
    assert record["sections"]["accuracy"]["datasets"][0]["dataset"] == evil
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    header = next(line for line in lines if line.startswith("| dataset"))
    row = lines[lines.index(header) + 2]
    assert "alert" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", header)) == 8


def test_output_is_the_same_every_time(folder, tmp_path):
    first = write_report(folder, output=tmp_path / "one.html")
    second = write_report(folder, output=tmp_path / "two.html")
    for suffix in (".html", ".json", ".md"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


def test_existing_reports_are_kept_unless_asked(folder):
    (folder / "report.md").write_text("mine")
    with pytest.raises(FlowrankError, match=r"report\.md', which exists"):
        write_report(folder)
    assert (folder / "report.md").read_text() == "mine"
    assert not (folder / "report.html").exists()
    write_report(folder, overwrite=True)
    assert "mine" not in (folder / "report.md").read_text()


def test_output_must_be_a_page(folder):
    with pytest.raises(FlowrankError, match=r"output: expected a file name that ends in \.html, found"):
        write_report(folder, output=folder / "report.pdf")


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_optional_and_enough(folder, tmp_path, name):
    alone = tmp_path / "alone"
    alone.mkdir()
    (folder / name).rename(alone / name)
    write_report(folder)
    write_report(alone)


def test_a_proof_says_its_result_and_what_identifies_it(folder):
    page, record, _ = written(folder)
    lead = next(line for line in page.text.splitlines() if "model keeps" in line)
    for words in ("81.2%", "2 datasets", "1.250×", "1.100×", "0.600×", "1% of WQL", "it is not met"):
        assert words in lead
    named = {row["key"]: row["value"] for row in record["sections"]["proof"]["proof"]}
    assert (named["model · revision"], named["command"]) == ("c0ffee", "flowrank prove hub/parent")
    data = {"dataset": "a", "repo": "hub/data", "revision": "beef", "file": "a.parquet", "sha256": "cd" * 32}
    assert record["sections"]["proof"]["proof_data"] == [data]
    assert [row["ratio"] for row in record["sections"]["fev"]["fev"]] == pytest.approx([1.2, 1.2])
    assert "1.200× of the original's" in page.text


def test_history_alone_has_nothing_to_show_but_is_read(tmp_path):
    history().to_parquet(tmp_path / "history.parquet")
    assert written(tmp_path)[1] == {"title": "flowrank report", "claims": [], "sections": {}}


def test_folders_without_results_say_what_is_looked_for(tmp_path):
    with pytest.raises(FlowrankError, match=r"folder: expected one or more of rank_profile\.parquet, .*bench\.json"):
        write_report(tmp_path)
    with pytest.raises(FlowrankError, match="which does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowrankError, match="which is a file"):
        write_report(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.csv", "dataset,model,MASE\na,b,1\n", "found none called WQL"),
        ("scores.csv", "dataset,model,MASE,WQL\na,b,1,x\n", "column 'WQL': expected numbers"),
        ("scores.csv", "", r"scores\.csv: expected a readable csv file"),
        ("scores.csv", SCORES + "a,out/child,1,1\n", "several for 'a' and 'out/child'"),
        ("bench.json", "[1]", r"bench\.json: expected a JSON object, found a list"),
        ("bench.json", "{", r"bench\.json: expected a readable json file"),
        ("ranks.parquet", "not parquet", r"ranks\.parquet: expected a readable parquet file"),
    ],
)
def test_broken_files_are_named(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(FlowrankError, match=message):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_table_without_rows_counts_as_absent(folder):
    (folder / "scores.csv").write_text("dataset,model,MASE,WQL\n")
    scores = pd.read_csv(folder / "scores.csv").astype({"MASE": float, "WQL": float})
    scores.to_csv(folder / "scores.csv", index=False)
    with pytest.raises(FlowrankError, match="expected numbers"):
        Findings.read(folder)
    forecasts().iloc[:0].to_parquet(folder / "forecasts.parquet")
    (folder / "scores.csv").write_text(SCORES)
    assert Findings.read(folder).forecasts is None


def test_json_has_null_where_a_score_is_missing(folder):
    (folder / "scores.csv").write_text(SCORES + "c,seasonal-naive,,inf\nc,out/child,1,0\n")
    _, record, _ = written(folder)
    row = record["sections"]["accuracy"]["datasets"][2]
    assert row["WQL seasonal-naive"] is None
    assert row["MASE seasonal-naive"] is None
    assert claim(record, "WQL_parent")["value"] == pytest.approx(math.sqrt(2))  # the third dataset does not count


def test_roles_by_name_and_by_elimination():
    def scores(*models: str) -> pd.DataFrame:
        return pd.DataFrame({"dataset": "a", "model": ["seasonal-naive", *models], "MASE": 1.0, "WQL": 1.0})

    recipe = {"parent": {"name": "/models/base"}}
    assert roles(Findings(scores=scores("base", "x"), recipe=recipe)) == Roles("base", "x")
    assert roles(Findings(scores=scores("base", "x", "y"), recipe=recipe)) == Roles("base", None)
    assert roles(Findings(scores=scores("base", "x", "y"), bench=bench())) == Roles(None, None)
    assert roles(Findings(scores=scores("parent", "x", "child"), bench=bench())) == Roles("parent", "child")
    assert roles(Findings()) == Roles(None, None)
    one = claims(Findings(scores=scores("only")), Roles(None, None))
    assert [c.key for c in one] == ["WQL_naive"]
    assert claims(Findings(scores=scores("one", "two")), Roles(None, None)) == []


def test_attention_kept_falls_back_to_the_benchmark_and_the_ranks():
    assert claims(Findings(bench=bench()), Roles(None, None))[0].value == 0.5
    assert claims(Findings(ranks=kept()), Roles(None, None))[0].value == 0.625


def test_an_uncompressed_model_has_no_before_and_after(tmp_path):
    kept().assign(kept=8, cost=256).to_parquet(tmp_path / "ranks.parquet")
    rank_profile().to_parquet(tmp_path / "rank_profile.parquet")
    _, record, markdown = written(tmp_path)
    assert "kept_by_site" not in record["sections"]["ranks"]
    assert "parameters kept" not in markdown
    (tmp_path / "recipe.json").write_text(json.dumps({"method": {"name": "JointHeads"}}))
    write_report(tmp_path, overwrite=True)
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert claim(record, "attention_parameters_kept")["value"] == 1.0


def test_claims_of_an_analysis_alone():
    found = {c.key: c for c in claims(Findings(rank_profile=rank_profile()), Roles(None, None))}
    assert found["embedding_rank"].shown == "3"
    assert found["flow_encoder"].shown == "4 → 6"


def test_ranks_of_single_heads_are_summarised_by_their_median():
    frame = pd.concat([rank_profile(head).assign(rank=lambda f, k=head: f["rank"] + k) for head in (0, 1, 5)])
    inputs = ranks.profile(frame).query("quantity == 'input' and epsilon == 0.1 and depth == 1")
    assert inputs["rank"].tolist() == [7.0]
    together = pd.concat([frame, rank_profile(-1)])
    inputs = ranks.profile(together).query("quantity == 'input' and epsilon == 0.1 and depth == 1")
    assert inputs["rank"].tolist() == [6.0]


def test_several_models_share_a_panel_and_only_six_series_are_drawn():
    many = pd.concat([forecasts(f"s{i}", model) for i in range(8) for model in ("parent", "child")])
    figure = outcomes.forecast_fans(many, None)
    assert len(figure.panels) == 6
    assert [entry.label for entry in figure.legend][1:3] == ["median, parent", "median, child"]
    assert "3 steps" in figure.panels[0].get_label()
    parent, child = [line for line in figure.panels[0].axes[0].lines if line.get_label() in ("parent", "child")]
    for line in (parent, child):
        assert line.get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert len(figure.panels[0].axes[0].collections) == 2  # the widest band of each


def bands(panel) -> list[tuple[float, float]]:
    """Least and largest value of each shaded area, in the order of drawing."""
    ends = [area.get_paths()[0].get_extents() for area in panel.axes[0].collections]
    return [(float(end.y0), float(end.y1)) for end in ends]


def test_a_fan_is_the_forecast_and_the_history(folder):
    (panel,) = outcomes.forecast_fans(forecasts(), history()).panels
    curves = {line.get_label(): line for line in panel.axes[0].lines}
    assert curves["forecast"].get_ydata().tolist() == forecasts()["0.5"].tolist()
    assert curves["what happened"].get_ydata().tolist() == [1.0, 2.0, 3.0]
    past = [line for line in panel.axes[0].lines if len(line.get_ydata()) == 4]
    assert [str(value) for value in past[0].get_ydata()] == ["0.0", "1.0", "2.0", "nan"]
    assert bands(panel) == [(0.0, 4.0)]
    day = 86400
    assert np.diff(curves["forecast"].get_xdata()).tolist() == [day, day]


def test_forecasts_without_quantiles_and_with_numbers_as_time():
    frame = forecasts().drop(columns=["0.1", "0.5", "0.9"]).assign(timestamp=[5, 6, 7])
    past = history().assign(timestamp=range(7))
    figure = outcomes.forecast_fans(frame, past)
    assert "quantiles" not in [entry.label for entry in figure.legend]
    (axes,) = figure.panels[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "7"
    assert axes.get_xlim() == (0, 7)
    assert not axes.collections


def test_one_forecast_step_and_unreadable_time():
    assert "1 steps" in outcomes.forecast_fans(forecasts().iloc[:1], None).panels[0].get_label()
    with pytest.raises(FlowrankError, match="expected dates or numbers"):
        outcomes.forecast_fans(forecasts().assign(timestamp="noon"), None)


def test_dots_need_seasonal_naive_and_bars_a_ratio():
    scores = pd.DataFrame({"dataset": ["a"], "model": ["m"], "MASE": [1.0], "WQL": [1.0]})
    assert outcomes.accuracy_dots(scores, Roles(None, None)) is None
    assert outcomes.cost_bars([{"what": "x", "short": "x", "ratio": None}]) is None


def test_dots_are_the_ratios(folder):
    scores = pd.read_csv(folder / "scores.csv")
    figure = outcomes.accuracy_dots(scores, Roles("hub/parent", "out/child"))
    wql, mase = (panel.axes[0] for panel in figure.panels)
    drawn = {line.get_label(): list(line.get_xdata()) for line in wql.lines}
    assert drawn["out/child"] == pytest.approx([1.0, 1.0])
    assert drawn["hub/parent"] == pytest.approx([0.5, 1.0])
    drawn = {line.get_label(): list(line.get_xdata()) for line in mase.lines}
    assert drawn["out/child"] == pytest.approx([0.55, 1.1])
    assert [label.get_text() for label in wql.get_yticklabels()] == ["a", "b"]
    spread = [segment[:, 0].tolist() for segment in mase.collections[0].get_segments()]
    assert spread == [pytest.approx([0.5, 0.55]), pytest.approx([1.0, 1.1])]
    assert [entry.label for entry in figure.legend] == ["out/child (compressed)", "hub/parent (parent)"]


def test_bars_are_the_costs():
    rows = [{"what": "A", "short": "a", "ratio": 0.25}, {"what": "B", "short": "b", "ratio": 1.3}]
    (axes,) = outcomes.cost_bars([*rows, {"what": "C", "short": "c", "ratio": None}]).panels[0].axes
    assert [bar.get_width() for bar in axes.patches] == [0.25, 1.3]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["0.25", "1.30"]


def test_spectra_are_the_singular_values():
    signal, weights = figures.spectra(spectra())
    (inputs,) = signal.panels
    assert inputs.get_suptitle() == "Encoder: layer inputs"
    expected = [math.exp(1 - j) for j in range(1, 17) if math.exp(1 - j) >= LOWEST]
    curves = [line for line in inputs.axes[0].lines if len(line.get_ydata()) > 2]
    assert len(curves) == 2  # the embedded tokens and one layer
    for curve in curves:
        assert curve.get_xdata().tolist() == list(range(1, len(expected) + 1))
        assert curve.get_ydata() == pytest.approx(expected)
    assert inputs.axes[0].get_yscale() == "log"
    assert [text.get_text() for text in inputs.axes[0].texts] == ["ε = 0.1", "ε = 0.01"]
    assert [panel.get_suptitle() for panel in weights.panels] == ["W_Q"]


def test_flow_of_ranks_is_the_profile():
    signal, weights = figures.rank_flow(rank_profile())
    first = signal.panels[0].axes[0]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in first.lines}
    assert drawn["layer input"] == ([0, 1], [4, 6])
    assert drawn["residual stream"] == ([0], [5])
    assert [3, 3] in [list(line.get_ydata()) for line in first.lines]  # the embedded tokens
    assert [panel.get_suptitle() for panel in signal.panels] == 2 * [
        "Encoder",
        "Decoder, self-attention",
        "Decoder, cross-attention",
    ]
    assert len({panel.axes[0].get_ylim() for panel in signal.panels[:3]}) == 1  # comparable
    assert weights.panels[0].axes[0].lines[0].get_ydata().tolist() == [9]


def test_ranks_before_and_after_are_those_of_the_table():
    (panel,) = figures.kept_ranks(kept()).panels
    drawn = {line.get_label(): line.get_ydata().tolist() for line in panel.axes[0].lines}
    assert drawn == {"before": [8, 8], "QK": [3, 7]}
    assert bands(panel) == [(3.0, 8.0), (2.0, 8.0)]  # what was removed; the heads


def test_heads_measured_apart_are_drawn_as_one_curve():
    def curves(frame: pd.DataFrame) -> list:
        lines = figures.spectra(frame)[1].panels[0].axes[0].lines
        return [line.get_xydata().tolist() for line in lines if line.get_label() != "_" and len(line.get_xdata()) > 2]

    frame = spectra()
    apart = pd.concat([frame.assign(head=head) for head in (0, 1)])
    assert curves(apart) == curves(frame)
    dashed = [line for line in figures.spectra(apart)[1].panels[0].axes[0].lines if len(line.get_xdata()) > 2]
    assert [line.is_dashed() for line in dashed] == [True, False]  # cross-attention, self-attention


def test_titles_without_recipe_or_analysis(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(bench()))
    assert written(tmp_path)[1]["title"] == "parent"


def test_a_parent_on_another_code_path_is_named():
    from flowrank.report.claims import _other_path

    both = {"models": {"child": {"engine": "exact"}, "parent": {"engine": "stock"}}}
    assert _other_path(both) == " under the stock code path"
    assert _other_path({"models": {"child": {"engine": "exact"}, "parent": {"engine": "exact"}}}) == ""
    assert _other_path({}) == ""
