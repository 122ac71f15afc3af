"""Axes hold what they are given, and marks differ by more than colour."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from flowrank.figures import SERIES, SHAPES, bound, depth_colour, inline_svg, key, panel
from flowrank.figures.panel import DEPTH, number, power, powers, span, whole_numbers


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("values", [[3.0], [], [0.0], [-2.0], [1e-9, 5.0], [math.nan, 2.0, math.inf], [-3.0, -1.0]])
def test_an_axis_holds_all_finite_values(values, zero):
    ax = panel()
    span(ax.yaxis, values, zero=zero)
    low, high = ax.get_ylim()
    assert low < high
    assert all(low <= value <= high for value in values if math.isfinite(value))
    assert not zero or low <= 0 <= high
    inside = [tick for tick in ax.yaxis.get_majorticklocs() if low <= tick <= high]
    assert 2 <= len(inside) <= 8


def test_layers_have_whole_numbers():
    ax = panel()
    whole_numbers(ax.xaxis, range(24))
    assert list(ax.get_xticks()) == [0, 4, 8, 12, 16, 20]
    whole_numbers(ax.xaxis, [5])
    assert list(ax.get_xticks()) == [5]
    whole_numbers(ax.xaxis, [])
    assert list(ax.get_xticks()) == [0, 1]


def test_log_axes_begin_at_a_power_of_ten():
    ax = panel()
    powers(ax.yaxis, 0.004)
    assert ax.get_ylim() == pytest.approx((0.001, 1.0))
    powers(ax.yaxis, 1e-5)
    assert ax.get_ylim() == pytest.approx((1e-5, 1.0))
    assert len([tick for tick in ax.get_yticks() if 1e-6 < tick < 2]) == 6


def test_ticks_are_short():
    assert [number(value) for value in (0.0, 9999.0, 2e6, 5e4, 3e9, 2e13, 0.1 + 0.2)] == [
        *("0", "9999", "2M", "50k", "3G", "2e+13", "0.3")
    ]
    assert [power(value) for value in (1.0, 0.001, 1e-4, 1e-12, 1e5)] == ["1", "0.001", "10⁻⁴", "10⁻¹²", "10⁵"]


def test_every_series_has_a_mark_of_its_own():
    keys = [inline_svg(key(SERIES[0], shape, line=False)) for shape in SHAPES]
    assert len(set(keys)) == len(SHAPES)


def test_depth_is_lighter_layer_by_layer():
    def lightness(code: str) -> float:
        red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    colours = [depth_colour(depth, (2, 13)) for depth in range(2, 14)]
    assert colours[0] == "#3f6fd8"
    assert colours[-1] == "#e69f00"
    assert lightness(colours[-1]) > 2 * lightness(colours[0])
    assert depth_colour(3, (3, 3)) == colours[0]
    assert DEPTH.N >= 128


def test_a_bound_above_one_and_a_single_value_are_drawn():
    ax = bound(panel(), pd.DataFrame({"k": [1, 2], "sigma": [1.0, 1e-9], "bound": [1.0, 2.0]}))
    measured, limit = ax.lines
    assert measured.get_marker() == "o"  # one point makes no line
    assert limit.get_ydata().tolist() == [1.0, 2.0]
    assert ax.get_ylim()[1] >= 2.0
