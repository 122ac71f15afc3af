"""Series cut into contexts and targets, batch by batch; batch ``b`` depends on the recipe and ``b`` only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowrank.errors import FlowrankError
from flowrank.family import training_of
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.store import SeriesStore
from flowrank.synthetic.mixture import SHORTEST, Mixture
from flowrank.synthetic.mixup import mixup

TRAINING, VALIDATION = 0, 1
_FURTHEST = 15.0  # a target further off than this many standard deviations of its context teaches nothing
_MOST_DRAWN = 1000  # series for each one used, after which nothing is hoped for
_SPARE = 1.25  # series drawn for each one used: some are too short or never change


class Windows(Dataset):
    """A stream of training examples, addressed by number so that it resumes anywhere.

    The examples of one batch share the lengths of context and target. An example is a dictionary of tensors, as the
    family's model takes it: ``context`` (L,) and ``target`` (H,), NaN = missing, or ``input_ids``, ``attention_mask``
    and ``labels``.

    Parameters
    ----------
    recipe
        What to draw and how to cut it.
    batches
        Number of batches.
    stream
        `TRAINING` or `VALIDATION`: the two have no series in common.
    batches_per_step
        Batches that one optimiser step uses up, over all processes; the curriculum counts steps.
    stores
        The series of each of the recipe's ``training_data_paths``.

    Examples
    --------
    >>> windows = Windows(Recipe(max_steps=2, per_device_train_batch_size=4), batches=2)
    >>> [tuple(example["target"].shape) for example in windows.__getitems__([0, 1])]
    [(64,), (64,)]
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        batches: int,
        stream: int = TRAINING,
        batches_per_step: int = 1,
        stores: Sequence[SeriesStore] = (),
    ) -> None:
        self.recipe, self.batches, self.stream, self.stores = recipe, batches, stream, stores
        self.batches_per_step = batches_per_step
        self.mixture = Mixture(recipe.shares)
        self.training = training_of(recipe.family)
        weights = np.array(recipe.lengths, dtype=float) ** -recipe.length_exponent
        self._weights = weights / weights.sum()
        self._latest: tuple[int, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        return self.batches * self.recipe.per_device_train_batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one example."""
        batch, row = divmod(index, self.recipe.per_device_train_batch_size)
        if self._latest is None or self._latest[0] != batch:
            self._latest = batch, self.batch(batch)
        return {name: values[row] for name, values in self._latest[1].items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Give several examples."""
        return [self[index] for index in indices]

    def batch(self, index: int) -> dict[str, Tensor]:
        """Give batch ``index``: every tensor of an example, stacked."""
        return self.tensors(*self.arrays(index))

    def tensors(self, context: np.ndarray, target: np.ndarray) -> dict[str, Tensor]:
        """Contexts (B, L) and targets (B, H) as the family's model takes them."""
        return self.training.tensors(self.recipe, torch.from_numpy(context), torch.from_numpy(target))

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts (B, L) and targets (B, H) of a batch in float32, each divided by its context's mean magnitude."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.stream, index])
        length = int(rng.choice(recipe.lengths, p=self._weights))
        horizon = int(rng.choice(recipe.horizons)) if recipe.horizons else recipe.prediction_length
        contexts: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        drawn = 0
        while len(contexts) < recipe.per_device_train_batch_size:
            missing = recipe.per_device_train_batch_size - len(contexts)
            if drawn > _MOST_DRAWN * recipe.per_device_train_batch_size:
                raise FlowrankError(
                    "training_data_paths",
                    expected="series that change",
                    found=f"{len(contexts)} usable windows out of {drawn}",
                    todo="leave out files whose series are constant or missing",
                )
            rows = int(missing * _SPARE) + 1
            drawn += rows
            for values in self._draw(rng, index, rows, length + horizon):
                pair = cut(values, length, horizon, most_missing=recipe.max_missing_prop)
                if pair is not None:
                    contexts.append(pair[0])
                    targets.append(pair[1])
        size = recipe.per_device_train_batch_size
        return np.stack(contexts[:size]), np.stack(targets[:size])

    def _draw(self, rng: np.random.Generator, index: int, rows: int, length: int) -> np.ndarray:
        recipe = self.recipe
        shares = recipe.data_shares() if self.stores else ()
        *real, synthetic = rng.multinomial(rows, [*shares, max(0.0, 1 - sum(shares))]).tolist()
        parts = [store.windows(rng, count, length) for store, count in zip(self.stores, real, strict=True) if count]
        if parts:
            windows = rng.permutation(np.concatenate(parts))  # combinations take the place of the first ones
            sound = windows[[len(np.unique(row[~np.isnan(row)])) > 2 for row in windows]]
            mixed = int(rng.binomial(len(sound), self.mixture.mixup_share))
            parts = [windows[mixed:], mixup(rng, sound, mixed)] if mixed else [windows]
        if synthetic:
            left = 1 - index / self.batches_per_step / max(1, recipe.easy_steps)  # of the easy beginning
            own = self.mixture.easy_share
            easy = own if self.stream == VALIDATION else own + (recipe.easy_share - own) * max(0.0, left)
            drawn = self.mixture.easier(easy).block(rng, rows=synthetic, length=max(length, SHORTEST))[1]
            parts.append(drawn[:, -length:])
        return rng.permutation(np.concatenate(parts))


def cut(
    values: np.ndarray, length: int, horizon: int, *, most_missing: float = 0.9
) -> tuple[np.ndarray, np.ndarray] | None:
    """Cut a series into context and target, both float32, or give None where it cannot teach.

    A series shorter than ``length + horizon`` gives its last third, at most ``horizon``, to the target.

    Parameters
    ----------
    values
        Shape (time,), NaN = missing or before the start.
    length, horizon
        Lengths of what is returned; a shorter context is NaN on the left, a shorter target on the right.
    most_missing
        Greatest share of missing values.

    Examples
    --------
    >>> cut(np.array([1.0, 1.0, 4.0, 2.0, 2.0, 6.0]), 5, 3)
    (array([nan, 0.5, 0.5, 2. , 1. ], dtype=float32), array([ 1.,  3., nan], dtype=float32))
    """
    observed = ~np.isnan(values)
    if not observed.any():
        return None
    values = values[int(observed.argmax()) :]
    ahead = reach(len(values), length, horizon)
    past, future = values[: len(values) - ahead][-length:], values[len(values) - ahead :]
    seen = past[~np.isnan(past)]
    if len(seen) < max(3, (1 - most_missing) * len(past)) or seen.min() == seen.max() or np.isnan(future).all():
        return None
    scale = np.abs(seen).mean()
    far = np.abs(future - seen.mean()) > _FURTHEST * seen.std()
    context = np.full(length, np.nan, dtype=np.float32)
    target = np.full(horizon, np.nan, dtype=np.float32)
    context[length - len(past) :] = past / scale
    target[:ahead] = np.where(far, np.nan, future / scale)
    return None if np.isnan(target).all() else (context, target)


def reach(values: int, length: int, horizon: int) -> int:
    """How many of a series' last values become the target.

    Examples
    --------
    >>> [reach(values, 5, 3) for values in (2, 6, 7, 100)]
    [1, 2, 2, 3]
    """
    return min(horizon, max(1, values // 3, values - length))


def collate(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the examples of a batch, which share their lengths."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
