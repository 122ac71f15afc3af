"""The flags of ``flowrank pretrain``: one for every field of a recipe, told in the words of its docstring."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.pretraining import Recipe, Widths
from flowrank.pretraining.schedule import schedule_from, schedule_to

PANELS = {  # a panel holds the fields from this one up to the next that is named here
    "family": "Model",
    "schedule": "Ranks",
    "initial_model": "Model",
    "training_data_paths": "Data",
    "max_steps": "Optimisation",
    "precision": "Run",
}
SCHEDULES: dict[str, Any] = {"flow": FlowOfRanks, "uniform": Uniform, "widths": Widths, "none": None}
SCHEDULE_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("d0", "alpha", "ratio", "rounding"), FlowOfRanks),
    "widths": Widths,
}
_SHORT = 60  # characters of a description that may be told twice


def recipe_flags() -> list[inspect.Parameter]:
    """Keyword parameters, annotated for typer, that stand for a recipe; each is None where it was not given.

    Examples
    --------
    >>> [flag.name for flag in recipe_flags()][:3]
    ['family', 'd_model', 'd_kv']
    """
    told, kinds = described(Recipe), get_type_hints(Recipe)
    flags, panel = [], ""
    for one in fields(Recipe):
        panel = PANELS.get(one.name, panel)
        if one.name == "schedule":
            flags.append(_flag("schedule", Literal[tuple(SCHEDULES)], told["schedule"], panel))
            for name, owner in SCHEDULE_OPTIONS.items():
                flags.append(_flag(name, get_type_hints(owner)[name], described(owner)[name], panel))
        else:
            flags.append(_flag(one.name, kinds[one.name], told[one.name], panel, default=_shown(one)))
    return flags


def recipe_settings(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a recipe out of the flags that were given.

    Parameters
    ----------
    given
        Values of the flags by name; None: not given.
    before
        What a config says: the options of a schedule that are given change its schedule.

    Raises
    ------
    FlowrankError
        If a list is not one, or a schedule has no such option.

    Examples
    --------
    >>> recipe_settings({"lengths": "64,128", "schedule": "uniform", "ratio": 0.25}, {})
    {'lengths': [64, 128], 'schedule': {'name': 'Uniform', 'ratio': 0.25}}
    """
    kinds = get_type_hints(Recipe) | {name: get_type_hints(owner)[name] for name, owner in SCHEDULE_OPTIONS.items()}
    kinds["schedule"] = Literal[tuple(SCHEDULES)]
    typed = {name: _read(name, kinds[name], value) for name, value in given.items() if value is not None}
    options = {name: typed.pop(name) for name in SCHEDULE_OPTIONS if name in typed}
    if options or "schedule" in typed:
        typed["schedule"] = _schedule(typed.get("schedule"), options, before.get("schedule"))
    return typed


def described(documented: type) -> dict[str, str]:
    """Say what each attribute or parameter of a class is, after its docstring.

    Where one entry describes several names, each gets its own part if there are as many parts as names; else the
    first gets it all, and the others a word where to look; a short one is told to all.

    Examples
    --------
    >>> described(Recipe)["num_heads"]
    'Heads.'
    """
    text = inspect.getdoc(documented) or ""
    section = re.search(r"^(?:Attributes|Parameters)\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^(\S[^\n]*)\n((?:^[ ]+[^\n]*\n?)+)", section.group(1) if section else "", re.MULTILINE)
    told = {}
    for names, description in entries:
        plain = " ".join(re.sub(r"`+", "", description).split())
        for name, part in zip(names.split(", "), _parts(names.split(", "), plain), strict=True):
            told[name] = part
    return told


def _parts(names: list[str], description: str) -> list[str]:
    """Deal one description out to the names that share it."""
    if len(names) == 1:
        return [description]
    scope, _, rest = description.rpartition(": ") if re.match(r"\w+: ", description) else ("", "", description)
    scope += ": " if scope else ""
    for separator in (r"; ", r", (?:and )?(?![^()]*\))"):
        parts = re.split(separator, rest.rstrip("."))
        if len(parts) == len(names) and ". " not in rest:
            return [f"{scope or part[0].upper()}{part if scope else part[1:]}." for part in parts]
    if len(description) <= _SHORT:
        return [description] * len(names)
    return [description, *(f"See {_dashed(names[0])}." for _ in names[1:])]


def _flag(name: str, kind: Any, told: str, panel: str, default: str = "") -> inspect.Parameter:
    kind, metavar = _without_none(kind), None
    if get_origin(kind) is Literal or kind is bool:
        choices: Any = Enum  # mypy knows it with literal names only
        kind = choices(name, {str(one): one for one in get_args(kind) or ("true", "false")}, type=str)
    elif get_origin(kind) is tuple:
        kind, metavar = str, f"{get_args(kind)[0].__name__.upper()},…"
    elif kind not in (int, float, str):
        kind, metavar = str, "NAME=SHARE,…"
    told += f" Default: {default}." if default else ""
    option = typer.Option(_dashed(name), help=told, rich_help_panel=panel, show_default=False, metavar=metavar)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    return next(one for one in get_args(kind) if one is not type(None))


def _shown(one: Field[Any]) -> str:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={share:g}" for name, share in value.items())
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _read(name: str, kind: Any, value: Any) -> Any:
    """Turn a choice, the text of a list, or of shares, into values; leave numbers and names."""
    kind = _without_none(kind)
    if isinstance(value, Enum):
        value = value.value
    if kind is bool:
        return value == "true"
    if kind in (int, float, str) or get_origin(kind) is Literal:
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    try:
        if get_origin(kind) is tuple:
            one: Callable[[str], Any] = get_args(kind)[0]
            return [one(word) for word in words]
        pairs = [word.split("=") for word in words]
        return {family.strip(): float(share) for family, share in pairs}
    except ValueError:
        wanted = {(int, ...): "whole numbers", (float, ...): "numbers"}.get(get_args(kind), "NAME=SHARE")
        raise FlowrankError(name, expected=f"{wanted}, with commas between", found=repr(value)) from None


def _schedule(name: str | None, options: dict[str, Any], earlier: Any) -> dict[str, Any] | None:
    """Make a schedule of its name and options; where none is named, or that of ``earlier``, start from ``earlier``."""
    before = schedule_from(earlier)
    kind = next((known for known, one in SCHEDULES.items() if one and isinstance(before, one)), None)
    chosen = name or kind or "none"
    owner = SCHEDULES[chosen]
    for option in options:
        fitting = [known for known, one in SCHEDULES.items() if one and option in {field.name for field in fields(one)}]
        if chosen not in fitting:
            raise FlowrankError(
                option,
                expected=f"--schedule {' or '.join(fitting)} with it",
                found=f"--schedule {chosen}" if name or kind else "no --schedule",
            )
    if owner is None:
        return None
    merged = {**((schedule_to(before) or {}) if chosen == kind else {}), **options}
    merged.pop("name", None)
    for given, other in (("d0", "ratio"), ("ratio", "d0")):
        if given in options and other not in options:
            merged.pop(other, None)
    for size, needed in (("uniform", ("ratio",)), ("widths", ("widths",)), ("flow", ("d0", "ratio"))):
        if chosen == size and not set(needed) & set(merged):
            wanted = " or ".join(map(_dashed, needed))
            raise FlowrankError("schedule", expected=f"{wanted} with --schedule {size}", found=f"no {wanted}")
    return schedule_to(schedule_from({"name": owner.__name__, **merged}))
