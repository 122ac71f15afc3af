"""Where series are cut into contexts and targets, alone or as the series of one task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowrank.synthetic.tasks import Task

_FURTHEST = 15.0  # a target further off than this many standard deviations of its context teaches nothing
_FEWEST = 3  # observed values of a context


class JointWindows(NamedTuple):
    """Series cut at one time, task by task.

    Attributes
    ----------
    context, target
        Shapes ``(series, length)`` and ``(series, horizon)``, float32, NaN = missing or not to be learnt; each series
        divided by the mean magnitude of its context.
    known
        Shape ``(series,)``: whether the target is known when forecasting.
    group
        Shape ``(series,)``: number of the task of each.
    """

    context: np.ndarray
    target: np.ndarray
    known: np.ndarray
    group: np.ndarray

    def numbered(self, number: int) -> JointWindows:
        """The same of a task with this number."""
        return self._replace(group=np.full_like(self.group, number))

    def first(self, count: int) -> JointWindows:
        """Without the series after the first ``count``."""
        return JointWindows(*(values[:count] for values in self))


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


def cut_task(task: Task, length: int, horizon: int, *, most_missing: float = 0.9) -> JointWindows | None:
    """Cut the series of a task at one time, or give None where nothing in it can teach.

    What counts is the time since any of the targets began: a task shorter than ``length + horizon`` gives its last
    third. A series whose own past is too short, has too many gaps or never changes is read but not learnt.

    Parameters
    ----------
    task
        Series and what is known of them.
    length, horizon
        Lengths of what is returned; a shorter context is NaN on the left, a shorter target on the right.
    most_missing
        Greatest share of missing values in the context of a series that is learnt.

    Examples
    --------
    >>> task = Task(np.array([[1.0, 1.0, 4.0, 2.0, 2.0, 6.0], [0, 0, 0, 1, 0, 1.0]]), np.array([False, True]))
    >>> windows = cut_task(task, 4, 2)
    >>> windows.context.tolist(), windows.target.tolist()
    ([[0.5, 0.5, 2.0, 1.0], [0.0, 0.0, 0.0, 4.0]], [[1.0, 3.0], [0.0, 4.0]])
    """
    learnt = ~task.known
    begun = ~np.isnan(task.values[learnt]).all(axis=0)
    if not begun.any():
        return None
    total = task.values.shape[1]
    ahead = reach(total - int(begun.argmax()), length, horizon)
    past, future = task.values[:, max(0, total - ahead - length) : total - ahead], task.values[:, total - ahead :]
    sound, mean, spread, scale = _told(past, most_missing)
    useless = np.isnan(past).all(axis=1) & learnt
    far = np.abs(future - mean) > _FURTHEST * spread
    left_out = learnt[:, None] & (far | ~sound[:, None])
    context = np.full((len(past), length), np.nan, dtype=np.float32)
    target = np.full((len(past), horizon), np.nan, dtype=np.float32)
    context[:, length - past.shape[1] :] = past / scale
    target[:, :ahead] = np.where(left_out, np.nan, future / scale)
    if np.isnan(target[learnt]).all():
        return None
    kept = ~useless
    return JointWindows(context[kept], target[kept], task.known[kept], np.zeros(int(kept.sum()), dtype=np.int64))


def _told(past: np.ndarray, most_missing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which rows can be learnt, (rows,), and the mean, spread and mean magnitude of each, (rows, 1)."""
    observed = ~np.isnan(past)
    count = observed.sum(axis=1, keepdims=True)
    filled = np.where(observed, past, 0.0)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    spread = np.sqrt((np.where(observed, past - mean, 0.0) ** 2).sum(axis=1, keepdims=True) / np.maximum(count, 1))
    scale = np.abs(filled).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    since = past.shape[1] - observed.argmax(axis=1)
    enough = count[:, 0] >= np.maximum(_FEWEST, (1 - most_missing) * since)
    changes = np.fmin.reduce(past, axis=1) < np.fmax.reduce(past, axis=1)
    return enough & changes, mean, spread, np.where(scale > 0, scale, 1.0)
