"""How many workers: what is timed, what is computed, what is refused."""

from __future__ import annotations

import math

import pytest

import flowrank
from flowrank import FlowrankError
from flowrank.cost import Machine, Workload
from flowrank.distributed import sizing
from flowrank.family.costs import cost
from tests.distributed.conftest import MODEL

GIVEN = {"length": 36, "horizon": 4, "series": 100_000, "seconds": 1.0}


def test_workers_for_many_series(monkeypatch):
    monkeypatch.setattr(Machine, "measure", lambda *_: Machine(1e9, 1e30))  # whatever is moved costs nothing
    found = sizing(MODEL, **GIVEN)
    assert found.workers == math.ceil(100_000 / found.series_per_second)
    operations = cost(flowrank.load(MODEL), Workload(64, 36, 4)).flops
    assert found.most_per_second == pytest.approx(64 * 1e9 / operations)
    assert 50 * 2**20 < found.memory_bytes < 64 * 2**30


def test_groups_with_values_known_ahead():
    found = sizing("flow-2-mini", **GIVEN, target=["sold", "returned"], future=["price"])
    assert 1 < found.series_per_second < sizing("flow-2-mini", **GIVEN).most_per_second


@pytest.mark.parametrize(("argument", "value"), [("length", 0), ("series", 0), ("seconds", 0.0), ("horizon", -1)])
def test_numbers_that_mean_nothing(argument, value):
    with pytest.raises(FlowrankError, match=argument):
        sizing(MODEL, **{**GIVEN, argument: value})
