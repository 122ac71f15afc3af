"""Backtests of models that read several series together: synthetic tasks, some with a covariate known ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flowrank.evaluation import seasonal_error
from flowrank.forecasting import DEFAULT_LEVELS
from flowrank.pretraining.cutting import JointWindows, cut_task
from flowrank.synthetic.tasks import synthetic_tasks

_LENGTHS = (64, 256)  # of histories, in turns
_STREAM = 7_000_003  # added to the seed: nothing else draws from it
_BATCH = 64  # tasks that are forecast together


class JointCases:
    """Tasks whose targets are forecast, with what followed.

    Parameters
    ----------
    count
        Tasks.
    context, horizon
        Longest history, and H, steps ahead.
    seed
        Of the tasks.
    """

    def __init__(self, count: int, *, context: int, horizon: int, seed: int) -> None:
        self.horizon = horizon
        lengths = [min(length, context) for length in _LENGTHS]
        self._windows: list[JointWindows] = []
        streams = [
            synthetic_tasks(8 * count + 8, length=length + horizon, seed=seed + _STREAM + place)
            for place, length in enumerate(lengths)
        ]
        for number in range(2 * count):
            if len(self._windows) == count:
                break
            place = number % len(lengths)
            found = _next(streams[place], lengths[place], horizon)
            if found is not None:
                self._windows.append(found)
        self.scales = [_scale(one) for one in self._windows]

    def __len__(self) -> int:
        return len(self._windows)

    def losses(self, pipeline: Any, metric: str) -> np.ndarray:
        """Loss of every task, (tasks,): twice the summed quantile loss, or the scaled error of the median."""
        levels = np.array(DEFAULT_LEVELS)
        found = np.empty(len(self))
        for batch in self._batches():
            tasks = [self._windows[i] for i in batch]
            quantiles, _ = pipeline.predict_quantiles(
                [_inputs(one) for one in tasks], prediction_length=self.horizon, quantile_levels=list(DEFAULT_LEVELS)
            )
            for i, one, values in zip(batch, tasks, quantiles, strict=True):
                truth = one.target[~one.known].astype(float)
                error = truth[..., None] - values.double().cpu().numpy()
                if metric == "WQL":
                    found[i] = 2 * np.nansum(np.maximum(levels * error, (levels - 1) * error)) / len(levels)
                else:
                    found[i] = np.nanmean(np.abs(error[..., len(levels) // 2])) / self.scales[i]
        return found

    def _batches(self) -> Iterator[list[int]]:
        """Tasks of like shape, some at a time."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, one in enumerate(self._windows):
            alike.setdefault((int((~one.known).sum()), int(one.known.sum()), one.context.shape[1]), []).append(i)
        for indices in alike.values():
            yield from (indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH))


def _next(tasks: Iterator[Any], length: int, horizon: int) -> JointWindows | None:
    """The next task of several series whose targets can be scored."""
    for task in tasks:
        windows = cut_task(task, length, horizon) if task.size > 1 else None
        if windows is not None and len(windows.context) > 1 and _scale(windows) > 0:
            return windows
    return None


def _scale(windows: JointWindows) -> float:
    """Mean error of repeating the last value, over the histories of the targets."""
    errors = [seasonal_error(one[~np.isnan(one)].astype(float), 1) for one in windows.context[~windows.known]]
    return float(np.mean(errors)) if errors else 0.0


def _inputs(windows: JointWindows) -> dict[str, Any]:
    """A task as chronos-forecasting takes it."""
    names = [f"covariate {i}" for i in range(int(windows.known.sum()))]

    def named(rows: np.ndarray) -> dict[str, Sequence[float]]:
        return dict(zip(names, rows[windows.known], strict=True))

    task: dict[str, Any] = {"target": windows.context[~windows.known]}
    return task | {"past_covariates": named(windows.context), "future_covariates": named(windows.target)}
