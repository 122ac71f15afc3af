"""A figure on a page: what it says, in whose colours, and that nothing else comes with it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from flowrank.figures import COLOURS, framed, inline_svg, key, panel
from flowrank.figures.panel import BOTTOM, HEIGHT, LABEL, LEFT, RIGHT, TOP, WIDTH, note

VALUES = [0.0, 3.0, 1.0, 4.0]


def drawn(title: str = "Ranks", *, mark: str = "o", text: str = ""):
    ax = panel()
    ax.plot(VALUES, color=COLOURS["blue"], marker=mark)
    ax.set(xlim=(0, 3), ylim=(0, 5), xlabel="layer", ylabel="rank")
    note(ax, 1, 3, text)
    return framed(ax, title, "Rank over depth.")


def test_the_curve_is_where_its_values_are():
    root = ElementTree.fromstring(inline_svg(drawn()).replace(" href=", " link="))
    (path,) = [e for e in root.iter("path") if "fill:none;stroke:var(--fr-blue" in e.get("style", "")]
    found = np.array(re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.get("d")), dtype=float)
    x = LEFT + (WIDTH - LEFT - RIGHT) * np.arange(4) / 3
    y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP - LABEL) * np.array(VALUES) / 5
    np.testing.assert_allclose(found, np.stack([x, y], axis=1), atol=0.051)
    marks = [(float(use.get("x")), float(use.get("y"))) for use in root.iter("use")]
    np.testing.assert_allclose(marks, np.stack([x, y], axis=1), atol=0.051)


def test_it_has_a_title_a_description_and_a_view():
    root = ElementTree.fromstring(inline_svg(drawn('<b> & "c"')))
    assert (root.get("role"), root.get("viewBox")) == ("img", f"0 0 {WIDTH} {HEIGHT}")
    assert [(child.tag, child.text) for child in list(root)[:2]] == [
        ("title", '<b> & "c"'),
        ("desc", "Rank over depth."),
    ]


def test_a_key_is_hidden_from_screen_readers():
    root = ElementTree.fromstring(inline_svg(key(COLOURS["blue"], "ring")))
    assert root.get("aria-hidden") == "true"
    assert "role" not in root.attrib
    assert (root.get("width"), root.get("height")) == ("26", "12")


@pytest.mark.parametrize("text", ["a_b^c $x$ \\alpha", "<script>x</script> & ' \"", "日本", "a\x00b\x1fc", "{x} %s"])
def test_text_stays_as_it_is(text, recwarn):
    figure = inline_svg(drawn(text, text=text))
    shown = [element.text for element in ElementTree.fromstring(figure).iter("text")]
    assert shown.count(re.sub("[\x00-\x1f]", "", text)) == 2
    assert {"layer", "rank", "0", "5"} <= set(shown)
    assert "<script" not in figure
    assert not recwarn.list


def test_colours_are_the_page_s():
    figure = inline_svg(drawn())
    assert f"var(--fr-blue,{COLOURS['blue']})" in figure
    assert f"var(--fr-ink,{COLOURS['ink']})" in figure
    assert not re.search(r"(?<![,\"])#[0-9a-f]{6}", figure)  # no colour that a dark page could not change


def test_figures_of_a_page_share_no_names():
    names = [re.findall(r'id="([^"]+)"', inline_svg(drawn(title, mark=mark))) for title, mark in ("as", "bo", "cs")]
    assert all(names)
    assert len({name for one in names for name in one}) == sum(map(len, names))


def test_it_is_the_same_every_time_and_leaves_settings_alone():
    before = dict(mpl.rcParams)
    first, second = inline_svg(drawn()), inline_svg(drawn())
    figure = drawn()
    assert first == second == inline_svg(figure) == inline_svg(figure)
    assert dict(mpl.rcParams) == before


def test_nothing_is_loaded_or_dated():
    figure = inline_svg(drawn())
    assert not re.search(r"url\(|https?:|<style|metadata|Matplotlib|20\d\d-", figure)
    assert len(figure) < 6000
