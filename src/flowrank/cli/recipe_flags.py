"""The flags of ``flowrank pretrain``: one for every field of a recipe, described by the recipe's docstring."""

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
from flowrank.family import SIZES
from flowrank.pretraining import Widths
from flowrank.pretraining.recipe import GROUPS, SETTINGS, setting_kinds
from flowrank.pretraining.schedule import schedule_from, schedule_to

ESSENTIAL = ("family", "training_data_paths", "max_steps", "minutes")  # in no panel: `--help` shows them
PANELS = {
    "model": "Model",
    "start": "Start from another model",
    "data": "Data",
    "optimisation": "Optimisation",
    "run": "Run",
}
RANKS = "Head widths (low rank)"  # the panel of the schedule and its options
_SIZE = "Shape of the model, as published; options such as --d-model change it. Default: tiny."
SCHEDULES: dict[str, Any] = {"flow": FlowOfRanks, "uniform": Uniform, "widths": Widths, "none": None}
SCHEDULE_OPTIONS: dict[str, type] = {
    **dict.fromkeys(("d0", "alpha", "ratio", "rounding"), FlowOfRanks),
    "widths": Widths,
}
SCHEDULE_WORDS = {
    "schedule": "How wide the attention heads of each layer are: flow (wider with depth, by --d0 or --ratio and "
    "--alpha), uniform (by --ratio), widths (by --widths), or none (--d-kv everywhere). Default: none.",
    "d0": "flow: head width of the first layer; layer i has d0 (1 + i)^alpha, and --d-kv at most.",
    "alpha": f"flow: how fast heads get wider with depth; below 0 they get narrower. Default: {FlowOfRanks.alpha}.",
    "ratio": "flow, uniform: share of the attention parameters to keep, in (0, 1].",
    "rounding": "flow: ceil (up, as in the paper) or power_of_two (to the nearest, as in the authors' code). "
    f"Default: {FlowOfRanks.rounding}.",
    "widths": "widths: head width of every layer number. Self-attention of layer i, of encoder and decoder, has "
    "number i; cross-attention of decoder layer i has number (encoder layers + i).",
}


def recipe_flags() -> list[inspect.Parameter]:
    """Keyword parameters, annotated for typer, that stand for a recipe; each is None where it was not given.

    A size stands for several settings; every other one is a setting of `Recipe`, or an option of its schedule.

    Examples
    --------
    >>> [flag.name for flag in recipe_flags()][:3]
    ['family', 'size', 'd_model']
    """
    kinds, flags = setting_kinds(), []
    for group, documented in GROUPS.items():
        told = described(documented)
        for one in fields(documented):
            panel = None if one.name in ESSENTIAL else PANELS[group]
            if one.name == "schedule":
                flags += _schedule_flags()
            else:
                flags.append(_flag(one.name, kinds[one.name], told[one.name], panel, default=_shown(one)))
            if one.name == "family":
                flags.append(_flag("size", Literal[tuple(SIZES)], _SIZE, None))
    return flags


def _schedule_flags() -> list[inspect.Parameter]:
    kinds = {name: get_type_hints(owner)[name] for name, owner in SCHEDULE_OPTIONS.items()}
    kinds = {"schedule": Literal[tuple(SCHEDULES)], **kinds}
    return [_flag(name, kind, SCHEDULE_WORDS[name], RANKS) for name, kind in kinds.items()]


def recipe_settings(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a recipe out of the flags that were given.

    Parameters
    ----------
    given
        Values of the flags by name; None: not given. Single settings go before those of a size.
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
    kinds = setting_kinds() | {name: get_type_hints(owner)[name] for name, owner in SCHEDULE_OPTIONS.items()}
    kinds |= {"schedule": Literal[tuple(SCHEDULES)], "size": Literal[tuple(SIZES)]}
    typed = {name: _read(name, kinds[name], value) for name, value in given.items() if value is not None}
    options = {name: typed.pop(name) for name in SCHEDULE_OPTIONS if name in typed}
    if options or "schedule" in typed:
        typed["schedule"] = _schedule(typed.get("schedule"), options, before.get("schedule"))
    return SIZES.get(typed.pop("size", ""), {}) | typed


def described(documented: type) -> dict[str, str]:
    """Descriptions of a class's attributes or parameters, from its docstring.

    An entry of several names has as many parts, with semicolons between; what stands before a colon holds for all.

    Examples
    --------
    >>> described(GROUPS["model"])["num_heads"]
    'Attention heads.'
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
    """Divide one description among the names that share it."""
    if len(names) == 1:
        return [description]
    scoped = re.match(r"[\w-]+(, [\w-]+)*: ", description)
    scope, colon, rest = description.partition(": ") if scoped else ("", "", description)
    parts = rest.rstrip(".").split("; ")
    return [f"{scope}{colon}{part}." if scope else f"{part[0].upper()}{part[1:]}." for part in parts]


def _flag(name: str, kind: Any, told: str, panel: str | None, default: str = "") -> inspect.Parameter:
    kind, metavar = _without_none(kind), None
    if get_origin(kind) is Literal or kind is bool:
        choices: Any = Enum  # mypy knows it with literal names only
        kind = choices(name, {str(one): one for one in get_args(kind) or ("true", "false")}, type=str)
    elif get_origin(kind) is tuple:
        kind, metavar = str, f"{get_args(kind)[0].__name__.upper()},…"
    elif kind not in (int, float, str):
        kind, metavar = str, "NAME=SHARE,…"
    told = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda word: _dashed(word[0]) if word[0] in SETTINGS else word[0], told)
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
    """Turn choices and the texts of lists and shares into values; keep numbers and names."""
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
    """Make a schedule from its name and options, starting from ``earlier`` if no other name is given."""
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
