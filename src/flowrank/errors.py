"""The one error that flowrank raises on bad input, its warnings, and the check that every count goes through."""

from __future__ import annotations

import operator
from typing import Any


class FlowrankError(ValueError):
    """Input that flowrank cannot work with.

    The message names the argument, what was expected, what was found and what to do. It is a
    ``ValueError``, so code that guards chronos-forecasting calls keeps working.

    Examples
    --------
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
