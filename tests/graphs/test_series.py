"""Batches and blocks of the driver, with a runtime that is a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrank import FlowrankError
from flowrank.graphs import Facts, SeriesGraph
from flowrank.graphs.model import batch_of

LEVELS = (0.1, 0.5, 0.9)


class LastValue:
    """Repeats the last observed value, plus the level; and remembers what it was given."""

    def __init__(self):
        self.shapes = []

    def run(self, inputs):
        (context,) = inputs.values()
        assert context.dtype == np.float32
        assert context.flags.c_contiguous
        self.shapes.append(context.shape)
        last = np.array([one[~np.isnan(one)][-1] if (~np.isnan(one)).any() else 0.0 for one in context])
        return np.broadcast_to(last[:, None, None] + np.array(LEVELS)[:, None], (len(last), 3, 6)).astype(np.float32)


def driver(**changes):
    runtime = LastValue()
    facts = Facts(**{"kind": "series", "patch": 4, "context_length": 40, "horizon": 6, "quantiles": LEVELS} | changes)
    return SeriesGraph(runtime, facts), runtime


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.integers(300, 20_000))
def test_every_series_is_forecast_once_in_batches_of_like_length_that_fit(lengths, budget):
    graph, runtime = driver(numbers=(2, 1))
    context = np.full((len(lengths), max(1, *lengths)), np.nan, dtype=np.float32)
    for row, length in enumerate(lengths):
        context[row, context.shape[1] - length :] = row + 1
    found = graph.block(context, memory_budget=budget)
    expected = np.where(np.array(lengths) > 0, np.arange(1, len(lengths) + 1), 0)
    assert np.allclose(found, (expected[:, None] + np.array(LEVELS))[:, :, None])
    assert sum(rows for rows, _ in runtime.shapes) == len(lengths)
    for rows, time in runtime.shapes:
        assert time % 4 == 0
        assert time <= 40
        assert rows == 1 or rows * graph.facts.bytes_a_series(time // 4 + 1) <= budget


def test_blocks_beyond_the_first_follow_every_quantile():
    graph, _ = driver(numbers=(1, 0))
    found = graph.predict(np.zeros((2, 8)), 13)
    assert found.shape == (2, 3, 13)
    assert np.allclose(found[..., :6], np.array(LEVELS)[:, None])
    sums = np.add.outer(LEVELS, LEVELS).ravel()
    assert np.allclose(found[0, :, 6], np.quantile(sums, LEVELS))


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([], "none"),
        (3, "int"),
        ([np.ones((2, 3, 4))], "one of shape"),
        (np.ones((2, 3, 4)), "an array of 3 dimensions"),
        ([["a", "b"]], "values of type"),
        ([np.array([1 + 2j])], "values of type complex128"),
        ([[1.0], []], r"one of shape \(0,\) at index 1"),
        ([[1.0, [2.0]]], "inhomogeneous"),
    ],
)
def test_what_is_no_series_is_refused(inputs, found):
    with pytest.raises(FlowrankError, match=f"inputs: expected a series of numbers.*{found}"):
        batch_of(inputs)


def test_one_series_may_be_a_list_of_numbers():
    assert batch_of([1, 2, 3]).tolist() == [[1.0, 2.0, 3.0]]
    assert batch_of(np.arange(3)).shape == (1, 3)
