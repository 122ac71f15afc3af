"""Series cut into contexts and targets, batch by batch; batch ``b`` depends on the recipe and ``b`` only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowrank.errors import FlowrankError
from flowrank.family import training_of
from flowrank.pretraining.cutting import JointWindows, cut, cut_task
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.store import SeriesStore
from flowrank.synthetic.mixture import SHORTEST, Mixture
from flowrank.synthetic.mixup import mixup
from flowrank.synthetic.tasks import Task, TaskMixture

TRAINING, VALIDATION = 0, 1
_MOST_DRAWN = 1000  # series for each one used, after which nothing is hoped for
_SPARE = 1.25  # series drawn for each one used: some are too short or never change
_TASKS = 0.45  # tasks drawn for each series used


class Windows(Dataset):
    """A stream of training examples, addressed by number so that it resumes anywhere.

    The examples of one batch share the lengths of context and target. An example is a dictionary of tensors, as the
    family's model takes it: ``context`` (L,) and ``target`` (H,), NaN = missing, or ``input_ids``, ``attention_mask``
    and ``labels``, or for models that read groups one series of a group, which is whole within a batch.

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
        if self.training.groups:
            return self.training.joint_tensors(self.recipe, *map(torch.from_numpy, self.joint_arrays(index)))
        return self.tensors(*self.arrays(index))

    def tensors(self, context: np.ndarray, target: np.ndarray) -> dict[str, Tensor]:
        """Contexts (B, L) and targets (B, H) as the family's model takes them."""
        return self.training.tensors(self.recipe, torch.from_numpy(context), torch.from_numpy(target))

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts (B, L) and targets (B, H) of a batch in float32, each divided by its context's mean magnitude."""
        recipe = self.recipe
        rng, length, horizon = self._start(index)
        contexts: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        drawn = 0
        while len(contexts) < recipe.per_device_train_batch_size:
            missing = recipe.per_device_train_batch_size - len(contexts)
            self._refuse_useless(len(contexts), drawn)
            rows = int(missing * _SPARE) + 1
            drawn += rows
            for values in self._draw(rng, index, rows, length + horizon):
                pair = cut(values, length, horizon, most_missing=recipe.max_missing_prop)
                if pair is not None:
                    contexts.append(pair[0])
                    targets.append(pair[1])
        size = recipe.per_device_train_batch_size
        return np.stack(contexts[:size]), np.stack(targets[:size])

    def joint_arrays(self, index: int) -> JointWindows:
        """Contexts and targets of a batch of whole groups; the last one loses the series that find no place."""
        size = self.recipe.per_device_train_batch_size
        rng, length, horizon = self._start(index)
        cuts: list[JointWindows] = []
        filled = drawn = 0
        while filled < size:
            self._refuse_useless(filled, drawn)
            count = int((size - filled) * _TASKS) + 2
            drawn += count
            for task in self._tasks(rng, index, count, length + horizon):
                windows = cut_task(task, length, horizon, most_missing=self.recipe.max_missing_prop)
                if windows is not None and filled < size:
                    cuts.append(windows.numbered(len(cuts)).first(size - filled))
                    filled += len(cuts[-1].group)
        return JointWindows(*map(np.concatenate, zip(*cuts, strict=True)))

    def _start(self, index: int) -> tuple[np.random.Generator, int, int]:
        """Source of chance of a batch, and its lengths of context and target."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.stream, index])
        length = int(rng.choice(recipe.lengths, p=self._weights))
        horizons = self.training.target_lengths(recipe)
        return rng, length, int(rng.choice(horizons)) if len(horizons) > 1 or recipe.horizons else horizons[0]

    def _refuse_useless(self, used: int, drawn: int) -> None:
        if drawn > _MOST_DRAWN * self.recipe.per_device_train_batch_size:
            raise FlowrankError(
                "training_data_paths",
                expected="series that change",
                found=f"{used} usable windows out of {drawn}",
                todo="leave out files whose series are constant or missing",
            )

    def _draw(self, rng: np.random.Generator, index: int, rows: int, length: int) -> np.ndarray:
        real, synthetic = self._counts(rng, rows)
        parts = self._real(rng, real, length)
        if synthetic:
            drawn = self._mixture(index).block(rng, rows=synthetic, length=max(length, SHORTEST))[1]
            parts.append(drawn[:, -length:])
        return rng.permutation(np.concatenate(parts))

    def _tasks(self, rng: np.random.Generator, index: int, count: int, length: int) -> list[Task]:
        """Synthetic tasks and, of real series, tasks of one each."""
        real, synthetic = self._counts(rng, count)
        alone = np.zeros(1, dtype=bool)
        tasks = [Task(row[None], alone) for part in self._real(rng, real, length) for row in part]
        if synthetic:
            mixture = TaskMixture(self.recipe.task_shares, self._mixture(index))
            drawn = mixture.block(rng, count=synthetic, length=max(length, SHORTEST))
            tasks += [Task(task.values[:, -length:], task.known, task.kind) for task in drawn]
        return [tasks[place] for place in rng.permutation(len(tasks))] if any(real) else tasks

    def _counts(self, rng: np.random.Generator, rows: int) -> tuple[list[int], int]:
        """How many are drawn from each store, and how many are synthetic."""
        shares = self.recipe.data_shares() if self.stores else ()
        *real, synthetic = rng.multinomial(rows, [*shares, max(0.0, 1 - sum(shares))]).tolist()
        return real, synthetic

    def _mixture(self, index: int) -> Mixture:
        """Synthetic series of a batch: easier at the beginning of training."""
        left = 1 - index / self.batches_per_step / max(1, self.recipe.easy_steps)  # of the easy beginning
        own = self.mixture.easy_share
        easy = own if self.stream == VALIDATION else own + (self.recipe.easy_share - own) * max(0.0, left)
        return self.mixture.easier(easy)

    def _real(self, rng: np.random.Generator, real: list[int], length: int) -> list[np.ndarray]:
        """Windows of real series, some of them mixed with one another."""
        parts = [store.windows(rng, count, length) for store, count in zip(self.stores, real, strict=True) if count]
        if parts:
            windows = rng.permutation(np.concatenate(parts))  # combinations take the place of the first ones
            sound = windows[[len(np.unique(row[~np.isnan(row)])) > 2 for row in windows]]
            mixed = int(rng.binomial(len(sound), self.mixture.mixup_share))
            parts = [windows[mixed:], mixup(rng, sound, mixed)] if mixed else [windows]
        return parts


def collate(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the examples of a batch, which share their lengths."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
