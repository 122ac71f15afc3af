"""Recipes as YAML files: our own keys, or those of chronos-forecasting's training configs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from flowrank.errors import FlowrankError
from flowrank.family import training_keys, training_of
from flowrank.pretraining.recipe import Recipe, setting_kinds
from flowrank.pretraining.settings import Data

_log = logging.getLogger(__name__)


def read_recipe(path: str | Path, **overrides: Any) -> Recipe:
    r"""Read a recipe from a YAML file.

    Parameters
    ----------
    path
        Its keys are those of `Recipe`, or those of chronos-forecasting's ``scripts/training/configs`` and of the
        configs of amazon-science/TSFM-Compression. Keys of theirs that have no effect here are logged as warnings.
    overrides
        Values by key of `Recipe`; they go before those of the file.

    Raises
    ------
    FlowrankError
        If the file is not there or not YAML, a key is unknown, a value is of the wrong kind, or asks for a model that
        flowrank cannot train.

    Examples
    --------
    >>> _ = Path("narrow.yaml").write_text("d_model: 64\nmax_steps: 1_000\nschedule: {name: Uniform, ratio: 0.25}")
    >>> read_recipe("narrow.yaml", d_model=32).schedule
    Uniform(ratio=0.25)
    """
    settings, notes = read_settings(path)
    for note in notes:
        _log.warning("%s: %s", path, note)
    return recipe_of(settings, **overrides)


def read_settings(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    r"""Read a YAML file as plain values by key of `Recipe`, and say which keys had no effect and why.

    Raises
    ------
    FlowrankError
        As `read_recipe`, but values are not looked at yet.

    Examples
    --------
    >>> _ = Path("theirs.yaml").write_text("max_steps: 1_000\ntf32: true")
    >>> read_settings("theirs.yaml")
    ({'max_steps': 1000}, ['tf32 has no effect: precision says how to compute'])
    """
    yaml = _yaml()
    path = Path(path).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise FlowrankError("config", expected="a YAML file", found=f"{str(path)!r}, which is {what}")
    try:
        raw = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise FlowrankError("config", expected="YAML", found=f"{str(path)!r}{where}: {problem}") from error
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise FlowrankError("config", expected="lines of the form key: value", found=f"{str(path)!r} without them")
    settings, notes = dict(raw), list[str]()
    for key in training_keys():
        settings, more = training_of(key).translate(settings, Recipe(max_steps=1).to_dict())
        notes += more
    return settings, notes


def recipe_of(settings: Mapping[str, Any], **overrides: Any) -> Recipe:
    """Make a recipe of plain values by key, and of others that go before them.

    Context lengths that nobody chose follow ``context_length``: the shorter ones of those that there were, and itself.

    Raises
    ------
    FlowrankError
        If a key is unknown, or a value of the wrong kind.

    Examples
    --------
    >>> recipe_of({"context_length": 100}, max_steps=10).lengths
    (32, 64, 96, 100)
    """
    merged = {**settings, **overrides}
    kinds = setting_kinds()
    merged = {name: _of_kind(name, kinds.get(name), value) for name, value in merged.items()}
    optional = {name for name, kind in kinds.items() if type(None) in get_args(kind)}
    merged = {
        name: value for name, value in merged.items() if value is not None or name in optional or name not in kinds
    }
    chosen = "lengths" in overrides or ("lengths" in settings and "context_length" not in overrides)
    longest = merged.get("context_length")
    if not chosen and isinstance(longest, int):
        known = merged.get("lengths", Data.lengths)
        merged["lengths"] = (*(length for length in known if length < longest), longest)
    return Recipe.from_dict(merged)


def to_yaml(recipe: Recipe) -> str:
    """Give a recipe as the text of a YAML file that `read_recipe` reads.

    Examples
    --------
    >>> to_yaml(Recipe(max_steps=10)).splitlines()[:2]
    ['family: bolt', 'd_model: 256']
    """
    text: str = _yaml().safe_dump(
        recipe.to_dict(), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    )
    return text


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise FlowrankError(
            "YAML", expected="PyYAML", found="no such package", todo='pip install "flowrank[pretrain]"'
        ) from error
    return yaml


def _of_kind(name: str, kind: Any, value: Any) -> Any:
    """Turn what YAML made of a value into what it was meant to be: 1e-3 is text to it, a list of one a single value."""
    if kind is None or value is None:
        return value
    options = get_args(kind) if type(None) in get_args(kind) else (kind,)
    if float in options and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise FlowrankError(name, expected="a number", found=repr(value)) from None
    if bool in options and not isinstance(value, bool):
        raise FlowrankError(name, expected="true or false", found=repr(value))
    if str in options and not isinstance(value, str):
        raise FlowrankError(name, expected="text", found=repr(value))
    if get_origin(kind) is tuple:
        one = get_args(kind)[0]
        values = list(value) if isinstance(value, list | tuple) else [value]
        return tuple(_of_kind(name, one, part) for part in values)
    return value
