"""A sheet of samples: what the generator makes, at one look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.files import atomic_file, refuse_existing
from flowrank.synthetic.mixture import Mixture

SUFFIXES = (".png", ".svg", ".pdf")
_MOST = 1024
_PANEL = (1.8, 1.15)  # inches
_INK, _SOFT, _LINE = "#1d2126", "#5d636b", "#dcdcd6"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C0629A", "#3FA3DB", "#A87500")  # Okabe and Ito's, dark enough for lines
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "svg.hashsalt": "flowrank",
    "path.simplify": False,
}


def datasheet(
    path: str | Path,
    *,
    count: int = 64,
    length: int = 512,
    seed: int = 0,
    source: Callable[..., Iterable[tuple[str, np.ndarray]]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw samples of a generator as small multiples, by family, and write them as one page.

    Each panel has a vertical scale of its own; the grey base line is as long as a whole series, so short ones
    show. Missing values leave a gap in the curve and a mark on the base line. The same arguments give the same
    file, byte for byte, with the same version of matplotlib.

    Parameters
    ----------
    path
        File to write: ``.png``, ``.svg`` or ``.pdf``.
    count
        Number of samples, 1 to 1024; the panels fill a square.
    length
        Number of values of a whole series.
    seed
        Whole number ≥ 0, handed to ``source``.
    source
        Called as ``source(count, length=length, seed=seed)``; gives names of families and values, shape
        ``(time,)``, NaN = missing. Series shorter than ``length`` end at the right. By default, the mixture that
        models are pretrained on.
    overwrite
        Whether a file at ``path`` may be replaced.

    Returns
    -------
    Path
        Where the sheet is.

    Raises
    ------
    FlowrankError
        If ``path`` exists or has another suffix, an argument is out of range, or the source gives no series, or one
        that is not as described.

    Examples
    --------
    >>> import tempfile
    >>> page = datasheet(Path(tempfile.mkdtemp()) / "samples.svg", count=4, length=64)
    >>> page.name, page.stat().st_size > 1000
    ('samples.svg', True)
    """
    path = refuse_existing(path, overwrite=overwrite, argument="path", kind="file")
    if path.suffix.lower() not in SUFFIXES:
        raise FlowrankError("path", expected=f"a name that ends in {', '.join(SUFFIXES)}", found=repr(path.name))
    count, length = check_count(count, "count"), check_count(length, "length")
    if count > _MOST:
        raise FlowrankError("count", expected=f"at most {_MOST} panels on a page", found=count)
    import matplotlib
    from matplotlib.figure import Figure

    samples = _samples(source or Mixture().series, count, length, seed)
    with matplotlib.rc_context(_STYLE), atomic_file(path, overwrite=overwrite, argument="path") as temporary:
        figure = Figure()
        _draw(figure, samples, length, seed)
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
        figure.savefig(temporary, dpi=200, metadata=undated)
    return path


def _samples(
    source: Callable[..., Iterable[tuple[str, np.ndarray]]], count: int, length: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """Return families and values, shape ``(length,)``, NaN before the start; most frequent families first."""
    samples = []
    for family, given in source(count, length=length, seed=seed):
        values = np.asarray(given, dtype=float)
        if values.ndim != 1 or len(values) > length or np.isinf(values).any():
            raise FlowrankError(
                "source",
                expected=f"series of shape (time,) with at most {length} values, finite or NaN",
                found=f"shape {values.shape} from {family!r}" + (", not finite" if np.isinf(values).any() else ""),
            )
        samples.append((str(family), np.concatenate([np.full(length - len(values), np.nan), values])))
        if len(samples) == count:
            break
    if not samples:
        raise FlowrankError("source", expected="at least one series", found="none")
    frequency = Counter(family for family, _ in samples)
    return sorted(samples, key=lambda sample: (-frequency[sample[0]], sample[0]))


def _draw(figure: Any, samples: list[tuple[str, np.ndarray]], length: int, seed: int) -> None:
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    head, foot, side = 0.65, 0.55, 0.35  # inches
    width, height = columns * _PANEL[0] + 2 * side, rows * _PANEL[1] + head + foot
    width = max(width, 5.5)  # the caption's
    figure.set_size_inches(width, height)
    families = list(dict.fromkeys(family for family, _ in samples))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=side / width,
        right=1 - side / width,
        top=1 - head / height,
        bottom=foot / height,
        wspace=0.16,
        hspace=0.6,
    )
    for axes in grid.flat[len(samples) :]:
        axes.set_visible(False)
    for axes, (family, values) in zip(grid.flat, samples, strict=False):
        _panel(axes, family.replace("_", " "), values, _COLOURS[families.index(family) % len(_COLOURS)])
    figure.text(
        side / width,
        1 - 0.25 / height,
        f"{len(samples)} synthetic series of up to {length} values, seed {seed}",
        fontsize=10,
        color=_INK,
        va="center",
    )
    figure.text(
        side / width,
        0.2 / height,
        "Each panel has its own vertical scale. Grey line: the whole length. Marks on it: missing values.",
        color=_SOFT,
        va="center",
    )


def _panel(axes: Any, title: str, values: np.ndarray, colour: str) -> None:
    time = np.arange(len(values))
    missing = np.isnan(values)
    axes.plot(time, values, color=colour, linewidth=0.55, solid_joinstyle="round")
    padded = np.concatenate([[True], missing, [True]])
    alone = ~missing & padded[:-2] & padded[2:]
    axes.plot(time[alone], values[alone], ".", color=colour, markersize=1.2)
    begun = np.maximum.accumulate(~missing)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing & begun, [False]]).astype(int)))
    at_foot = axes.get_xaxis_transform()
    axes.plot(
        [0, len(values) - 1], [-0.1, -0.1], color=_LINE, linewidth=0.6, transform=at_foot, clip_on=False, zorder=0
    )
    holes = [(start - 0.5, end - start) for start, end in edges.reshape(-1, 2)]
    axes.broken_barh(holes, (-0.13, 0.06), facecolors=_SOFT, linewidth=0, transform=at_foot, clip_on=False)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_title(title, loc="left", color=colour, fontsize=7, y=1, pad=3)
    axes.set_axis_off()
