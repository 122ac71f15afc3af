"""The figures of accuracy, cost and forecasts with their captions and legends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank import figures
from flowrank.errors import FlowrankError
from flowrank.figures.outcomes import BAR_ROW, DOT_ROW, row_height
from flowrank.figures.panel import COLOURS, SERIES, SHAPES
from flowrank.report.accuracy import METRICS, NAIVE, Roles, by_dataset
from flowrank.report.tables import Figure, Legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MOST_SERIES = 6
MOST_MODELS = 5
LABEL_WIDTH = 128
LABEL_LETTERS = 17


def accuracy_dots(scores: pd.DataFrame, who: Roles) -> Figure | None:
    """Scores relative to seasonal naive, one row a dataset, one shape a model; None without seasonal naive.

    Parameters
    ----------
    scores
        The columns of ``scores.csv``.
    who
        Which model is the parent (hollow) and which the child.
    """
    first = [name for name in (who.child, who.parent) if name is not None]
    others = [m for m in scores["model"].unique() if m != NAIVE and m not in first]
    models = [*first, *others][:MOST_MODELS]
    if NAIVE not in set(scores["model"]) or not models:
        return None
    hues = dict(zip(models, SERIES, strict=False))
    plain = iter(shape for shape in SHAPES if shape not in ("ring", "circle"))
    shapes = {m: {who.parent: "ring", who.child: "circle"}.get(m) or next(plain) for m in models}
    panels = []
    for metric in METRICS:
        wide = by_dataset(scores, metric)
        ratios = wide[models].div(wide[NAIVE].where(wide[NAIVE] > 0), axis=0)
        labels = [shorten(str(name), LABEL_LETTERS) for name in ratios.index]
        ax = figures.panel(height=row_height(len(ratios), DOT_ROW), left=LABEL_WIDTH)
        figures.dots(ax, ratios, {m: (shapes[m], hues[m]) for m in models}, labels)
        about = f"{metric} of {', '.join(models)} divided by that of seasonal naive, for {len(ratios)} datasets."
        panels.append(figures.framed(ax, f"{metric} relative to seasonal naive", about, grid="x"))
    notes = {who.parent: " (parent)", who.child: " (compressed)"}
    return Figure(
        "accuracy",
        "Dataset by dataset",
        "Left of the line at 1 a model beats seasonal naive. The length of a grey bar is the spread between "
        "the models: short bars mean that compression cost little there.",
        panels,
        [Legend(figures.key(hues[m], shapes[m], line=False), shorten(m, 40) + notes.get(m, "")) for m in models],
    )


def cost_bars(rows: list[dict[str, Any]]) -> Figure | None:
    """Child over parent for every cost, as bars; None if no ratio is known.

    Parameters
    ----------
    rows
        Rows with "what", "short" and "ratio", as in the cost table.
    """
    known = [row for row in rows if row["ratio"] is not None and math.isfinite(row["ratio"])]
    if not known:
        return None
    ax = figures.panel(height=row_height(len(known), BAR_ROW), left=LABEL_WIDTH)
    figures.bars(ax, [row["ratio"] for row in known], [row["short"] for row in known])
    about = "; ".join(f"{row['what']} {row['ratio']:.3f}" for row in known)
    return Figure(
        "cost",
        "Cost relative to the parent",
        "The upright line at 1 is the parent. Weights, key/value cache and peak memory are "
        "three different things: attention is only a part of the weights, but all of the cache.",
        [figures.framed(ax, "Child over parent", about, grid="x")],
    )


def forecast_fans(forecasts: pd.DataFrame, history: pd.DataFrame | None) -> Figure:
    """Small multiples of forecasts: history, quantile fan, median, and the truth where it is known.

    Parameters
    ----------
    forecasts
        item_id, timestamp, predictions, one column a quantile ("0.1" … "0.9"), optionally model.
    history
        item_id, timestamp, target: the context and, if it reaches past the cut, the truth.
    """
    items = list(forecasts["item_id"].unique()[:MOST_SERIES])
    if "model" not in forecasts:
        forecasts = forecasts.assign(model="forecast")
    models = list(forecasts["model"].unique()[:MOST_MODELS])
    quantiles = _quantiles(forecasts)
    panels = []
    for item in items:
        part = forecasts[forecasts["item_id"] == item]
        past = None if history is None else history[history["item_id"] == item]
        panels.append(_fan(str(item), part, past, models, quantiles))
    shades = [(low, 1 - low) for low in quantiles if low < 0.5]
    widest = f"{shades[0][0]:.0%} to {shades[0][1]:.0%} quantiles" if shades else "quantiles"
    single = len(models) == 1
    legend = [Legend(figures.key(COLOURS["ink"]), "history")]
    if history is not None:
        legend.append(Legend(figures.key(COLOURS["ink"], "circle", line=False), "what happened"))
    legend += [
        Legend(figures.key(SERIES[i]), "median" if single else f"median, {shorten(m, 40)}")
        for i, m in enumerate(models)
    ]
    if quantiles:
        legend.append(Legend(figures.key(COLOURS["blue"], fill=True), widest))
    return Figure(
        "forecasts",
        "Example forecasts",
        "History as a thin line, the forecast as a median and a fan of quantiles. Look at whether "
        "the truth stays inside the fan, and whether the fan widens where the series is hard.",
        panels,
        legend,
    )


def _quantiles(forecasts: pd.DataFrame) -> dict[float, str]:
    """Quantile levels and their columns, in order."""
    levels = {}
    for column in forecasts.columns:
        try:
            level = float(column)
        except ValueError:
            continue
        if 0 < level < 1:
            levels[level] = column
    return dict(sorted(levels.items()))


def _fan(
    item: str,
    part: pd.DataFrame,
    past: pd.DataFrame | None,
    models: list[str],
    quantiles: dict[float, str],
) -> Drawing:
    stamps = list(part["timestamp"]) + ([] if past is None else list(past["timestamp"]))
    place, names = _clock(stamps)
    x = place[: len(part)]
    cut, steps = float(np.nanmin(x)), int(part.groupby("model").size().max())
    seen, later = _split(past, place[len(part) :], cut, steps=steps)
    tables = {}
    for model in models:
        rows = np.asarray(part["model"] == model)
        if rows.any():
            order = np.argsort(x[rows], kind="stable")
            table = part[rows].iloc[order]
            columns = {"place": x[rows][order], "value": table[quantiles.get(0.5, "predictions")].to_numpy()}
            tables[model] = pd.DataFrame(columns | {q: table[column].to_numpy() for q, column in quantiles.items()})
    ax = figures.panel(height=220)
    figures.fan(ax, seen, later, tables, dict(zip(models, SERIES, strict=False)), cut=cut)
    places = [*seen["place"], *later["place"], *x]
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    middle = [cut] if low + 0.25 * (high - low) < cut < high - 0.25 * (high - low) else []
    ticks = [low, *middle, high] if high > low else [low]
    ax.set_xlim(low, high if high > low else low + 1)
    ax.set_xticks(ticks, [names(tick, high - low) for tick in ticks])
    for label, align in zip(ax.get_xticklabels(), ("left", *("center" for _ in middle), "right"), strict=False):
        label.set(horizontalalignment=align)
    return figures.framed(ax, shorten(item, 44), f"History of {len(seen)} points and forecast of {steps} steps.")


def _split(
    past: pd.DataFrame | None, place: np.ndarray, cut: float, *, steps: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """History before the cut (the last few horizons) and the truth from it on: place and value."""
    values = [] if past is None else past["target"].to_numpy(dtype=float)
    frame = pd.DataFrame({"place": place, "value": values}, dtype=float).sort_values("place", kind="stable")
    before = frame["place"] < cut
    return frame[before].iloc[-max(3 * steps, 48) :], frame[~before]


def _clock(stamps: list[Any]) -> tuple[np.ndarray, Any]:
    """Places on a line for timestamps of any kind, and how to name a place."""
    series = pd.Series(stamps)
    if pd.api.types.is_numeric_dtype(series):
        return series.to_numpy(dtype=float), lambda place, span: f"{place:g}"
    dates = pd.to_datetime(series, errors="coerce", utc=True, format="mixed")
    if dates.isna().any():
        raise FlowrankError(
            "forecasts.parquet, column 'timestamp'",
            expected="dates or numbers, as in history.parquet",
            found=repr(series[dates.isna()].iloc[0]),
        )

    def name(place: float, span: float) -> str:
        days = span / 86400
        form = "%Y" if days > 3000 else "%Y-%m" if days > 400 else "%d %b %Y" if days > 10 else "%d %b %H:%M"
        return pd.Timestamp(place, unit="s").strftime(form)

    return (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(), name


def shorten(text: str, letters: int) -> str:
    """Cut a name that is too long for its place, in the middle.

    Examples
    --------
    >>> shorten("monash_tourism_monthly", 17)
    'monash_t…_monthly'
    """
    if len(text) <= letters:
        return text
    head = letters // 2
    return text[:head] + "…" + text[len(text) - (letters - head - 1) :]
