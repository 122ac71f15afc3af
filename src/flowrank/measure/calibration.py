"""The series on which a model is measured: the user's, or the built-in synthetic ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowrank.errors import FlowrankError, check_count
from flowrank.family import Context, SeriesGroup
from flowrank.series import Series, read_series
from flowrank.synthetic import lifted, synthetic_series
from flowrank.synthetic.levels import EVERY
from flowrank.synthetic.tasks import Task, synthetic_tasks

SHORTEST = 4
"""Observed points below which a series says nothing about attention."""

SYNTHETIC_POINTS = 64
"""Shortest length at which the generator still draws all of its families."""

LEAST_GROUPED = 16
"""Series in groups at least, where there are any."""

POINTS = 512
"""Last points of a series that calibration reads, at most."""


@dataclass(frozen=True)
class Calibration:
    """Contexts to run the parent on, and where they came from.

    Attributes
    ----------
    contexts
        1-D float32 tensors, NaN = missing, divided by their largest magnitude; and groups of such series
        (`flowrank.family.SeriesGroup`) for models that read groups.
    source
        For the recipe and the report.
    skipped
        Series left out, by reason.
    own
        The user's series among the contexts.
    """

    contexts: list[Context]
    source: str
    skipped: dict[str, int]
    own: list[Tensor] = field(default_factory=list)

    @classmethod
    def read(
        cls,
        series: Any,
        *,
        count: int,
        points: int = POINTS,
        seed: int = 0,
        mixed: bool = False,
        groups: bool = False,
        **columns: Any,
    ) -> Calibration:
        """Take the first ``count`` usable series of a source, or of the built-in generator if ``series`` is None.

        Parameters
        ----------
        series
            A source, or None.
        count, points
            Series, and last points of each, at most.
        seed
            Of the generator.
        mixed
            Whether every second synthetic series is cut to 16, 32, … ``points`` / 2 values, each equally often, since a
            model fitted to long contexts need not suit short ones; and whether some get a level
            (`flowrank.synthetic.lifted`).
        groups
            Whether to add synthetic groups of series, for a model that reads such: on single series alone, attention to
            other series would seem to do nothing. They are a third of all series, or, where a source is given, half as
            many as its series.
        **columns
            As of `flowrank.series.read_series`.

        Raises
        ------
        FlowrankError
            If ``count`` is not positive or no series is usable: each is shorter than 4 observed points, or constant.
        """
        check_count(count, "calibration_series")
        check_count(points, "calibration_points")
        if groups and series is None:
            count -= count // 3
        if series is None:
            source: Any = synthetic_series(count, length=max(points, SYNTHETIC_POINTS), seed=seed)
            source = _varied(source, points) if mixed else source
            name = f"synthetic, seed {seed}"
        else:
            source, name = read_series(series, **columns), _name(series)
        skipped: Counter[str] = Counter()
        own: list[Tensor] = []
        examples: dict[str, str] = {}
        for item in source:
            reason = _unusable(item, points)
            if reason is None:
                own.append(_context(item, points))
            else:
                skipped[reason] += 1
                examples.setdefault(reason, item.item_id)
            if len(own) == count:
                break
        if not own:
            found = ", ".join(f"{n} {reason} (e.g. {examples[reason]!r})" for reason, n in skipped.items())
            raise FlowrankError(
                "series",
                expected=f"at least one calibration series with {SHORTEST} observed points that vary",
                found=found or "no series at all",
                todo="pass longer or other series, or leave the argument out to use synthetic ones",
            )
        made = cls(list(own), name, dict(skipped), [] if series is None else own)
        return made._with_groups(max(LEAST_GROUPED, len(own) // 2), points, seed) if groups else made

    def _with_groups(self, rows: int, points: int, seed: int) -> Calibration:
        """With synthetic groups of so many series in all, in random order."""
        groups: list[Context] = []
        left = rows
        for task in synthetic_tasks(4 * rows + 8, length=max(points, SYNTHETIC_POINTS), seed=seed):
            if left <= 0:
                break
            if task.size > 1 and (made := _group(task, points)) is not None:
                groups.append(made)
                left -= task.size
        contexts: list[Context] = [*self.contexts, *groups]
        order = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(seed)).tolist()
        source = f"{self.source}; synthetic groups, seed {seed}"
        return Calibration([contexts[i] for i in order], source, self.skipped, self.own)

    def mixed_with(self, other: Calibration) -> Calibration:
        """Contexts of both, alternating, then the rest of the longer.

        Examples
        --------
        >>> one, two = (Calibration([torch.ones(n)] * n, name, {}) for n, name in ((1, "a"), (2, "b")))
        >>> both = one.mixed_with(two)
        >>> both.source, [len(context) for context in both.contexts]
        ('a; b', [1, 2, 2])
        """
        turns = zip_longest(self.contexts, other.contexts)
        contexts = [context for both in turns for context in both if context is not None]
        skipped = dict(Counter(self.skipped) + Counter(other.skipped))
        return Calibration(contexts, f"{self.source}; {other.source}", skipped, [*self.own, *other.own])


def _varied(source: Iterable[Series], points: int) -> Iterator[Series]:
    """Cut every second series to its last 16, 32, … ``points`` / 2 values, and add a level to every eighth pair.

    A series that is constant or too short there stays whole.
    """
    lengths = [16 * 2**i for i in range(max(1, math.ceil(math.log2(max(points, 17) / 16))))]
    for i, one in enumerate(source):
        whole = replace(one, target=lifted(one.target, i // 2))
        number = i // 2 + 5 * (i // (2 * EVERY))  # so that series on a level get all lengths
        short = replace(whole, target=whole.target[-lengths[number % len(lengths)] :])
        yield whole if i % 2 or _unusable(short, points) else short


def _unusable(item: Series, points: int) -> str | None:
    observed = item.target[-points:][np.isfinite(item.target[-points:])]
    if len(observed) == 0:
        return "all missing"
    if len(observed) < SHORTEST:
        return "too short"
    if np.ptp(observed) == 0:
        return "constant"
    return None


def _context(item: Series, points: int) -> Tensor:
    values = item.target[-points:]
    return torch.as_tensor(values / np.nanmax(np.abs(values)), dtype=torch.float32)


def _group(task: Task, points: int) -> SeriesGroup | None:
    """Series of a task, each divided by its largest magnitude; None if one says nothing."""
    values = task.values[:, -points:]
    observed = np.isfinite(values).sum(axis=1) >= SHORTEST
    if not observed.all():
        return None
    sizes = np.nanmax(np.abs(values), axis=1, keepdims=True)
    scaled = torch.as_tensor(values / np.where(sizes > 0, sizes, 1.0), dtype=torch.float32)
    return SeriesGroup(scaled, torch.from_numpy(task.known.astype(bool)))


def _name(series: Any) -> str:
    import os

    return os.path.basename(os.fspath(series)) if isinstance(series, str | os.PathLike) else type(series).__name__
