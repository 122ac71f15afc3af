"""A small drawing board: one panel with two axes, as SVG in the page's light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "ink": "#1d2126",
    "soft": "#656b73",
    "line": "#dcdcd6",
    "quiet": "#a9aeb4",
}
"""Okabe and Ito's palette, safe for colour-blind readers, and four greys. A page may override each as
``--fr-NAME``."""

SERIES = ("blue", "vermillion", "green", "purple", "orange", "sky")
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
DEPTH_STOPS = ("#3F6FD8", "#8259C9", "#C4568F", "#E0703F", "#E69F00")
"""Colours from the first to the last layer; lightness grows steadily, so any colour vision sees the order."""

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, BOTTOM = 46, 12, 36
TOP, TOP_WITH_LABEL = 30, 46


def colour(name: str) -> str:
    """CSS value of a colour: the page's, or the palette's where the page has none."""
    return f"var(--fr-{name},{COLOURS[name]})" if name in COLOURS else name


def depth_colour(share: float) -> str:
    """Colour of a layer, ``share`` of the way from the first (0) to the last (1)."""
    place = min(max(share, 0.0), 1.0) * (len(DEPTH_STOPS) - 1)
    low = min(int(place), len(DEPTH_STOPS) - 2)
    pairs = zip(_rgb(DEPTH_STOPS[low]), _rgb(DEPTH_STOPS[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def _rgb(code: str) -> tuple[int, ...]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


@dataclass(frozen=True)
class Axis:
    """A range of values and where its ticks are.

    Examples
    --------
    >>> Axis.over([0, 97]).ticks
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    >>> Axis.over([0.004, 1.0], log=True).ticks
    [0.001, 0.01, 0.1, 1.0]
    """

    low: float
    high: float
    ticks: list[float]
    log: bool = False
    labels: list[str] | None = None

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool = False, zero: bool = False, count: int = 6) -> Axis:
        """Axis that holds all finite ``values`` between round numbers."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = float(min(finite)), float(max(finite))
        if log:
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            last = max(last, first + 1)
            powers = range(last, first - 1, -max(1, math.ceil((last - first) / 5)))
            return cls(10.0**first, 10.0**last, [10.0**p for p in reversed(powers)], log=True)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
        raw = (high - low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step: float = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        margin = 0.06 * (high - low)
        low, high = max(start * step, low - margin), min(stop * step, high + margin)
        ticks = [round(i * step, 12) for i in range(start, stop + 1)]
        return cls(low, high, [t for t in ticks if low <= t <= high + 1e-9 * step])

    @classmethod
    def integers(cls, values: Iterable[float]) -> Axis:
        """Axis over layer numbers, ticks on whole numbers only."""
        numbers = list(values)
        low, high = min(numbers, default=0), max(numbers, default=1)
        step = max(1, math.ceil((high - low) / 6))
        ticks = [float(v) for v in range(int(low), int(high) + 1, step)]
        return cls(low - 0.5, high + 0.5, ticks)

    def share(self, value: float) -> float:
        """Position of ``value``, 0 at the low end and 1 at the high end."""
        if self.log:
            value = max(value, self.low * 1e-3)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def label(self, index: int) -> str:
        """Text at a tick."""
        if self.labels is not None:
            return self.labels[index]
        value = self.ticks[index]
        if self.log and not 1e-3 <= value < 1e4:
            return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        if abs(value) >= 1e4:
            for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
                if abs(value) >= size:
                    return f"{value / size:g}{unit}" if abs(value) < 1e12 else f"{value:.0e}"
        return f"{value:g}"


@dataclass
class Panel:
    """One small chart.

    Parameters
    ----------
    title
        Heading, drawn above the chart and read out by screen readers.
    description
        What the chart shows, for those who cannot see it.
    x, y
        Axes.
    x_label, y_label
        Their names.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    x_label: str = ""
    y_label: str = ""
    height: int = HEIGHT
    left: int = LEFT
    grid: str = "y"
    _parts: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)

    @property
    def top(self) -> int:
        """Where the chart begins, under the title and the name of the vertical axis."""
        return TOP_WITH_LABEL if self.y_label else TOP

    def px(self, value: float) -> float:
        """Horizontal position of a value."""
        return self.left + self.x.share(value) * (WIDTH - self.left - RIGHT)

    def py(self, value: float) -> float:
        """Vertical position of a value."""
        return self.height - BOTTOM - self.y.share(value) * (self.height - BOTTOM - self.top)

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        hue: str,
        *,
        width: float = 1.8,
        dash: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Join the points; gaps where a value is not finite."""
        path, pen_down = [], False
        for a, b in zip(xs, ys, strict=True):
            if not (math.isfinite(a) and math.isfinite(b)):
                pen_down = False
                continue
            path.append(f"{'L' if pen_down else 'M'}{self.px(a):.1f} {self.py(b):.1f}")
            pen_down = True
        if path:
            extra = f";stroke-dasharray:{dash}" if dash else ""
            extra += f";opacity:{opacity:g}" if opacity < 1 else ""
            self._parts.append(
                f'<path d="{"".join(path)}" style="fill:none;stroke:{colour(hue)};stroke-width:{width:g};'
                f'stroke-linejoin:round{extra}"/>'
            )

    def band(
        self,
        xs: Sequence[float],
        lower: Sequence[float],
        upper: Sequence[float],
        hue: str,
        *,
        opacity: float = 0.18,
    ) -> None:
        """Fill between two curves."""
        rows = [r for r in zip(xs, lower, upper, strict=True) if all(map(math.isfinite, r))]
        if not rows:
            return
        there = [f"{self.px(x):.1f} {self.py(high):.1f}" for x, _, high in rows]
        back = [f"{self.px(x):.1f} {self.py(low):.1f}" for x, low, _ in reversed(rows)]
        self._parts.append(
            f'<path d="M{"L".join([*there, *back])}Z" style="fill:{colour(hue)};opacity:{opacity:g};stroke:none"/>'
        )

    def marks(self, xs: Sequence[float], ys: Sequence[float], hue: str, shape: str, *, size: float = 3.2) -> None:
        """Put a shape on each point."""
        for a, b in zip(xs, ys, strict=True):
            if math.isfinite(a) and math.isfinite(b):
                self._parts.append(mark(shape, self.px(a), self.py(b), hue, size))

    def bar(self, row: float, start: float, stop: float, hue: str, *, thickness: float = 10) -> None:
        """Horizontal bar from ``start`` to ``stop`` at the height ``row``."""
        left, right = sorted((self.px(start), self.px(stop)))
        self._parts.append(
            f'<rect x="{left:.1f}" y="{self.py(row) - thickness / 2:.1f}" width="{right - left:.1f}" '
            f'height="{thickness:g}" rx="1.5" style="fill:{colour(hue)}"/>'
        )

    def level(self, value: float, text: str = "", *, hue: str = "soft", dash: str = "3 3") -> None:
        """Horizontal reference line, named at its right end."""
        y = self.py(value)
        self._parts.append(
            f'<path d="M{self.left} {y:.1f}H{WIDTH - RIGHT}" style="fill:none;stroke:{colour(hue)};'
            f'stroke-width:1;stroke-dasharray:{dash}"/>'
        )
        if text:
            self._names.append(text_at(WIDTH - RIGHT - 2, y - 4, text, anchor="end", hue=hue, halo=True))

    def upright(self, value: float, *, hue: str = "soft", dash: str = "3 3") -> None:
        """Vertical reference line."""
        self._parts.append(
            f'<path d="M{self.px(value):.1f} {self.top}V{self.height - BOTTOM}" style="fill:none;'
            f'stroke:{colour(hue)};stroke-width:1;stroke-dasharray:{dash}"/>'
        )

    def note(self, x: float, y: float, text: str, *, hue: str = "soft") -> None:
        """Text just right of a point of the chart."""
        self._parts.append(text_at(self.px(x) + 5, self.py(y) + 3.5, text, hue=hue))

    def svg(self) -> str:
        """Return the panel as an ``<svg>`` element."""
        frame = [text_at(2, 14, self.title, hue="ink", weight=600, size=13)]
        if self.y_label:
            frame.append(text_at(2, 31, self.y_label))
        if self.x_label:
            frame.append(text_at(WIDTH - RIGHT, self.height - 3, self.x_label, anchor="end"))
        floor = self.height - BOTTOM
        if self.grid == "y":
            for index, tick in enumerate(self.y.ticks):
                y = self.py(tick)
                frame.append(_rule(f"M{self.left} {y:.1f}H{WIDTH - RIGHT}"))
                frame.append(text_at(self.left - 6, y + 3.5, self.y.label(index), anchor="end"))
        else:
            for index, tick in enumerate(self.y.ticks):
                frame.append(text_at(self.left - 8, self.py(tick) + 3.5, self.y.label(index), anchor="end"))
        last = len(self.x.ticks) - 1
        for index, tick in enumerate(self.x.ticks):
            x = self.px(tick)
            if self.grid == "x":
                frame.append(_rule(f"M{x:.1f} {self.top}V{floor}"))
            at_edge = {0: "start", last: "end"}.get(index, "middle") if self.x.labels is not None else "middle"
            frame.append(text_at(x, floor + 14, self.x.label(index), anchor=at_edge))
        if self.grid == "y":
            frame.append(_rule(f"M{self.left} {floor}H{WIDTH - RIGHT}", hue="quiet"))
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img"><title>{escape(self.title)}</title>'
            f"<desc>{escape(self.description)}</desc>{''.join([*frame, *self._parts, *self._names])}</svg>"
        )


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    hue: str = "soft",
    weight: int = 400,
    size: float = 11.5,
    halo: bool = False,
) -> str:
    """Text element; the text is escaped. A halo keeps it readable over curves."""
    around = ";paint-order:stroke;stroke:var(--fr-paper,#fff);stroke-width:4px" if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour(hue)};font:{weight} '
        f'{size:g}px system-ui,sans-serif{around}">{escape(text)}</text>'
    )


