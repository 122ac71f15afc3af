"""The error says the same after a copy, a pickle and a way through another process."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from numbers import Real

import numpy as np
import pytest

from flowrank.errors import FlowrankError, check_count, is_number

PATIENCE = 120  # seconds; an error that never arrives would wait for ever


class Narrower(FlowrankError):
    """A kind of its own, with a constructor of its own."""

    def __init__(self, series: str) -> None:
        super().__init__("series", expected="a known one", found=series, todo="look at the list")
        self.series = series


class Unreadable:
    """Can be written but not read back."""

    def __init__(self, *, value: int = 0) -> None:
        self.value = value

    def __reduce__(self):
        return Unreadable, (self.value,)  # a positional argument, which __init__ refuses

    def __str__(self) -> str:
        return "an unreadable value"


def through_pickle(protocol: int):
    return lambda error: pickle.loads(pickle.dumps(error, protocol=protocol))


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {protocol}": through_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("found", [1.5, "half", None, (1, 2), {"a": [1]}, np.float32(2.0)], ids=repr)
@pytest.mark.parametrize("todo", ["", "pass e.g. 0.25"])
def test_every_part_arrives(way, found, todo):
    error = FlowrankError("ratio", expected="a number in (0, 1]", found=found, todo=todo)
    error.__notes__ = ["while reading"]
    other = way(error)
    assert type(other) is FlowrankError
    assert other is not error
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert (other.argument, other.expected, other.found, other.todo) == ("ratio", "a number in (0, 1]", found, todo)


def test_a_subclass_with_a_constructor_of_its_own(way):
    other = way(Narrower("A"))
    assert type(other) is Narrower
    assert str(other) == "series: expected a known one, found A; look at the list"
    assert (other.series, other.argument, other.found) == ("A", "series", "A")


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), (n for n in ()), lambda: 0, Unreadable()],
    ids=["lock", "generator", "lambda", "unreadable"],
)
def test_a_value_that_cannot_be_pickled_becomes_its_text(way, value):
    error = FlowrankError("series", expected="a list", found=value)
    other = way(error)
    assert other.found == str(value)
    assert str(other) == str(error)
    assert error.found is value  # the error itself keeps it


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_error_in_a_worker_of_a_pool_arrives(start):
    with multiprocessing.get_context(start).Pool(1) as pool:
        waiting = pool.apply_async(check_count, (0, "horizon"))
        with pytest.raises(FlowrankError, match=r"horizon: expected a whole number ≥ 1, found 0; pass") as caught:
            waiting.get(PATIENCE)
    assert (caught.value.argument, caught.value.found) == ("horizon", "0")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_error_in_a_worker_of_an_executor_arrives(start):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as executor:
        waiting = executor.submit(check_count, 2.5, "batch_size")
        with pytest.raises(FlowrankError, match=r"batch_size: .*found 2\.5"):
            waiting.result(PATIENCE)
        assert executor.submit(check_count, 3, "batch_size").result(PATIENCE) == 3  # and the pool still works


@pytest.mark.parametrize("value", [True, False, None, "1", [1], 1j, math.nan, -0.1, 1.1, math.inf])
def test_what_is_no_number_of_a_range(value):
    assert not is_number(value, 0, 1)


def test_what_is_a_number():
    assert is_number(0, 0, 1)
    assert is_number(1.0, 0, 1)
    assert is_number(-math.inf)
    assert is_number(np.float32(0.5), 0, 1, kinds=Real)  # which no int or float is
    assert not is_number(np.float32(0.5), 0, 1)
    assert not is_number(1.0, kinds=int)
