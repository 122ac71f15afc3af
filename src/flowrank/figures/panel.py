"""The look of all figures: colours, marks, axes, and the frame of a panel of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLOURS = {
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "ink": "#1d2126",
    "soft": "#5d636b",
    "line": "#e4e4de",
    "quiet": "#a3a8ae",
    "paper": "#fcfcfa",
}
"""Okabe and Ito's palette, safe for colour-blind readers, and greys. A page may override each as ``--fr-NAME``."""

SERIES = tuple(COLOURS[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky"))
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
DEPTH = LinearSegmentedColormap.from_list("depth", ["#3F6FD8", "#8259C9", "#C4568F", "#E0703F", "#E69F00"])
"""Colours from the first to the last layer; lightness grows steadily, so any colour vision sees the order."""

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 36
LABEL = 16  # height of the name of the vertical axis, which stands above the axes
TEXT = 11.5
INCH = 72  # units of a panel to the inch

_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "ring": "o", "cross": "x"}
_SCALES = {"triangle": 1.15, "diamond": 0.9, "ring": 1.05}


def mark(shape: str, hue: str, size: float = 6.4) -> dict[str, Any]:
    """Marker properties of a line: a shape of its own, so that colour is not the only key."""
    hollow = shape == "ring"
    return {
        "color": hue,
        "marker": _MARKERS[shape],
        "markersize": size * _SCALES.get(shape, 1.0),
        "markerfacecolor": COLOURS["paper"] if hollow else hue,
        "markeredgewidth": 1.7 if hollow or shape == "cross" else 0.0,
    }


def panel(*, height: float = HEIGHT, left: float = LEFT) -> Axes:
    """Return empty axes in a figure of the width of a panel, to be drawn on and then `framed`."""
    figure = Figure(figsize=(WIDTH / INCH, height / INCH))
    return figure.add_axes((left / WIDTH, BOTTOM / height, (WIDTH - left - RIGHT) / WIDTH, 1 - (BOTTOM + TOP) / height))


def framed(ax: Axes, title: str, description: str, *, grid: str = "y") -> Figure:
    """Finish the axes of a panel: heading, names of the axes, grid and ticks.

    Parameters
    ----------
    ax
        Axes that `panel` made.
    title
        Heading, drawn above the chart and read out by screen readers.
    description
        What the chart shows, for those who cannot see it; kept as the label of the figure.
    grid
        Where grid lines start: at the ticks of "x" or "y".

    Returns
    -------
    Figure

    Examples
    --------
    >>> ax = panel()
    >>> _ = ax.plot([0, 1], [4, 6])
    >>> figure = framed(ax, "Encoder", "Rank over depth.")
    >>> figure.get_suptitle(), figure.get_label()
    ('Encoder', 'Rank over depth.')
    """
    figure: Any = ax.figure
    figure.set_label(description)
    height = figure.get_figheight() * INCH
    figure.patch.set_visible(False)
    ax.patch.set_visible(False)
    figure.suptitle(
        title, x=2 / WIDTH, y=1 - 14 / height, ha="left", va="baseline", size=13, weight="bold", color=COLOURS["ink"]
    )
    if ax.get_ylabel():
        place = ax.get_position()
        ax.set_position((place.x0, place.y0, place.width, place.height - LABEL / height))
    ax.yaxis.label.set(rotation=0, ha="left", va="baseline", size=TEXT, color=COLOURS["soft"])
    ax.yaxis.set_label_coords(2 / WIDTH, 1 - 31 / height, transform=figure.transFigure)
    ax.xaxis.label.set(ha="right", va="baseline", size=TEXT, color=COLOURS["soft"])
    ax.xaxis.set_label_coords(1 - RIGHT / WIDTH, 3 / height, transform=figure.transFigure)
    ax.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=COLOURS["soft"])
    ax.tick_params(axis="y", pad=6 if grid == "y" else 8)
    ax.tick_params(axis="x", pad=6)
    ax.spines[:].set_visible(False)
    if grid == "y":
        ax.spines["bottom"].set(visible=True, color=COLOURS["quiet"], linewidth=1)
    ax.grid(axis="x" if grid == "x" else "y", color=COLOURS["line"], linewidth=1, solid_capstyle="butt")
    ax.set_axisbelow(True)
    return figure


