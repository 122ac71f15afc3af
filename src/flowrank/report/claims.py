"""The first screen of a report: what was measured, in a few big numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowrank.report.accuracy import Roles, by_dataset, relative
from flowrank.report.folder import Findings
from flowrank.report.ranks import attention_in, flow_rows, kept_by_site
from flowrank.report.search import UNITS, best_of
from flowrank.report.tables import short_count, show

MOST = 6


@dataclass(frozen=True)
class Claim:
    """One number: raw, how it is shown, what it is, and what it rests on."""

    key: str
    value: float
    shown: str
    label: str
    detail: str


def claims(findings: Findings, who: Roles) -> list[Claim]:
    """Return at most six claims, only those that the folder holds measurements for."""
    found = [
        _smallest(findings),
        _parameters_kept(findings),
        _attention_kept(findings),
        *_accuracy(findings, who),
        _latency(findings.bench),
        _bench_ratio(findings.bench, "cache_bytes", "key/value cache, relative to the parent"),
        _bench_ratio(findings.bench, "peak_bytes", "peak memory of a forecast, relative to the parent"),
        *_flow(findings),
    ]
    return [claim for claim in found if claim is not None][:MOST]


def _smallest(findings: Findings) -> Claim | None:
    """What the search found: cost, loss, and how large the loss may be."""
    best = None if findings.search is None else best_of(findings.search)
    if best is None:
        return None
    tolerance = findings.tolerance
    loss, upper = (show(float(best[key]), "change").removeprefix("+") for key in ("loss", "upper"))
    sure = tolerance.get("confidence", 0.5)
    detail = f"at most {upper} with {100 * sure:g}% confidence" if sure > 0.5 else "best estimate"
    if "metric" in tolerance:
        detail += f", {tolerance['metric']}"
    what = UNITS.get(tolerance.get("unit", ""), "cost")
    cost = float(best["cost"])
    return Claim("search", cost, show(cost, "percent"), f"of the parent's {what} at {loss} loss", detail)


def _parameters_kept(findings: Findings) -> Claim | None:
    """Size of a model that was compressed as a whole, where no claim on a search says it."""
    recipe = findings.recipe or {}
    counts = recipe.get("parameters", {})
    child, parent = counts.get("child"), counts.get("parent")
    said = findings.search is not None and findings.tolerance.get("unit") == "parameters"
    if recipe.get("method", {}).get("name") != "WholeModel" or child is None or not parent or said:
        return None
    detail = f"{short_count(child)} of {short_count(parent)}"
    return Claim("parameters_kept", child / parent, show(child / parent, "percent"), "of the parameters kept", detail)


def _attention_kept(findings: Findings) -> Claim | None:
    counts = (findings.recipe or {}).get("parameters", {})
    child, parent = counts.get("attention_child"), counts.get("attention_parent")
    if not (child is not None and parent) and findings.bench is not None:
        child, parent = (_model(findings.bench, role).get("attention_parameters") for role in ("child", "parent"))
    if not (child is not None and parent) and findings.kept is not None:
        total = kept_by_site(attention_in(findings.kept))[-1]
        child, parent = total["cost"], total["full_cost"]
    if child is None or not parent:
        return None
    return Claim(
        "attention_parameters_kept",
        child / parent,
        show(child / parent, "percent"),
        "of the attention parameters kept",
        f"{short_count(child)} of {short_count(parent)}",
    )


def _accuracy(findings: Findings, who: Roles) -> list[Claim | None]:
    if findings.scores is None:
        return []
    subject = who.child or who.parent
    models = [m for m in findings.scores["model"].unique() if m != "seasonal-naive"]
    if subject is None and len(models) == 1:
        subject = models[0]
    if subject is None:
        return []
    wide = {metric: by_dataset(findings.scores, metric) for metric in ("WQL", "MASE")}
    references = [(who.parent, "the parent", "parent")] if who.child else []
    found: list[Claim | None] = []
    for reference, name, key in [*references, ("seasonal-naive", "seasonal naive", "naive")]:
        value, datasets = relative(wide["WQL"], subject, reference)
        if value is not None:
            mase, _ = relative(wide["MASE"], subject, reference)
            further = f", MASE {show(mase, 'ratio')}" if mase is not None else ""
            found.append(
                Claim(
                    f"WQL_{key}",
                    value,
                    show(value, "ratio"),
                    f"WQL, relative to {name}",
                    f"geometric mean, {datasets} dataset{'s' * (datasets != 1)}{further}",
                )
            )
    return found


def _latency(bench: dict[str, Any] | None) -> Claim | None:
    ratio = (bench or {}).get("ratio", {}).get("latency", {})
    if bench is None or ratio.get("median") is None:
        return None
    spread = f"{ratio['min']:.2f} to {ratio['max']:.2f} over paired runs" if "min" in ratio else "paired runs"
    label = f"latency, relative to the parent{_other_path(bench)}"
    return Claim("latency", ratio["median"], show(ratio["median"], "ratio"), label, spread)


def _other_path(bench: dict[str, Any]) -> str:
    """Words for a parent that took another code path than the child."""
    child, parent = (_model(bench, role).get("engine") for role in ("child", "parent"))
    return f" under the {parent} code path" if parent and parent != child else ""


def _bench_ratio(bench: dict[str, Any] | None, key: str, label: str) -> Claim | None:
    ratio = (bench or {}).get("ratio", {}).get(key)
    if bench is None or ratio is None:
        return None
    sizes = []
    for role in ("parent", "child"):
        size = _model(bench, role).get(key)
        sizes.append(sum(size.values()) if isinstance(size, dict) else size)
    detail = " → ".join(show(size, "bytes") for size in sizes)
    return Claim(key, ratio, show(ratio, "ratio"), label + _other_path(bench), detail)


def _model(bench: dict[str, Any], role: str) -> dict[str, Any]:
    return bench.get("models", {}).get(role, {})


def _flow(findings: Findings) -> list[Claim | None]:
    """Rank of the tokens, and its growth over the encoder and the decoder, at the largest ε."""
    if findings.rank_profile is None:
        return []
    found: list[Claim | None] = []
    rows = flow_rows(findings.rank_profile)
    epsilon = max(row["epsilon"] for row in rows) if rows else 0.0
    for row in rows:
        if row["epsilon"] != epsilon:
            continue
        of = f"of {show(row['dim'], 'number')}, at ε = {epsilon:g}"
        if row["quantity"] == "embedded tokens" and row["site"] == "Encoder":
            label = "numerical rank of the embedded tokens"
            found.append(Claim("embedding_rank", row["first"], show(row["first"], "number"), label, of))
        elif row["quantity"] == "layer input" and row["last"] is not None and not row["site"].endswith("MLP"):
            where = row["site"][0].lower() + row["site"][1:]
            found.append(
                Claim(
                    f"flow_{where.replace(', ', '_').replace('-', '_')}",
                    row["last"],
                    f"{show(row['first'], 'number')} → {show(row['last'], 'number')}",
                    f"rank of the layer input, first to last layer ({where})",
                    of,
                )
            )
    return found
