"""A figure as an element of a page: small, the same every time, and in the page's light or dark colours."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from flowrank.figures.panel import COLOURS

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d*\.\d+")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",
    "svg.hashsalt": "flowrank",
    "text.parse_math": False,
}
_ROOT = {"font-family": "system-ui,sans-serif", "font-size": "11.5px", "stroke-linejoin": "round"}
_INHERITED = {f"{name}:{value}" for name, value in _ROOT.items()} | {"stroke-dashoffset:0"}
_STYLE = ";".join(f"{name}:{value}" for name, value in _ROOT.items())
_NAMES = {code: f"var(--fr-{name},{code})" for name, code in COLOURS.items()}


def inline_svg(figure: Figure) -> str:
    """Return a figure as one ``<svg>`` element.

    Text stays text, in the page's font. Each colour of `COLOURS` follows the page's variable ``--fr-NAME`` where it has
    one. Nothing is cut at the edges of the axes: their limits must hold what is drawn.

    Parameters
    ----------
    figure
        Its heading (``suptitle``) and its label are what a screen reader reads out. Without a heading it is decoration
        and hidden from screen readers.

    Returns
    -------
    str
        The same for the same figure and version of matplotlib, whatever else the page holds.

    Examples
    --------
    >>> figure = Figure(figsize=(2, 1))
    >>> _ = figure.suptitle("Ranks & more")
    >>> figure.set_label("Nothing yet.")
    >>> inline_svg(figure).partition("<path")[0][-68:]
    ' role="img"><title>Ranks &amp; more</title><desc>Nothing yet.</desc>'
    """
    root = ElementTree.fromstring(_FORBIDDEN.sub("", _drawn(figure)))
    title, description = figure.get_suptitle(), str(figure.get_label())
    mark = hashlib.sha256(repr((ElementTree.tostring(root), title, description)).encode()).hexdigest()[:8]
    shapes = {path.get("id"): path for group in root.iter(f"{_SVG}defs") for path in group.iter(f"{_SVG}path")}
    uses = Counter(str(use.get(_LINK))[1:] for use in root.iter(f"{_SVG}use"))
    shared = [name for name, count in uses.items() if count > 1]
    names = {name: f"f{mark}-{number}" for number, name in enumerate(shared)}
    for use in root.iter(f"{_SVG}use"):
        name = str(use.attrib.pop(_LINK))[1:]
        if name in names:
            use.set("href", f"#{names[name]}")
        else:
            use.tag = f"{_SVG}path"
            use.set("d", str(shapes[name].get("d")))
            use.set("transform", f"translate({use.attrib.pop('x')} {use.attrib.pop('y')})")
    body = "".join(map(_element, root))
    drawn = "".join(f'<path id="{new}" d="{_path(shapes[old].get("d"), 2)}"/>' for old, new in names.items())
    width, height = (round(72 * inches, 2) for inches in figure.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}" style="{_STYLE}" '
    if title:
        head += f'role="img"><title>{_escaped(title)}</title><desc>{_escaped(description)}</desc>'
    else:
        head += f'width="{width:g}" height="{height:g}" aria-hidden="true">'
    return head + (f"<defs>{drawn}</defs>" if drawn else "") + body + "</svg>"


def _drawn(figure: Figure) -> str:
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings(), io.StringIO() as file:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font draws the text, not this one
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()


def _element(element: ElementTree.Element) -> str:
    """Write an element without the groups, definitions and numbers that a reader cannot tell from nothing."""
    tag = element.tag.removeprefix(_SVG)
    if tag in ("metadata", "defs", "style"):
        return ""
    inside = "".join(map(_element, element))
    if tag == "g":
        return inside if element.get("style") is None else f'<g style="{_style(element)}">{inside}</g>'
    parts = []
    for name, value in element.attrib.items():
        if name == "style":
            parts.append(f'style="{_style(element)}"')
        elif name == "transform":
            if not value.startswith("rotate(-0 "):
                parts.append(f'transform="{_short(value, 2)}"')
        elif name == "d":
            parts.append(f'd="{_path(value, 1)}"')
        elif name not in ("id", "clip-path"):
            parts.append(f'{name}="{_short(value, 1)}"')
    text = _escaped((element.text or "").strip("\n"))
    return f"<{' '.join([tag, *parts])}>{text}{inside}</{tag}>" if text or inside else f"<{' '.join([tag, *parts])}/>"


def _style(element: ElementTree.Element) -> str:
    given = [re.sub(r"\s*([:,])\s*", r"\1", entry.strip()) for entry in element.get("style", "").split(";")]
    kept = [entry for entry in given if entry and entry not in _INHERITED and not entry.startswith("font-family:")]
    text = ";".join(_short(entry, 2) for entry in kept)
    return _escaped(re.sub(r"#[0-9a-f]{6}", lambda code: _NAMES.get(code[0], code[0]), text))


def _path(text: str | None, digits: int) -> str:
    return re.sub(r" ?([A-Za-z]) ?", r"\1", _short(text or "", digits))


def _short(text: str, digits: int) -> str:
    """Round the numbers in a text and join its lines."""
    rounded = _NUMBER.sub(lambda found: f"{float(found[0]):.{digits}f}".rstrip("0").rstrip("."), text)
    return " ".join(rounded.split())


def _escaped(text: str) -> str:
    """Escape a text for use between tags and in attributes."""
    text = _FORBIDDEN.sub("", text)
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;")):
        text = text.replace(sign, safe)
    return text
