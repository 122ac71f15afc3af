"""Engines side by side: which one forecasts a model the fastest, at one series and at many."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from flowrank import figures
from flowrank.errors import FlowrankError
from flowrank.figures.outcomes import BAR_ROW, row_height
from flowrank.report.outcomes import LABEL_LETTERS, LABEL_WIDTH, shorten
from flowrank.report.tables import Column, Figure, Section, Table, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

ENGINES = {
    "stock": "stock code",
    "exact": "exact engine",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "compiled": "torch.compile",
    "fastest": "fastest, chosen",
}
"""What engines are called in a sentence."""

Row = dict[str, Any]


def side_by_side(bench: dict[str, Any] | None) -> Section | None:
    """What `flowrank.compare_engines` found, if a benchmark has it.

    Raises
    ------
    FlowrankError
        If it is not what that function returns.
    """
    found = (bench or {}).get("engines")
    if found is None:
        return None
    rows = _checked(found)
    if not rows:
        return None
    drawn = _bars(rows)
    return Section(
        "engines",
        "Engines side by side",
        " ".join([*_fastest(rows), _how(found)]),
        [] if drawn is None else [drawn],
        [
            _table("engines", "Time of a forecast: least", rows, "least"),
            _table("engines_median", "Time of a forecast: median", rows, "median", folded=True),
        ],
    )


def _checked(found: Any) -> list[Row]:
    """The rows, with names as they are shown."""
    rows = found.get("rows") if isinstance(found, dict) else None
    needed = {"model", "engine", "batch_size", "least_s", "median_s"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise FlowrankError(
            "bench.json, engines",
            expected="rows of model, engine, batch_size, least_s and median_s, as flowrank.compare_engines gives them",
            found="others",
            todo="make the file again: flowrank benchmark CHILD --against PARENT --engines all",
        )
    paths = list(dict.fromkeys(str(row["model"]) for row in rows))
    last = [PurePath(path).name for path in paths]
    names = dict(zip(paths, last if len(set(last)) == len(last) else paths, strict=True))
    return [row | {"model": names[str(row["model"])]} for row in rows]


def _named(engine: str) -> str:
    return ENGINES.get(engine, engine)


def _sizes(rows: list[Row]) -> list[int]:
    return sorted({row["batch_size"] for row in rows})


def _of(rows: list[Row], size: int) -> list[Row]:
    """Rows of a batch size that were measured."""
    return [row for row in rows if row["batch_size"] == size and row["least_s"] is not None]


def _fastest(rows: list[Row]) -> list[str]:
    """A sentence for each model: which engine is the fastest for the smallest and for the largest batch."""
    sizes, said = _sizes(rows), []
    for model in dict.fromkeys(row["model"] for row in rows):
        parts = []
        for size in dict.fromkeys((sizes[0], sizes[-1])):
            measured = [row for row in _of(rows, size) if row["model"] == model]
            if measured:
                best = min(measured, key=lambda row: row["least_s"])
                share = best.get("least_over_stock")
                of = "" if model == rows[0]["model"] else f" of {shorten(rows[0]['model'], 40)}"
                over = "" if share is None else f", {show(share, 'ratio')} that of the stock code{of}"
                when = "for one series" if size == 1 else f"for {size} series at once"
                the = "the " * (best["engine"] in ("stock", "exact"))
                time = show(best["least_s"], "seconds")
                parts.append(f"by {the}{_named(best['engine'])} {when} (time {time}{over})")
        if parts:
            said.append(f"{shorten(model, 40)} runs fastest {' and '.join(parts)}.")
    return said


def _reference(rows: list[Row], size: int) -> tuple[float, str]:
    """Seconds that others are shown relative to, and of what they are: of the stock code, else of the slowest."""
    measured, first = _of(rows, size), rows[0]["model"]
    for row in measured:
        if (row["model"], row["engine"]) == (first, "stock"):
            single = len({one["model"] for one in rows}) == 1
            return row["least_s"], "the stock code" if single else f"the stock code of {shorten(first, 40)}"
    return max(row["least_s"] for row in measured), "the slowest"


def _how(found: dict[str, Any]) -> str:
    workload, device = found.get("workload", {}), found.get("device", {})
    facts = [str(device["name"])] if device.get("name") else []
    if device.get("threads"):
        facts.append(f"{device['threads']} thread{'s' * (device['threads'] != 1)}")
    if workload.get("context_length") and workload.get("horizon"):
        facts.append(f"{workload['context_length']} values a series, {workload['horizon']} steps ahead")
    if workload.get("repeats"):
        facts.append(f"{workload['repeats']} forecast{'s' * (workload['repeats'] != 1)} each")
    told = "Each model and engine ran in a process of its own, in turns"
    return f"{told} ({', '.join(facts)})." if facts else f"{told}."


def _table(key: str, title: str, rows: list[Row], measure: str, *, folded: bool = False) -> Table:
    """A row for each model and engine, columns for each batch size; the note says what could not run."""
    sizes = _sizes(rows)
    columns = [Column("model", "model"), Column("engine", "engine")]
    for size in sizes:
        columns.append(Column(f"seconds_{size}", f"{size} series", "seconds"))
        if any(row.get(f"{measure}_over_stock") is not None for row in _of(rows, size)):
            columns.append(Column(f"ratio_{size}", "over stock", "ratio"))
    table: dict[tuple[str, str], Row] = {}
    for row in rows:
        shown = table.setdefault(
            (row["model"], row["engine"]), {"model": row["model"], "engine": _named(row["engine"])}
        )
        shown[f"seconds_{row['batch_size']}"] = row[f"{measure}_s"]
        shown[f"ratio_{row['batch_size']}"] = row.get(f"{measure}_over_stock")
    reasons = dict.fromkeys(
        f"{row['model']} by {_named(row['engine'])}: {row['why']}." for row in rows if row.get("why")
    )
    first = shorten(rows[0]["model"], 40)
    compared = any(column.label == "over stock" for column in columns)
    notes = [f"Over stock: over the stock code's time of {first}, for as many series."] if compared else []
    return Table(key, title, columns, list(table.values()), note=" ".join([*notes, *reasons]), folded=folded)


def _bars(rows: list[Row]) -> Figure | None:
    """Least times over those of the stock code, a panel for each model and batch size."""
    ratios = {
        size: [(row, row["least_s"] / _reference(rows, size)[0]) for row in _of(rows, size)]
        for size in _sizes(rows)
        if _of(rows, size)
    }
    if not ratios:
        return None
    everywhere = [ratio for some in ratios.values() for _, ratio in some]
    panels = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for size, some in ratios.items():
            own = [(row, ratio) for row, ratio in some if row["model"] == model]
            panels += [_panel(model, size, own, everywhere)] if own else []
    references = " or ".join(dict.fromkeys(_reference(rows, size)[1] for size in ratios))
    return Figure(
        "engines",
        "Time of a forecast, engine by engine",
        f"The upright line at 1 is {references}, for as many series at once; a shorter bar is a faster engine. What is "
        "the fastest for one series need not be the fastest for many: there it is the arithmetic that counts, for "
        "one series the work around it.",
        panels,
    )


def _panel(model: str, size: int, own: list[tuple[Row, float]], among: list[float]) -> Drawing:
    ax = figures.panel(height=row_height(len(own), BAR_ROW), left=LABEL_WIDTH)
    labels = [shorten(_named(row["engine"]), LABEL_LETTERS) for row, _ in own]
    figures.bars(ax, [ratio for _, ratio in own], labels, among=among)
    about = "; ".join(f"{_named(row['engine'])} {show(row['least_s'], 'seconds')}" for row, _ in own)
    return figures.framed(ax, f"{shorten(model, 24)}, {size} series", f"Least time of a forecast: {about}.", grid="x")
