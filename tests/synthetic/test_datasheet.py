"""The sheet of samples: all of them, by family, with what is missing marked as missing."""

from __future__ import annotations

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from flowrank.errors import FlowrankError
from flowrank.synthetic import datasheet as module
from flowrank.synthetic.datasheet import datasheet


def source(count: int, *, length: int, seed: int):
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield ("rare_kind" if i % 3 == 0 else "common"), rng.standard_normal(length).cumsum()


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_formats_and_same_bytes(tmp_path, suffix, magic):
    one, other = (datasheet(tmp_path / f"{name}{suffix}", count=5, length=40, source=source) for name in "ab")
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == other.read_bytes()
    assert one != other
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [one.name, other.name]
    changed = datasheet(one, count=5, length=40, source=source, seed=1, overwrite=True)
    assert changed.read_bytes() != other.read_bytes()


def titles(path) -> list[str]:
    """Texts of an SVG, which matplotlib leaves as comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def test_every_sample_has_a_panel_named_after_its_family(tmp_path):
    texts = titles(datasheet(tmp_path / "a.svg", count=10, length=40, source=source, seed=7))
    assert [text for text in texts if text in ("common", "rare kind")] == ["common"] * 6 + ["rare kind"] * 4
    assert "10 synthetic series of up to 40 values, seed 7" in texts


def test_mixture_by_default(tmp_path):
    texts = titles(datasheet(tmp_path / "a.svg", length=64))
    panels = [text for text in texts if len(text.split()) < 3]
    assert len(panels) == 64
    assert {"structural", "kernel synth"} <= set(panels)


def panel(values: list[float], length: int):
    [(_, padded)] = module._samples(lambda *_, **__: [("kind", np.array(values))], 1, length, 0)
    axes = Figure().subplots()
    module._panel(axes, "kind", padded, "#000000")
    [marks] = axes.collections
    ends = [path.get_extents().intervalx for path in marks.get_paths()]
    return axes, [(first + 0.5, last - 0.5) for first, last in ends]


def test_missing_values_are_gaps_with_marks():
    nan = np.nan
    axes, marks = panel([1, 2, nan, nan, 5, nan, 3, 4, nan], 9)
    assert marks == [(2, 3), (5, 5), (8, 8)]
    curve, points = axes.lines[:2]
    np.testing.assert_array_equal(curve.get_ydata(), [1, 2, nan, nan, 5, nan, 3, 4, nan])
    np.testing.assert_array_equal(points.get_xdata(), [4])  # a line would not show it


def test_short_series_end_at_the_right_without_marks():
    axes, marks = panel([1, np.nan, 3], 8)
    assert marks == [(6, 6)]
    assert np.isnan(axes.lines[0].get_ydata()[:5]).all()
    assert axes.lines[0].get_ydata()[[5, 7]].tolist() == [1, 3]
    assert axes.get_xlim() == (-0.5, 7.5)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_panels_fill_the_page_without_overlap(count):
    with matplotlib.rc_context(module._STYLE):
        figure = Figure()
        module._draw(figure, list(source(count, length=20, seed=0)), 20, 0)
        figure.canvas.draw()
        shown = [axes for axes in figure.axes if axes.get_visible()]
        boxes = [axes.get_tightbbox() for axes in shown] + [text.get_window_extent() for text in figure.texts]
    assert len(shown) == count
    for i, one in enumerate(boxes):
        assert figure.bbox.x0 <= one.x0 < one.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= one.y0 < one.y1 <= figure.bbox.y1
        assert not any(one.overlaps(other) for other in boxes[:i])


def test_nothing_is_replaced_unasked(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(FlowrankError, match="which exists"):
        datasheet(path, count=1, length=30)
    assert path.read_text() == "mine"


def test_bad_arguments(tmp_path):
    path = tmp_path / "a.png"
    for arguments, words in (
        ({"path": tmp_path / "a.gif"}, "path: expected a name that ends in .png, .svg, .pdf"),
        ({"count": 0}, "count"),
        ({"count": 1025}, "at most 1024 panels"),
        ({"length": 0}, "length"),
        ({"source": lambda *_, **__: []}, "source: expected at least one series"),
        ({"source": lambda *_, **__: [("kind", np.ones(65))]}, r"at most 64 values.*shape \(65,\) from 'kind'"),
        ({"source": lambda *_, **__: [("kind", np.ones((2, 5)))]}, "source"),
        ({"source": lambda *_, **__: [("kind", np.array([1.0, np.inf]))]}, "not finite"),
    ):
        with pytest.raises(FlowrankError, match=words):
            datasheet(**{"path": path, "count": 4, "length": 64, **arguments})
    assert not list(tmp_path.iterdir())


def test_imported_without_matplotlib():
    code = "import sys, flowrank.synthetic.datasheet; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
