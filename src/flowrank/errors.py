"""The one error that flowrank raises on bad input, its warnings, and what every number is checked by."""

from __future__ import annotations

import math
import operator
import pickle
from typing import Any


class FlowrankError(ValueError):
    """Input that flowrank cannot work with.

    The message names the argument, what was expected, what was found and what to do. It is a
    ``ValueError``, so code that guards chronos-forecasting calls keeps working. It can be copied and pickled, so a
    worker process can hand it back; a value that cannot be pickled is replaced by its text there.

    Examples
    --------
    >>> pickle.loads(pickle.dumps(FlowrankError("ratio", expected="a number", found="half"))).found
    'half'
    >>> raise FlowrankError("ratio", expected="a number in (0, 1]", found=1.5, todo="pass e.g. 0.25")
    Traceback (most recent call last):
    ...
    flowrank.errors.FlowrankError: ratio: expected a number in (0, 1], found 1.5; pass e.g. 0.25
    """

    def __init__(self, argument: str, *, expected: str, found: object, todo: str = "") -> None:
        self.argument = argument
        self.expected = expected
        self.found = found
        self.todo = todo
        super().__init__(f"{argument}: expected {expected}, found {found}" + (f"; {todo}" if todo else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt by calling their class with `args`, which holds the message alone.
        return _rebuilt, (type(self), *self.args), {name: _portable(value) for name, value in self.__dict__.items()}


def _rebuilt(kind: type[FlowrankError], *args: object) -> FlowrankError:
    """An error of that kind before its attributes come, whatever its ``__init__`` asks for."""
    return kind.__new__(kind, *args)


def _portable(value: object) -> object:
    """The value, or its text where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # any class may raise anything here
        return str(value)
    return value


class AccuracyWarning(UserWarning):
    """A compressed model forecasts clearly worse than its parent; the message says by how much and what to do.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("error", AccuracyWarning)  # such a model stops a script
    >>> warnings.simplefilter("default", AccuracyWarning)
    """


class CalibrationWarning(UserWarning):
    """There were too few calibration series, so that synthetic ones were added; the message says how many.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("ignore", CalibrationWarning)  # adding them is fine
    >>> warnings.simplefilter("default", CalibrationWarning)
    """


class SkippedWarning(UserWarning):
    """Series were left out because they could not be used; the message says how many, and why the first.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("ignore", SkippedWarning)  # they are known
    >>> warnings.simplefilter("default", SkippedWarning)
    """


def is_number(
    value: Any, least: float = -math.inf, most: float = math.inf, *, kinds: type | tuple[type, ...] = (int, float)
) -> bool:
    """Whether a value is a number from ``least`` to ``most``; true, false and NaN are none.

    Parameters
    ----------
    value
        Anything.
    least, most
        Both belong to the range.
    kinds
        Types that count as numbers.

    Examples
    --------
    >>> is_number(0.5, 0, 1), is_number(2, 0, 1), is_number(True), is_number("1"), is_number(0.5, kinds=int)
    (True, False, False, False, False)
    """
    return isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most  # type: ignore[operator]


def check_count(value: Any, argument: str, least: int = 1) -> int:
    """Return a whole number ≥ ``least``, or refuse it by its argument's name.

    Examples
    --------
    >>> check_count(24, "horizon")
    24
    """
    try:
        count = least - 1 if type(value).__name__ in ("bool", "bool_", "numpy.bool") else operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise FlowrankError(
            argument,
            expected=f"a whole number ≥ {least}",
            found=repr(value),
            todo=f"pass e.g. {argument}={max(least, 24)}",
        )
    return count
