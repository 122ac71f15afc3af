"""Tasks are cut at one time, series by series as a single series would be."""

from __future__ import annotations

import numpy as np
import pytest

from flowrank.pretraining.cutting import cut, cut_task
from flowrank.synthetic.tasks import Task, synthetic_tasks

NAN = float("nan")


def task(*rows: list[float], known: tuple[int, ...] = ()) -> Task:
    flags = np.zeros(len(rows), dtype=bool)
    flags[list(known)] = True
    return Task(np.array(rows, dtype=float), flags)


def test_a_single_series_is_cut_as_ever():
    """Against `cut`, which has a test of its own."""
    found = 0
    for one in synthetic_tasks(300, length=80, shares={"single": 1.0}):
        alone, windows = cut(one.values[0], 64, 16), cut_task(one, 64, 16)
        assert (alone is None) == (windows is None)
        if alone is not None:
            found += 1
            np.testing.assert_allclose(windows.context[0], alone[0], rtol=1e-5)
            np.testing.assert_allclose(windows.target[0], alone[1], rtol=1e-5)
    assert found > 250


@pytest.mark.parametrize("most_missing", [0.0, 0.5, 1.0])
def test_each_series_is_cut_where_the_longest_is(most_missing):
    """Whole series: as each would be alone, where it can be learnt at all."""
    for one in synthetic_tasks(300, length=80, shares={"several": 1.0, "factors": 1.0}):
        if np.isnan(one.values[~one.known]).all(axis=0)[0]:
            continue  # begins later
        windows = cut_task(one, 60, 20, most_missing=most_missing)
        if windows is None:
            continue
        kept = one.known | ~np.isnan(one.values[:, :60]).all(axis=1)
        assert len(windows.context) == kept.sum()
        for values, known, context, target in zip(one.values[kept], one.known[kept], *windows[:2], strict=True):
            past = values[:60]
            scale = np.nanmean(np.abs(past)) or 1.0
            np.testing.assert_allclose(context, past / scale, rtol=1e-5, atol=1e-6)
            expected = values[60:] / scale
            if not known:
                far = np.abs(values[60:] - np.nanmean(past)) > 15 * np.nanstd(past)
                since = past[int(np.argmin(np.isnan(past))) :]
                seen = since[~np.isnan(since)]
                enough = len(seen) >= max(3, (1 - most_missing) * len(since)) and seen.min() < seen.max()
                expected = np.where(far | (not enough), NAN, expected)
            np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)


def test_a_short_task_gives_its_last_third():
    one = task([NAN] * 8 + list(range(1, 13)), [NAN] * 14 + [3, 1, 2, 4, 5, 6], list(range(20)), known=(2,))
    windows = cut_task(one, 16, 10)
    np.testing.assert_allclose(windows.context[0, 8:], np.arange(1, 9) / 4.5, rtol=1e-6)
    assert np.isnan(windows.context[:2, :8]).all()
    np.testing.assert_allclose(windows.target[0, :4], np.arange(9, 13) / 4.5, rtol=1e-6)
    assert np.isnan(windows.target[:, 4:]).all()
    assert np.isnan(windows.target[1]).all()  # two values of its past are too few
    np.testing.assert_allclose(windows.target[2, :4] / windows.context[2, -1], np.arange(16, 20) / 15, rtol=1e-6)


def test_what_teaches_nothing():
    rising = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert cut_task(task([5.0] * 6), 4, 2) is None
    assert cut_task(task([NAN] * 6, rising, known=(1,)), 4, 2) is None
    assert cut_task(task([5.0] * 6, rising, known=(1,)), 4, 2) is None
    windows = cut_task(task([5.0] * 6, [0.0, 0, 0, 0, 1, 1], rising, known=(1,)), 4, 2)
    assert np.isnan(windows.target[0]).all()  # never changes: read, not learnt
    np.testing.assert_allclose(windows.context[0], 1)
    np.testing.assert_allclose(windows.context[1], 0)
    np.testing.assert_allclose(windows.target[1], 1)  # nothing to divide by
    np.testing.assert_allclose(windows.target[2], [2, 2.4], rtol=1e-6)
    assert windows.known.tolist() == [False, True, False]


def test_a_covariate_is_known_however_far_it_moves():
    one = task([1.0, 2, 1, 2, 1, 2], [1.0, 1.1, 1, 1.1, 900, 901], known=(1,))
    windows = cut_task(one, 4, 2)
    assert not np.isnan(windows.target).any()


def test_numbers_and_first_series():
    windows = cut_task(task([1.0, 2, 1, 2, 1, 2], [2.0, 1, 2, 1, 2, 1]), 4, 2)
    assert windows.numbered(7).group.tolist() == [7, 7]
    assert len(windows.first(1).context) == 1
    np.testing.assert_array_equal(windows.first(5).target, windows.target)
