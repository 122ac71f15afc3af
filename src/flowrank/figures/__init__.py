"""Every figure of the library, drawn with matplotlib: tidy frames in, axes and figures out, and a figure as inline SVG.

Functions that take ``ax`` draw on any axes, a notebook's too. `panel` makes axes in the look of the report and `framed`
finishes them; `inline_svg` turns the figure into an element of a page.
"""

from flowrank.figures.depth import bound, depth_colour, kept, lines, spectra, stream
from flowrank.figures.inline import inline_svg
from flowrank.figures.names import MOVERS, NAMES
from flowrank.figures.outcomes import bars, dots, fan, neurons
from flowrank.figures.panel import COLOURS, SERIES, SHAPES, depth_scale, framed, key, legible, panel
from flowrank.figures.positions import planes
from flowrank.figures.search import course, tradeoff

__all__ = [
    "COLOURS",
    "MOVERS",
    "NAMES",
    "SERIES",
    "SHAPES",
    "bars",
    "bound",
    "course",
    "depth_colour",
    "depth_scale",
    "dots",
    "fan",
    "framed",
    "inline_svg",
    "kept",
    "key",
    "legible",
    "lines",
    "neurons",
    "panel",
    "planes",
    "spectra",
    "stream",
    "tradeoff",
]
