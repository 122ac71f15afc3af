"""A report and its three written forms."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePath
from typing import Any

from flowrank.report.accuracy import roles
from flowrank.report.claims import Claim, claims
from flowrank.report.folder import Findings
from flowrank.report.search import LEAST, UNITS
from flowrank.report.sections import sections
from flowrank.report.tables import Section, Table, short_count


@dataclass(frozen=True)
class Report:
    """Title, first screen and sections."""

    title: str
    subtitle: str
    claims: list[Claim]
    sections: list[Section]

    @classmethod
    def of(cls, folder: Path) -> Report:
        """Read a folder's results and arrange them."""
        findings = Findings.read(folder)
        who = roles(findings)
        return cls(_title(findings), _subtitle(findings), claims(findings, who), sections(findings, who))

    def html(self) -> str:
        """Return the page: one file, no script, nothing loaded from elsewhere."""
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup

        from flowrank.figures import inline_svg

        def drawn(figure: Any) -> Markup:
            return Markup(inline_svg(figure))

        loader = PackageLoader("flowrank.report", "")
        rooms = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
        return rooms.get_template("template.html.j2").render(report=self, style=Markup(style), drawn=drawn)

    def markdown(self) -> str:
        """Return the text version: claims and every table."""
        lines = [f"# {_plain(self.title)}", "", *([_plain(self.subtitle), ""] if self.subtitle else [])]
        lines += [f"- **{_plain(c.shown)}** {_plain(c.label)} ({_plain(c.detail)})" for c in self.claims]
        for section in self.sections:
            if not section.tables:
                continue
            lines += ["", f"## {_plain(section.title)}", "", _plain(section.lead)]
            for table in section.tables:
                lines += ["", f"### {_plain(table.title)}", "", *_markdown_table(table)]
                lines += ["", _plain(table.note)] if table.note else []
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Return every number, unrounded; null for what is missing or not finite."""
        record = {
            "title": self.title,
            "claims": [
                {"key": c.key, "value": c.value, "shown": c.shown, "label": c.label, "detail": c.detail}
                for c in self.claims
            ],
            "sections": {s.key: {table.key: table.rows for table in s.tables} for s in self.sections if s.tables},
        }
        return json.dumps(_finite(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _title(findings: Findings) -> str:
    recipe = findings.recipe or {}
    parent = recipe.get("parent", {}).get("name") or (findings.analysis or {}).get("model", {}).get("name")
    if parent is None and findings.bench is not None:
        parent = findings.bench.get("models", {}).get("parent", {}).get("name")
    subject = PurePath(str(parent)).name if parent else ""
    method = recipe.get("method", {}).get("name")
    if not method:
        return subject or "flowrank report"
    subject = subject or "A model"
    healed = ", healed" if "healing" in recipe or recipe["method"].get("healed") else ""
    allocation = recipe.get("allocation", {})
    name, unit = allocation.get("name"), allocation.get("unit", "parameters")
    if name == "Tolerance":
        most = f"{100 * allocation['max_loss']:g}%"
        return f"{subject}, {LEAST[unit]} within {most} of its {allocation['metric']}{healed}"
    how = f"{method} + {name}" if name else str(method)
    counted = f" of {UNITS[unit]}" if unit != "parameters" else ""
    return f"{subject}, compressed by {how}{counted}{healed}"


def _subtitle(findings: Findings) -> str:
    model: dict[str, Any] = (findings.analysis or {}).get("model", {})
    facts = [str(model["class"])] if model.get("class") else []
    if model.get("parameters"):
        facts.append(f"{short_count(model['parameters'])} parameters")
    facts += [f"width {model['d_model']}"] if "d_model" in model else []
    facts += [f"{model['heads']} heads"] if "heads" in model else []
    layers = model.get("layers")
    if isinstance(layers, dict):
        facts.append(" + ".join(f"{count} {stack}" for stack, count in layers.items()) + " layers")
    elif layers is not None:
        shown = " + ".join(map(str, layers)) if isinstance(layers, list) else str(layers)
        facts.append(f"{shown} layers")
    return ", ".join(facts)


def _markdown_table(table: Table) -> list[str]:
    head = [_plain(column.label) or " " for column in table.columns]
    rule = [":--" if column.kind == "text" else "--:" for column in table.columns]
    rows = [[_plain(cell) for cell in cells] for cells in table.cells]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    safe = escape(" ".join(str(text).split()), quote=False)
    for sign in "\\`*[]|":
        safe = safe.replace(sign, "\\" + sign)
    return safe


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