def legible(ax: Axes) -> Axes:
    """Finish axes of a notebook or paper: large text, a legend, no box."""
    ax.xaxis.label.set_fontsize(13)
    ax.yaxis.label.set_fontsize(13)
    ax.tick_params(labelsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=11, frameon=False)
    return ax


def key(hue: str, shape: str = "", *, dash: Any = "-", fill: bool = False, line: bool = True) -> Figure:
    """Key of a legend: a line with a shape on it, or a filled box."""
    figure = _strip(26, 12)
    if fill:
        figure.add_artist(Rectangle((0, 0.1), 1, 0.8, color=hue, alpha=0.35, linewidth=0))
    elif line:
        figure.add_artist(Line2D([0, 1], [0.5, 0.5], color=hue, linestyle=dash, linewidth=2))
    if shape:
        figure.add_artist(Line2D([0.5], [0.5], linestyle="", **mark(shape, hue)))
    return figure


def depth_scale(steps: int = 24) -> Figure:
    """Key of the colours of depth: a strip from the first to the last layer."""
    figure = _strip(96, 10)
    for index in range(steps):
        hue = to_hex(DEPTH(index / (steps - 1)))
        figure.add_artist(Rectangle((index / steps, 0), 1.05 / steps, 1, color=hue, linewidth=0))
    return figure


def _strip(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width / INCH, height / INCH))
    figure.patch.set_visible(False)
    return figure


def number(value: float, _: object = None) -> str:
    """Text at a tick of a linear axis.

    Examples
    --------
    >>> number(0.1 + 0.2), number(2e6), number(-5e4), number(3e9), number(2e13)
    ('0.3', '2M', '-50k', '3G', '2e+13')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if 1e4 <= abs(value) < 1e12 and abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def power(value: float, _: object = None) -> str:
    """Text at a tick of a log axis.

    Examples
    --------
    >>> power(0.001), power(1e-9), power(1e4)
    ('0.001', '10⁻⁹', '10⁴')
    """
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def span(axis: Any, values: Iterable[float], *, zero: bool = False, ticks: int = 6) -> None:
    """Let an axis hold all finite ``values`` with a margin, ticks at round numbers; from 0 on if ``zero``."""
    finite = [float(v) for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    margin = 0.06 * (high - low)
    _limit(axis, low if zero and low == 0 else low - margin, high if zero and high == 0 else high + margin)
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(number))


def whole_numbers(axis: Any, values: Iterable[float]) -> None:
    """Let an axis hold layer numbers, ticks on whole numbers only."""
    numbers = list(values)
    low, high = min(numbers, default=0), max(numbers, default=1)
    step = max(1, math.ceil((high - low) / 6))
    _limit(axis, low - 0.5, high + 0.5)
    axis.set_major_locator(FixedLocator(range(int(low), int(high) + 1, step)))


def powers(axis: Any, low: float, high: float = 1.0) -> None:
    """Make an axis logarithmic, from the power of ten at or below ``low`` to ``high``."""
    _limit(axis, 10.0 ** math.floor(math.log10(low) + 1e-9), high, scale="log")
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(power))


def _limit(axis: Any, low: float, high: float, scale: str = "linear") -> None:
    if axis.axis_name == "x":
        axis.axes.set(xscale=scale, xlim=(low, high))
    else:
        axis.axes.set(yscale=scale, ylim=(low, high))


def level(ax: Axes, value: float, text: str = "", *, hue: str = COLOURS["soft"], dash: Any = (0, (3, 3))) -> None:
    """Draw a horizontal reference line, named at its right end."""
    ax.axhline(value, color=hue, linewidth=1, linestyle=dash)
    if text:
        ax.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3.5),
            textcoords="offset points",
            ha="right",
            va="baseline",
            size=TEXT,
            color=hue,
            zorder=5,
            bbox={"facecolor": COLOURS["paper"], "linewidth": 0, "pad": 0.5, "alpha": 0.8},
        )


def note(ax: Axes, x: float, y: float, text: str, hue: str = COLOURS["soft"], *, above: bool = False) -> None:
    """Write text just right of a point of the chart, or above it."""
    place: dict[str, Any] = {"xytext": (0, 7), "ha": "center"} if above else {"xytext": (5, 0), "va": "center"}
    ax.annotate(text, (x, y), textcoords="offset points", size=TEXT, color=hue, **place)
