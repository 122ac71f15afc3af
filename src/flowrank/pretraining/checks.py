"""Checks of the settings of a training run; a setting that fails one is refused by its name."""

from __future__ import annotations

from typing import Any

from flowrank.errors import FlowrankError, check_count, is_number


def check(owner: Any, name: str, expected: str, sound: bool) -> None:
    """Refuse a setting that is not sound.

    Raises
    ------
    FlowrankError
        With the name and the value of the setting, and what was expected.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> check(SimpleNamespace(seed=7), "seed", "an even number", False)
    Traceback (most recent call last):
    flowrank.errors.FlowrankError: seed: expected an even number, found 7
    """
    if not sound:
        raise FlowrankError(name, expected=expected, found=repr(getattr(owner, name)))


def counts(owner: Any, *names: str, least: int = 1) -> None:
    """Refuse settings that are not whole numbers ≥ ``least``."""
    for name in names:
        check_count(getattr(owner, name), name, least)


def one_of(owner: Any, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices."""
    check(owner, name, f"one of {choices}", getattr(owner, name) in choices)


def shares(owner: Any, *names: str) -> None:
    """Refuse settings that are not numbers between 0 and 1."""
    for name in names:
        check(owner, name, "a number between 0 and 1", is_number(getattr(owner, name), 0, 1))


def positive(owner: Any, *names: str) -> None:
    """Refuse settings that are not numbers above 0."""
    for name in names:
        check(owner, name, "a positive number", is_number(getattr(owner, name), 1e-30))