def mark(shape: str, x: float, y: float, hue: str, size: float = 3.2) -> str:
    """One point, in a shape of its own so that colour is not the only key."""
    paint = f'style="fill:{colour(hue)};stroke:none"'
    hollow = f'style="fill:var(--fr-paper,#fff);stroke:{colour(hue)};stroke-width:1.7"'
    s = size
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:g}" {paint}/>'
    if shape == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s + 0.3:g}" {hollow}/>'
    outlines = {
        "square": f"M{x - s:.1f} {y - s:.1f}h{2 * s:g}v{2 * s:g}h{-2 * s:g}Z",
        "triangle": f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:g} {2.2 * s:g}h{-2.4 * s:g}Z",
        "diamond": f"M{x:.1f} {y - 1.4 * s:.1f}l{1.4 * s:g} {1.4 * s:g}l{-1.4 * s:g} {1.4 * s:g}"
        f"l{-1.4 * s:g} {-1.4 * s:g}Z",
        "cross": f"M{x - s:.1f} {y - s:.1f}l{2 * s:g} {2 * s:g}m0 {-2 * s:g}l{-2 * s:g} {2 * s:g}",
    }
    if shape == "cross":
        paint = f'style="fill:none;stroke:{colour(hue)};stroke-width:1.7"'
    return f'<path d="{outlines[shape]}" {paint}/>'


def swatch(hue: str, shape: str = "", *, dash: str = "", fill: bool = False, line: bool = True) -> str:
    """Key of a legend: a line with a shape on it, or a filled box."""
    extra = f";stroke-dasharray:{dash}" if dash else ""
    body = (
        f'<rect y="1" width="26" height="10" rx="2" style="fill:{colour(hue)};opacity:.35"/>'
        if fill
        else f'<path d="M0 6H26" style="stroke:{colour(hue)};stroke-width:2{extra}"/>'
        if line
        else ""
    )
    body += mark(shape, 13, 6, hue) if shape else ""
    return f'<svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{body}</svg>'


def depth_scale() -> str:
    """Key of the colours of depth: a strip from the first to the last layer."""
    cells = "".join(
        f'<rect x="{4 * i}" width="4.2" height="10" style="fill:{depth_colour(i / 23)}"/>' for i in range(24)
    )
    return f'<svg viewBox="0 0 96 10" width="96" height="10" aria-hidden="true">{cells}</svg>'


def _rule(path: str, *, hue: str = "line") -> str:
    return f'<path d="{path}" style="fill:none;stroke:{colour(hue)};stroke-width:1"/>'
