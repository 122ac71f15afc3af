"""Accuracy, costs, neurons and forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator

from flowrank.figures.panel import BOTTOM, COLOURS, SERIES, TOP, mark, note, span

DOT_ROW, BAR_ROW, NEURON_ROW = 21, 25, 24
"""Heights of a row."""


def row_height(rows: int, each: int) -> int:
    """Height of a panel with so many rows."""
    return TOP + BOTTOM + each * rows


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.yaxis.set_major_locator(FixedLocator(range(len(labels))))
    ax.yaxis.set_major_formatter(FixedFormatter(labels))


def _upright(ax: Axes, value: float) -> None:
    ax.axvline(value, color=COLOURS["ink"], linewidth=1)


def dots(ax: Axes, ratios: pd.DataFrame, looks: Mapping[str, tuple[str, str]], labels: Sequence[str]) -> Axes:
    """Draw scores relative to a reference, one row a dataset and one shape a model, with a line at 1.

    Parameters
    ----------
    ax
        Where to draw.
    ratios
        One row a dataset, one column a model; what is not finite is left out.
    looks
        Shape and colour of each model; the first is drawn on top.
    labels
        Names of the datasets.

    Examples
    --------
    >>> from flowrank.figures import panel
    >>> ax = dots(panel(), pd.DataFrame({"m": [0.5, 2.0]}), {"m": ("circle", "#0072b2")}, ["a", "b"])
    >>> ax.lines[-1].get_xydata().tolist()
    [[0.5, 0.0], [2.0, 1.0]]
    """
    finite = ratios.replace([np.inf, -np.inf], np.nan)
    places = np.arange(len(finite), dtype=float)
    _upright(ax, 1.0)
    ends = finite.agg(["min", "max"], axis=1)[finite.notna().sum(axis=1).to_numpy() > 1]
    ax.hlines(places[finite.notna().sum(axis=1).to_numpy() > 1], ends["min"], ends["max"], color=COLOURS["quiet"])
    for model in reversed(list(looks)):
        ax.plot(finite[model].to_numpy(), places, linestyle="", label=model, **mark(*looks[model], size=8))
    _rows(ax, labels)
    span(ax.xaxis, [*finite.to_numpy().ravel(), 1.0], zero=True)
    ax.set_xlabel("← better")
    return ax


def bars(ax: Axes, ratios: Sequence[float], labels: Sequence[str], *, among: Sequence[float] = ()) -> Axes:
    """Draw costs relative to a reference as bars, with a line at 1; those above it in another colour.

    Parameters
    ----------
    ax
        Where to draw.
    ratios
        Child over parent, or what else is compared.
    labels
        What was counted.
    among
        Further ratios that the axis must hold, for axes that compare with others.
    """
    hues = [SERIES[0] if ratio <= 1 else SERIES[1] for ratio in ratios]
    ax.barh(range(len(ratios)), ratios, height=10 / BAR_ROW, color=hues)
    _upright(ax, 1.0)
    _rows(ax, labels)
    span(ax.xaxis, [1.15, *(1.15 * ratio for ratio in (*ratios, *among))], zero=True)
    for place, ratio in enumerate(ratios):
        apart = 1.0 if 0.8 < ratio < 1.0 else ratio  # not across the line at 1
        note(ax, apart, place, f"{ratio:.2f}", COLOURS["ink"])
    return ax


def neurons(ax: Axes, full: Sequence[int], kept: Sequence[int], labels: Sequence[str], *, widest: float) -> Axes:
    """Draw hidden neurons before (a thin bar) and after (a bar), one row a layer.

    Parameters
    ----------
    ax
        Where to draw.
    full, kept
        Neurons before and after.
    labels
        Names of the layers.
    widest
        Largest number that the axis must hold, for axes that compare with others.
    """
    places = range(len(full))
    ax.barh(places, full, height=3 / NEURON_ROW, color=COLOURS["quiet"], label="before")
    ax.barh(places, kept, height=10 / NEURON_ROW, color=SERIES[0], label="after")
    _rows(ax, labels)
    span(ax.xaxis, [1.12 * widest], zero=True, ticks=4)
    for place, before, after in zip(places, full, kept, strict=True):
        note(ax, before, place, f"{after:,}", COLOURS["ink"])
    return ax


def fan(
    ax: Axes,
    history: pd.DataFrame,
    truth: pd.DataFrame,
    forecasts: Mapping[str, pd.DataFrame],
    hues: Mapping[str, str],
    *,
    cut: float,
) -> Axes:
    """Draw history, the quantile fans and medians of forecasts, and the truth where it is known.

    Parameters
    ----------
    ax
        Where to draw.
    history, truth
        place and value, before and after the cut.
    forecasts
        Of each model: place and value (the line), and one column a quantile whose name is a number. All pairs of
        quantiles are shaded if there is one model, only the widest if there are several.
    hues
        Colour of each model.
    cut
        Place at which forecasts start.
    """
    ax.axvline(cut, color=COLOURS["soft"], linewidth=1, linestyle=(0, (3, 3)))
    single = len(forecasts) == 1
    for model, table in forecasts.items():
        pairs = _pairs(table)
        for lower, upper in pairs if single else pairs[:1]:
            band = (table["place"], table[lower], table[upper])
            ax.fill_between(*band, color=hues[model], alpha=0.15 if single else 0.2, linewidth=0)
    ax.plot(history["place"].to_numpy(), history["value"].to_numpy(), color=COLOURS["ink"], linewidth=1.3)
    for model, table in forecasts.items():
        ax.plot(table["place"].to_numpy(), table["value"].to_numpy(), color=hues[model], linewidth=2, label=model)
    dotted = mark("circle", COLOURS["ink"], size=3.4)
    ax.plot(truth["place"].to_numpy(), truth["value"].to_numpy(), linestyle="", label="what happened", **dotted)
    frames = [history[["value"]], truth[["value"]], *(table.drop(columns="place") for table in forecasts.values())]
    span(ax.yaxis, np.concatenate([frame.to_numpy(dtype=float).ravel() for frame in frames]))
    return ax


def _pairs(table: pd.DataFrame) -> list[tuple[float, float]]:
    """Columns of quantiles that are as far from the median below as above, widest first."""
    levels = sorted(float(name) for name in table.columns if not isinstance(name, str))
    pairs = []
    for low in [level for level in levels if level < 0.5]:
        high = [level for level in levels if abs(low + level - 1) < 1e-9]
        pairs += [(low, high[0])] if high else []
    return pairs
