"""The figures of accuracy, cost and forecasts: frames in, panels out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.report.accuracy import METRICS, NAIVE, Roles, by_dataset
from flowrank.report.svg import BOTTOM, SERIES, SHAPES, TOP, Axis, Panel, swatch
from flowrank.report.tables import Figure, Legend

Points = tuple[np.ndarray, np.ndarray]
"""Places and values."""

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
        rows = list(range(len(ratios)))
        labels = [shorten(str(name), LABEL_LETTERS) for name in ratios.index]
        panel = Panel(
            f"{metric} relative to seasonal naive",
            f"{metric} of {', '.join(models)} divided by that of seasonal naive, for {len(ratios)} datasets.",
            x=Axis.over([*ratios.to_numpy().ravel(), 1.0], zero=True),
            y=Axis(len(rows) - 0.5, -0.5, [float(r) for r in rows], labels=labels),
            x_label="← better",
            height=TOP + BOTTOM + 21 * len(rows),
            left=LABEL_WIDTH,
            grid="x",
        )
        panel.upright(1.0, hue="ink", dash="")
        for row, values in zip(rows, ratios.to_numpy(), strict=True):
            finite = values[np.isfinite(values)]
            if len(finite) > 1:
                panel.line([finite.min(), finite.max()], [row, row], "quiet", width=1.5)
        for model in reversed(models):
            panel.marks(ratios[model].to_list(), [float(r) for r in rows], hues[model], shapes[model], size=4)
        panels.append(panel.svg())
    notes = {who.parent: " (parent)", who.child: " (compressed)"}
    return Figure(
        "accuracy",
        "Dataset by dataset",
        "Left of the line at 1 a model beats seasonal naive. The length of a grey bar is the spread between "
        "the models: short bars mean that compression cost little there.",
        panels,
        [Legend(swatch(hues[m], shapes[m], line=False), shorten(m, 40) + notes.get(m, "")) for m in models],
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
    places = [float(i) for i in range(len(known))]
    panel = Panel(
        "Child over parent",
        "; ".join(f"{row['what']} {row['ratio']:.3f}" for row in known),
        x=Axis.over([1.15, *(1.15 * row["ratio"] for row in known)], zero=True),
        y=Axis(len(known) - 0.5, -0.5, places, labels=[row["short"] for row in known]),
        height=TOP + BOTTOM + 25 * len(known),
        left=LABEL_WIDTH,
        grid="x",
    )
    for place, row in zip(places, known, strict=True):
        panel.bar(place, 0.0, row["ratio"], "blue" if row["ratio"] <= 1 else "vermillion")
        beside = 1.0 if 0.8 < row["ratio"] < 1.0 else row["ratio"]  # not across the line at 1
        panel.note(beside, place, f"{row['ratio']:.2f}", hue="ink")
    panel.upright(1.0, hue="ink", dash="")
    return Figure(
        "cost",
        "Cost relative to the parent",
        "The upright line at 1 is the parent. Weights, key/value cache and peak memory are "
        "three different things: attention is only a part of the weights, but all of the cache.",
        [panel.svg()],
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
    legend = [Legend(swatch("ink"), "history")]
    if history is not None:
        legend.append(Legend(swatch("ink", "circle", line=False), "what happened"))
    legend += [
        Legend(swatch(SERIES[i]), "median" if single else f"median, {shorten(m, 40)}") for i, m in enumerate(models)
    ]
    if quantiles:
        legend.append(Legend(swatch("blue", fill=True), widest))
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
) -> str:
    stamps = list(part["timestamp"]) + ([] if past is None else list(past["timestamp"]))
    place, names = _clock(stamps)
    x = place[: len(part)]
    cut, steps = float(np.nanmin(x)), int(part.groupby("model").size().max())
    seen, later = _split(past, place[len(part) :], cut, steps=steps)
    values = [*part["predictions"], *(v for c in quantiles.values() for v in part[c]), *seen[1], *later[1]]
    places = [*seen[0], *later[0], *x]
    low, high = float(np.nanmin(places)), float(np.nanmax(places))
    middle = [cut] if low + 0.25 * (high - low) < cut < high - 0.25 * (high - low) else []
    ticks = [low, *middle, high] if high > low else [low]
    panel = Panel(
        shorten(item, 44),
        f"History of {len(seen[0])} points and forecast of {steps} steps.",
        x=Axis(low, high if high > low else low + 1, ticks, labels=[names(t, high - low) for t in ticks]),
        y=Axis.over([float(v) for v in values]),
        height=220,
    )
    panel.upright(cut)
    shown = [m for m in models if (part["model"] == m).any()]
    for model in shown:
        rows = np.asarray(part["model"] == model)
        order = np.argsort(x[rows], kind="stable")
        at, table = x[rows][order], part[rows].iloc[order]
        hue = SERIES[models.index(model)]
        pairs = [(low, _partner(quantiles, low)) for low in quantiles if low < 0.5]
        pairs = [(low, top) for low, top in pairs if top is not None]
        for lower, upper in pairs if len(shown) == 1 else pairs[:1]:
            opacity = 0.15 if len(shown) == 1 else 0.2
            panel.band(at.tolist(), table[quantiles[lower]].to_list(), table[upper].to_list(), hue, opacity=opacity)
    panel.line(seen[0].tolist(), seen[1].tolist(), "ink", width=1.3)
    for model in shown:
        rows = np.asarray(part["model"] == model)
        order = np.argsort(x[rows], kind="stable")
        column = quantiles.get(0.5, "predictions")
        panel.line(x[rows][order], part[rows].iloc[order][column].to_list(), SERIES[models.index(model)], width=2)
    panel.marks(later[0].tolist(), later[1].tolist(), "ink", "circle", size=1.7)
    return panel.svg()


def _partner(quantiles: dict[float, str], level: float) -> str | None:
    return next((column for other, column in quantiles.items() if abs(other + level - 1) < 1e-9), None)


def _split(past: pd.DataFrame | None, place: np.ndarray, cut: float, *, steps: int) -> tuple[Points, Points]:
    """History before the cut (the last few horizons) and the truth after it, as places and values."""
    if past is None:
        return (np.empty(0), np.empty(0)), (np.empty(0), np.empty(0))
    order = np.argsort(place, kind="stable")
    place, target = place[order], past["target"].to_numpy(dtype=float)[order]
    before, keep = place < cut, max(3 * steps, 48)
    return (place[before][-keep:], target[before][-keep:]), (place[~before], target[~before])


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
