"""Series that a child is healed on, synthetic or the user's, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from flowrank.errors import FlowrankError
from flowrank.family import family_of
from flowrank.healing.options import Healing
from flowrank.pipelines import Pipeline
from flowrank.pretraining.architecture import adopted
from flowrank.pretraining.budget import UNKNOWN_STEPS
from flowrank.pretraining.cutting import cut, reach
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.store import SHORTEST, SeriesStore
from flowrank.pretraining.windows import VALIDATION, Windows
from flowrank.series import read_series
from flowrank.synthetic.mixture import Mixture
from flowrank.synthetic.tasks import SHARES as TASK_SHARES

_ADAMW = 1e-4
_HELD_OUT_BATCH = 64


@dataclass(frozen=True)
class HealingData:
    """Training batches, each a function of seed and step, and fixed batches for evaluation.

    Attributes
    ----------
    training
        ``training.batch(step)``.
    held_out
        Batches of series, or of ends of series, that are not trained on.
    about
        Origin of the series, for the recipe: ``source``, ``series`` and, for the user's, ``sha256``.
    """

    training: Windows
    held_out: list[dict[str, Tensor]]
    about: dict[str, Any]

    @classmethod
    def read(cls, child: Pipeline, options: Healing, series: Any = None, **columns: Any) -> HealingData:
        """Draw synthetic series, or read the user's into memory and hold the last horizon of some out.

        Raises
        ------
        FlowrankError
            If none of the series is long enough and changes.
        """
        recipe = recipe_for(child, options)
        if series is None:
            batch = min(_HELD_OUT_BATCH, options.eval_series)
            held = Windows(
                replace(recipe, seed=0, per_device_train_batch_size=batch),
                batches=-(-options.eval_series // batch),
                stream=VALIDATION,
            )
            return cls(
                Windows(recipe, batches=1),
                [held.batch(number) for number in range(held.batches)],
                {"source": "synthetic"},
            )
        return cls._own(recipe, options, series, columns)

    @classmethod
    def _own(cls, recipe: Recipe, options: Healing, series: Any, columns: dict[str, Any]) -> HealingData:
        found = list(_usable(read_series(series, **columns)))
        if not found:
            raise _unusable(0)
        digest = hashlib.sha256()
        for values in found:
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
        length, horizon = max(recipe.lengths), recipe.prediction_length
        chosen = set(np.linspace(0, len(found) - 1, min(len(found), options.eval_series)).astype(int).tolist())
        pairs, kept = [], []
        for number, values in enumerate(found):
            past = values[: len(values) - reach(len(values), length, horizon)]
            pair = None
            if number in chosen and len(past) >= SHORTEST:
                pair = cut(values, length, horizon, most_missing=recipe.max_missing_prop)
            if pair is not None:
                pairs.append(pair)
            kept.append(values if pair is None else past)
        own = Windows(
            replace(recipe, training_data_paths=("series",), probability=(1.0,)),
            batches=1,
            stores=[MemoryStore(kept)],
        )
        try:
            own.batch(0)
        except FlowrankError as error:
            raise _unusable(len(found)) from error
        if not pairs:
            raise _unusable(len(found))
        held = [
            own.tensors(*map(np.stack, zip(*pairs[first : first + _HELD_OUT_BATCH], strict=True)))
            for first in range(0, len(pairs), _HELD_OUT_BATCH)
        ]
        about = {"source": "series of the caller", "series": len(found), "sha256": digest.hexdigest()}
        return cls(own, held, about)


class MemoryStore(SeriesStore):
    """Series in memory, drawn from as from a store on disk.

    Examples
    --------
    >>> store = MemoryStore([np.arange(12, dtype=np.float32)])
    >>> store.windows(np.random.default_rng(0), rows=1, length=3).shape
    (1, 3)
    """

    def __init__(self, series: Sequence[np.ndarray]) -> None:
        self._series = series

    def __len__(self) -> int:
        return len(self._series)

    def __getitem__(self, index: int) -> np.ndarray:
        """Values of a series."""
        return self._series[index]


def recipe_for(child: Pipeline, options: Healing) -> Recipe:
    """Pretraining recipe whose batches and learning rates a healing uses.

    Raises
    ------
    FlowrankError
        If the child's context is shorter than all of the options' lengths.
    """
    family = family_of(child)
    training = family.training
    if training is None:
        raise family.lacks("training")
    shape = training.fields(child.inner_model.config)
    context, horizon = shape["context_length"], shape["prediction_length"]
    lengths = tuple(length for length in options.lengths if length <= context)
    if not lengths:
        raise FlowrankError(
            "lengths", expected=f"one at most {context}, the model's context", found=repr(options.lengths)
        )
    horizons = (*training.horizons, horizon) if options.horizons is None else options.horizons
    alone = training.groups and not family.reads_groups  # it promises that no series reads another
    recipe = Recipe(
        task_shares={"single": 1.0} if alone else TASK_SHARES,
        context_length=context,
        lengths=lengths,
        prediction_length=horizon,
        horizons=tuple(length for length in horizons if length <= horizon),
        per_device_train_batch_size=options.batch or training.batch,
        muon_learning_rate=options.muon_learning_rate or training.rates[0],
        learning_rate=options.learning_rate or (training.rates[1] if options.optim == "muon" else _ADAMW),
        optim=options.optim,
        max_steps=options.most_steps,
        minutes=options.minutes,
        lr_scheduler_type="linear",
        warmup_ratio=min(1.0, options.warmup / (options.most_steps or UNKNOWN_STEPS)),
        easy_share=Mixture().easy_share,
        easy_steps=0,
        seed=options.seed,
    )
    return adopted(recipe, child)


def _unusable(count: int) -> FlowrankError:
    return FlowrankError(
        "series",
        expected=f"at least one series that changes, of {SHORTEST} values and a horizon to hold out",
        found=f"{count}, too short, too constant or with too many values missing" if count else "none that changes",
        todo="pass longer or other series, or leave the argument out to use synthetic ones",
    )


def _usable(series: Any) -> Iterator[np.ndarray]:
    for one in series:
        values = np.asarray(one.target, dtype=np.float32)
        observed = ~np.isnan(values)
        values = values[int(observed.argmax()) :]
        past = values[: -(len(values) // 3) or None]
        if observed.any() and len(values) >= SHORTEST and len(np.unique(past[~np.isnan(past)])) > 2:
            yield values
