"""Everything that decides a training run, as one value that a YAML file or the command line fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from flowrank.errors import FlowrankError
from flowrank.family import training_of
from flowrank.pretraining.checks import check
from flowrank.pretraining.schedule import schedule_from, schedule_to
from flowrank.pretraining.settings import Data, Optimisation, Run
from flowrank.pretraining.shape import ModelShape, Start

GROUPS: dict[str, type] = {"model": ModelShape, "start": Start, "data": Data, "optimisation": Optimisation, "run": Run}
"""The groups of settings in a recipe, by their names."""

SETTINGS: dict[str, str] = {one.name: group for group, kind in GROUPS.items() for one in fields(kind)}
"""The group of every setting. No two groups have a setting of the same name."""

if TYPE_CHECKING:

    class _Readable(ModelShape, Start, Data, Optimisation, Run):
        """Tells type checkers and editors what `Recipe.__getattr__` reads and ``dataclasses.replace`` takes."""
else:
    _Readable = object


@dataclass(frozen=True, init=False, kw_only=True)
class Recipe(_Readable):
    """Model, data and optimisation of one training run.

    Settings come in groups, each a value of its own. A setting can also be given and read by its own name: files and
    the command line do so, and ``Recipe(d_model=64, max_steps=100).d_model`` is that of the group ``model``. Where
    chronos-forecasting's training configs have a key for a setting, its name here is theirs.

    Attributes
    ----------
    model
        Architecture, see `ModelShape`.
    start
        Weights of other models that training starts with, see `Start`.
    data
        Real and synthetic series, see `Data`.
    optimisation
        Steps, minutes, batches and learning rates, see `Optimisation`. One of ``max_steps`` and ``minutes`` is needed.
    run
        Precision, processes, seed, checkpoints and logs, see `Run`.
    **settings
        Settings by their own names; they go before those of the groups.

    Raises
    ------
    FlowrankError
        If there is no such setting, a value is not what its group says, or two settings contradict each other.

    Examples
    --------
    >>> recipe = Recipe(model=ModelShape.of_size("tiny", d_kv=16), optimisation=Optimisation(max_steps=100))
    >>> recipe == Recipe(d_kv=16, max_steps=100)
    True
    >>> recipe.model.d_kv, recipe.d_kv
    (16, 16)
    >>> Recipe.from_dict(recipe.to_dict()) == recipe
    True
    """

    model: ModelShape
    start: Start
    data: Data
    optimisation: Optimisation
    run: Run

    def __init__(
        self,
        *,
        model: ModelShape | None = None,
        start: Start | None = None,
        data: Data | None = None,
        optimisation: Optimisation | None = None,
        run: Run | None = None,
        **settings: Any,
    ) -> None:
        _refuse_unknown(settings)
        given = (model, start, data, optimisation, run)
        for (group, kind), value in zip(GROUPS.items(), given, strict=True):
            if value is not None and not isinstance(value, kind):
                raise FlowrankError(group, expected=f"a value of {kind.__name__}", found=repr(value))
            own = {name: setting for name, setting in settings.items() if SETTINGS[name] == group}
            made: Any = kind(**own) if value is None else replace(value, **own)
            object.__setattr__(self, group, made)
        self._check_together()

    def __getattr__(self, name: str) -> Any:
        """Read a setting, or anything else that is public in a group, by its own name."""
        for group in () if name.startswith("_") else GROUPS:
            if hasattr(self.__dict__.get(group), name):
                return getattr(self.__dict__[group], name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_together(self) -> None:
        """Refuse settings that are sound by themselves and contradict one of another group."""
        model, start, data = self.model, self.start, self.data
        longest, furthest = model.context_length, model.prediction_length
        check(data, "lengths", f"context lengths from 4 to context_length={longest}", max(data.lengths) <= longest)
        sound = max(data.horizons, default=1) <= furthest
        check(data, "horizons", f"target lengths from 1 to prediction_length={furthest}", sound)
        if start.initial_model is None and (start.freeze_token_embedding or start.token_embedding is not None):
            tokens = training_of(model.family).has_tokens
            check(start, "token_embedding", f"nothing for {model.family!r}, which has no tokens", tokens)
        random = start.initial_model is None and start.grown_from is None
        check(model, "schedule", "none for a start from another model", random or model.schedule is None)

    @property
    def adamw_learning_rate(self) -> float:
        """Peak rate of AdamW: as given, or what suits the parameters that it gets.

        Examples
        --------
        >>> [Recipe(family=family, max_steps=1).adamw_learning_rate for family in ("bolt", "t5")]
        [0.002, 0.01]
        """
        if self.optimisation.learning_rate is not None:
            return self.optimisation.learning_rate
        return 1e-3 if self.optimisation.optim == "adamw" else training_of(self.model.family).adamw_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values by the names of the settings, for JSON and YAML."""
        plain = {name: getattr(getattr(self, group), name) for name, group in SETTINGS.items()}
        plain["schedule"] = schedule_to(self.model.schedule)
        plain |= {name: dict(plain[name]) for name in ("shares", "task_shares")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Recipe:
        """Read plain values by the names of the settings.

        Raises
        ------
        FlowrankError
            If a key is unknown or a value of the wrong kind.
        """
        _refuse_unknown(raw)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
        }
        if "schedule" in values:
            values["schedule"] = schedule_from(values["schedule"])
        try:
            return cls(**values)
        except TypeError as error:
            raise FlowrankError("recipe", expected="values of the kinds a recipe has", found=str(error)) from error


def setting_kinds() -> dict[str, Any]:
    """Type of every setting of a recipe, by its name.

    Examples
    --------
    >>> setting_kinds()["d_model"]
    <class 'int'>
    """
    return {name: kind for group in GROUPS.values() for name, kind in get_type_hints(group).items()}


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], SETTINGS, n=1)
        raise FlowrankError(
            "recipe",
            expected="keys that a recipe has",
            found=", ".join(map(repr, unknown)),
            todo=f"did you mean {near[0]!r}?" if near else "see `flowrank pretrain --help-all`",
        )
