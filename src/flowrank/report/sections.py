"""The parts of a report, in reading order; a part appears only if its files are there."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flowrank.figures.names import NAMES
from flowrank.report import figures, flow, outcomes, search
from flowrank.report.accuracy import METRICS, NAIVE, Roles, by_dataset, summary
from flowrank.report.engines import side_by_side
from flowrank.report.folder import Findings
from flowrank.report.positions import rank_in_position
from flowrank.report.proof import fev_tasks, flat, outcome
from flowrank.report.ranks import (
    attention_in,
    flow_rows,
    kept_by_site,
    kept_rows,
    layer_rows,
    neurons_in,
    profile,
)
from flowrank.report.tables import Column, Section, Table


def sections(findings: Findings, who: Roles) -> list[Section]:
    """Every section that the findings support."""
    parts = [
        outcome(findings.proof),
        _search(findings),
        _spectra(findings.spectra),
        _ranks(findings.rank_profile, findings.bounds, findings.kept),
        rank_in_position(findings.positions, findings.rank_profile),
        _accuracy(findings.scores, who),
        fev_tasks(findings.fev, who),
        _cost(findings.bench),
        side_by_side(findings.bench),
        _forecasts(findings.forecasts, findings.history),
        _provenance(findings),
    ]
    return [part for part in parts if part is not None]


def _search(findings: Findings) -> Section | None:
    stages, tolerance = findings.search, findings.tolerance
    if stages is None:
        return None
    held, count = int(stages["held"].sum()), len(stages)
    judged = (findings.recipe or {}).get("search") or findings.settings or {}
    series, horizon = judged.get("validation_series"), judged.get("horizon")
    within = f"{100 * tolerance.get('max_loss', 0.0):g}% of the parent's {tolerance.get('metric', 'metric')}"
    lead = f"{count} steps; the models of {held} of them stayed within {within if tolerance else 'the tolerance'}."
    if series and horizon:
        lead += f" Each forecast the same series as the parent, up to {series:,}, {horizon} steps ahead."
    return Section(
        "search",
        "The search for the smallest model",
        lead,
        [search.tradeoff(stages, tolerance)],
        [search.stage_table(stages)],
    )


def _spectra(frame: pd.DataFrame | None) -> Section | None:
    if frame is None:
        return None
    return Section(
        "spectra",
        "Spectra",
        "How fast the singular values fall: the faster, the fewer directions carry the signal.",
        figures.spectra(frame),
    )


def _ranks(measured: pd.DataFrame | None, bounds: pd.DataFrame | None, kept: pd.DataFrame | None) -> Section | None:
    if measured is None and kept is None and bounds is None:
        return None
    drawn = [] if measured is None else figures.rank_flow(measured)
    more = (None if measured is None else flow.stream(measured), None if bounds is None else flow.bounds(bounds))
    drawn += [figure for figure in more if figure is not None]
    tables = []
    if kept is not None:
        neurons = neurons_in(kept)
        drawn.append(figures.kept_ranks(attention_in(kept)))
        drawn += [] if neurons is None else [figures.kept_neurons(neurons)]
        tables += _kept_tables(attention_in(kept), neurons)
    if measured is not None:
        tables += _rank_tables(measured)
    return Section(
        "ranks",
        "Ranks over depth",
        "Does rank grow as the signal flows through the layers? Where it is low, narrow layers do.",
        drawn,
        tables,
    )


def _rank_tables(frame: pd.DataFrame) -> list[Table]:
    ends = Table(
        "flow",
        "Rank of each quantity, first and last layer",
        [
            Column("site", "where"),
            Column("quantity", "what"),
            Column("epsilon", "ε", "number"),
            Column("first", "first layer", "number"),
            Column("last", "last layer", "number"),
            Column("growth", "growth", "ratio"),
            Column("dim", "full", "number"),
            Column("effective_first", "effective rank, first", "number"),
            Column("effective_last", "effective rank, last", "number"),
        ],
        flow_rows(frame),
        folded=True,
    )
    table = profile(frame)
    parts = flow.parts_table(frame)
    tables = [ends, *([] if parts is None else [parts])]
    for epsilon in sorted(table["epsilon"].unique(), reverse=True):
        rows = layer_rows(frame, epsilon)
        present = [q for q in NAMES if any(q in row for row in rows)]
        columns = [Column(q, NAMES[q], "number") for q in present]
        tables.append(
            Table(
                f"layers_{epsilon:g}",
                f"Rank at ε = {epsilon:g}, layer by layer",
                [
                    Column("site", "where"),
                    Column("layer", "layer", "count"),
                    Column("depth", "depth", "count"),
                    *columns,
                ],
                rows,
                folded=True,
            )
        )
    return tables


def _kept_tables(attention: pd.DataFrame, neurons: pd.DataFrame | None) -> list[Table]:
    columns = [
        Column("site", "where"),
        Column("full_cost", "before", "count"),
        Column("cost", "after", "count"),
        Column("share", "kept", "percent"),
        Column("first", "kept, first layer", "percent"),
        Column("last", "kept, last layer", "percent"),
    ]
    by_site = [Table("kept_by_site", "Attention parameters kept", columns, kept_by_site(attention))]
    if neurons is not None:
        rows = kept_by_site(neurons, "All of these")
        by_site.append(
            Table("kept_neurons_by_site", "Parameters of feed-forward layers and blocks kept", columns, rows)
        )
    by_layer = Table(
        "kept_by_layer",
        "Ranks before and after, layer by layer",
        [
            Column("site", "where"),
            Column("layer", "layer", "count"),
            Column("depth", "depth", "count"),
            Column("part", "part"),
            Column("full", "before", "number"),
            Column("kept", "after", "number"),
            Column("kept_min", "least of a head", "number"),
            Column("kept_max", "most of a head", "number"),
            Column("cost", "parameters", "count"),
            Column("share", "parameters kept", "percent"),
        ],
        kept_rows(attention if neurons is None else pd.concat([attention, neurons])),
        folded=True,
    )
    return [*by_site, by_layer]


def _accuracy(scores: pd.DataFrame | None, who: Roles) -> Section | None:
    if scores is None:
        return None
    rows = summary(scores, who)
    columns = [Column("model", "model"), Column("datasets", "datasets", "count")]
    for reference, label in (("naive", "seasonal naive"), ("parent", "parent")):
        for metric in METRICS:
            key = f"{metric}_{reference}"
            if any(row[key] is not None for row in rows):
                columns.append(Column(key, f"{metric} / {label}", "ratio"))
    relative = Table(
        "relative",
        "Relative scores",
        columns,
        rows,
        note="Geometric means over the datasets; below 1 is better than the reference. WQL scores the "
        "quantiles, MASE the point forecast.",
    )
    wide = {metric: by_dataset(scores, metric) for metric in METRICS}
    models = list(wide["WQL"].columns)
    absolute = Table(
        "datasets",
        "Scores of every dataset",
        [
            Column("dataset", "dataset"),
            *(Column(f"{metric} {m}", f"{metric}, {m}", "number") for metric in METRICS for m in models),
        ],
        [
            {
                "dataset": dataset,
                **{f"{k} {m}": float(wide[k].loc[dataset, m]) for k in METRICS for m in models},
            }
            for dataset in wide["WQL"].index
        ],
    )
    dots = outcomes.accuracy_dots(scores, who)
    compared = "compared with seasonal naive" if NAIVE in models else "as evaluated"
    return Section(
        "accuracy",
        "Accuracy",
        f"Rolling-origin backtests on {len(absolute.rows)} datasets, {compared}.",
        [dots] if dots else [],
        [relative, absolute],
    )


COSTS = (
    ("parameters", "Parameters", "parameters", "count", "parameters"),
    ("attention_parameters", "Attention parameters", "attention", "count", "attention_parameters"),
    ("weight_bytes", "Weights", "weights", "bytes", "weight_bytes"),
    ("cache_bytes.self", "Key/value cache, self-attention", "cache, self", "bytes", "cache_bytes_self"),
    ("cache_bytes.cross", "Key/value cache, cross-attention", "cache, cross", "bytes", "cache_bytes_cross"),
    ("peak_bytes", "Peak memory above the loaded model", "peak memory", "bytes", "peak_bytes"),
    ("latency_s.median", "Latency, median", "latency", "seconds", "latency.median"),
    ("latency_s.min", "Latency, fastest", "latency, min", "seconds", "latency.min"),
    ("latency_s.max", "Latency, slowest", "latency, max", "seconds", "latency.max"),
    ("floor_s", "Roofline time of this machine", "roofline", "seconds", "floor"),
)


def _cost(bench: dict[str, Any] | None) -> Section | None:
    if bench is None:
        return None
    rows = []
    for key, what, short, unit, ratio_key in COSTS:
        parent, child = (_dig(bench, f"models.{role}.{key}") for role in ("parent", "child"))
        ratio = _dig(bench, f"ratio.{ratio_key}")
        if ratio is None and parent and child is not None and not key.startswith("latency"):
            ratio = child / parent
        if (parent, child, ratio) != (None, None, None):
            rows.append({"what": what, "short": short, "unit": unit, "parent": parent, "child": child, "ratio": ratio})
    if not rows:
        return None
    table = Table(
        "cost",
        "Parent and child on one workload",
        [
            Column("what", ""),
            Column("ratio", "child / parent", "ratio"),
            Column("parent", _headed("parent", bench), "unit"),
            Column("child", _headed("child", bench), "unit"),
        ],
        rows,
        note="1 MB is 10⁶ bytes. Latency was measured in turns in one process; its ratios are taken pair "
        "by pair, so they need not equal the ratio of the times next to them.",
    )
    workload = ", ".join(f"{_words(k)} {v}" for k, v in bench.get("workload", {}).items() if v is not None)
    bars = outcomes.cost_bars([row for row in rows if row["short"] not in ("latency, min", "latency, max")])
    lead = f"Workload: {workload}." if workload else "Parent and child on the same workload."
    return Section("cost", "Cost", lead, [bars] if bars else [], [table])


def _headed(role: str, bench: dict[str, Any]) -> str:
    """Column of a model: its role, name and code path."""
    name, engine = (_dig(bench, f"models.{role}.{key}") for key in ("name", "engine"))
    known = ", ".join(part for part in (name, f"{engine} engine" if engine else None) if part)
    return f"{role} ({known})" if known else role


def _dig(record: dict[str, Any], path: str) -> Any:
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _forecasts(forecasts: pd.DataFrame | None, history: pd.DataFrame | None) -> Section | None:
    if forecasts is None:
        return None
    count = forecasts["item_id"].nunique()
    shown = min(count, outcomes.MOST_SERIES)
    lead = f"{shown} of {count} series." if shown < count else f"{count} series."
    return Section("forecasts", "Forecasts", lead, [outcomes.forecast_fans(forecasts, history)])


def _provenance(findings: Findings) -> Section | None:
    """Everything needed to make these numbers again: recipe, settings, device, versions."""
    records = {
        "analysis": findings.analysis,
        "recipe": _without_stages(findings.recipe),
        "search": findings.settings,
        "benchmark": _without(findings.bench, "models", "ratio", "engines"),
        "engines": _without((findings.bench or {}).get("engines"), "rows"),
    }
    rows: list[dict[str, str]] = []
    for source, record in records.items():
        for key, value in (record or {}).items():
            for name, entry in flat(key, value):
                rows.append({"source": source, "key": name, "value": entry})
    if not rows:
        return None
    columns = [Column("source", "from"), Column("key", "what"), Column("value", "value")]
    return Section(
        "provenance",
        "How these numbers were made",
        "Settings, recipe, device, versions and seeds, as recorded by each step.",
        tables=[
            Table(
                f"record_{source}",
                f"Recorded by {_step(source)}",
                columns[1:],
                [r for r in rows if r["source"] == source],
            )
            for source, record in records.items()
            if record
        ],
    )


def _step(source: str) -> str:
    return {"recipe": "the compression", "engines": "the comparison of engines"}.get(source, f"the {source}")


def _without(record: dict[str, Any] | None, *keys: str) -> dict[str, Any]:
    """A record without what has a table of its own."""
    return {key: value for key, value in (record or {}).items() if key not in keys}


def _without_stages(recipe: dict[str, Any] | None) -> dict[str, Any] | None:
    """A recipe without the stages of its search, which have a table of their own."""
    search = (recipe or {}).get("search")
    if recipe is None or not isinstance(search, dict):
        return recipe
    return recipe | {"search": {key: value for key, value in search.items() if key != "stages"}}
