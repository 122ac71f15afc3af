"""What a model of groups is asked to forecast: targets and covariates, as `Chronos2Pipeline.predict` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.graphs.groups import Rows

_KEYS = ("target", "past_covariates", "future_covariates")


@dataclass(frozen=True)
class Task:
    """Series that are forecast together.

    Attributes
    ----------
    context
        Shape (series, time): targets, then covariates.
    future
        Shape (series, H): values known ahead, NaN elsewhere.
    targets
        How many of the series are to be forecast.
    """

    context: np.ndarray
    future: np.ndarray
    targets: int


def tasks_of(inputs: Any, horizon: int) -> list[Task]:
    """Tasks from inputs in any of their forms.

    Parameters
    ----------
    inputs
        A batch (series, variates, time); a list of series (time,) or (variates, time); or a list of dictionaries with
        ``target``, ``past_covariates`` and ``future_covariates``.
    horizon
        H, the steps that covariates known ahead must have.

    Raises
    ------
    FlowrankError
        If they are none of these, or a covariate is no numbers.

    Examples
    --------
    >>> [one.context.shape for one in tasks_of([[1.0, 2.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], 4)]
    [(1, 2), (2, 3)]
    """
    if hasattr(inputs, "ndim") and inputs.ndim != 3:
        raise _refused(f"an array of {inputs.ndim} dimensions")
    try:
        given = list(inputs)
    except TypeError:
        raise _refused(type(inputs).__name__) from None
    if isinstance(inputs, Mapping | str) or not given:
        raise _refused("a dictionary" if isinstance(inputs, Mapping) else "none" if not given else "text")
    found = [isinstance(one, Mapping) for one in given]
    if any(found) and not all(found):
        raise _refused("dictionaries among arrays")
    if not any(found):
        return [_task(_rows(one, f"at index {place}"), [], horizon) for place, one in enumerate(given)]
    schema = _schema(given[0], 0)
    for place, one in enumerate(given):
        if (other := _schema(one, place)) != schema:
            raise _refused(
                f"{_told(other)} at index {place}, {_told(schema)} at index 0",
                expected="the same number of targets and the same covariates in every dictionary",
                todo="forecast unlike tasks in calls of their own",
            )
    return [_of_dictionary(one, place, horizon) for place, one in enumerate(given)]


def batches(
    tasks: Sequence[Task], size: int, context_length: int, *, joint: bool
) -> Iterator[tuple[Rows, list[slice]]]:
    """Tasks together, until they have ``size`` series or more, and where the targets of each are.

    ``joint``: whether all series of a batch are one group.
    """
    start = 0
    while start < len(tasks):
        stop, count = start, 0
        while stop < len(tasks) and count < size:
            count += len(tasks[stop].context)
            stop += 1
        some = tasks[start:stop]
        longest = min(context_length, max(one.context.shape[1] for one in some))
        context = np.full((count, longest), np.nan, dtype=np.float32)
        groups, targets, row = np.zeros(count, dtype=np.int64), [], 0
        for place, one in enumerate(some):
            rows = slice(row, row + len(one.context))
            kept = one.context[:, -longest:] if longest else one.context[:, :0]
            context[rows, longest - kept.shape[1] :] = kept
            groups[rows] = 0 if joint else place
            targets.append(slice(row, row + one.targets))
            row = rows.stop
        yield Rows(context, groups, np.concatenate([one.future for one in some])), targets
        start = stop


def _task(targets: np.ndarray, covariates: list[tuple[np.ndarray, np.ndarray | None]], horizon: int) -> Task:
    """A task of targets and of covariates, each with what is known ahead of it."""
    unknown = np.full(horizon, np.nan, dtype=np.float32)
    context = np.concatenate([targets, *(past[None] for past, _ in covariates)])
    future = [unknown] * len(targets) + [unknown if ahead is None else ahead for _, ahead in covariates]
    return Task(context, np.array(future, dtype=np.float32).reshape(len(context), horizon), len(targets))


def _of_dictionary(one: Mapping[str, Any], place: int, horizon: int) -> Task:
    targets = _rows(one["target"], f"in the target at index {place}")
    past, future = one.get("past_covariates") or {}, one.get("future_covariates") or {}
    covariates = []
    for name in sorted(past, key=lambda name: (name in future, name)):
        ahead = None
        if not _unavailable(future.get(name)):
            ahead = _covariate(future[name], name, place, "future_covariates", horizon)
        covariates.append((_covariate(past[name], name, place, "past_covariates", targets.shape[1]), ahead))
    return _task(targets, covariates, horizon)


def _schema(one: Mapping[str, Any], place: int) -> tuple[int, tuple[str, ...], tuple[tuple[str, bool], ...]]:
    """Number of targets, names of covariates, and those known ahead, with whether values are given."""
    if "target" not in one or not set(one) <= set(_KEYS):
        raise _refused(
            f"the keys {', '.join(map(str, one)) or 'none'} at index {place}",
            expected=f"dictionaries with the key target, and perhaps {_KEYS[1]} and {_KEYS[2]}",
        )
    past, future = (one.get(key) or {} for key in _KEYS[1:])
    for key, given in zip(_KEYS[1:], (past, future), strict=True):
        if not isinstance(given, Mapping):
            raise _refused(f"{type(given).__name__} at index {place}", expected=f"{key} as a dictionary of arrays")
    if not set(future) <= set(past):
        raise _refused(
            f"none of {', '.join(sorted(set(future) - set(past)))} in past_covariates at index {place}",
            expected="the past of each covariate that is known ahead",
        )
    shape = np.shape(one["target"])
    known = tuple((name, _unavailable(future[name])) for name in sorted(future))
    return (shape[0] if len(shape) == 2 else 1), tuple(sorted(past)), known


def _told(schema: tuple[int, tuple[str, ...], tuple[tuple[str, bool], ...]]) -> str:
    targets, past, known = schema
    ahead = [name for name, unavailable in known if not unavailable]
    return f"{targets} targets, covariates {list(past)}, of which {ahead} known ahead"


def _unavailable(values: Any) -> bool:
    """Whether nothing is given of a covariate known ahead."""
    return values is None or (hasattr(values, "__len__") and len(values) == 0)


def _covariate(values: Any, name: str, place: int, key: str, length: int) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "fiu":
        raise FlowrankError(
            "inputs",
            expected="covariates of numbers: an exported model encodes no categories",
            found=f"values of type {found.dtype} in {key}[{name!r}] at index {place}",
            todo="encode them as numbers first, or forecast with the model itself",
        )
    if found.shape != (length,):
        raise _refused(
            f"shape {found.shape} at index {place}", expected=f"{length} values, shape ({length},), in {key}[{name!r}]"
        )
    return found.astype(np.float32)


def _rows(values: Any, where: str) -> np.ndarray:
    """Series (time,) or (series, time) as (series, time), fp32."""
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise _refused(f"{error} {where}") from error
    if found.dtype.kind not in "fiub" or found.ndim not in (1, 2) or 0 in found.shape:
        raise _refused(f"values of type {found.dtype}, shape {found.shape}, {where}")
    return np.atleast_2d(found).astype(np.float32)


def _refused(found: str, *, expected: str = "", todo: str = "") -> FlowrankError:
    return FlowrankError(
        "inputs",
        expected=expected or "a batch of numbers (series, variates, time), a list of arrays or one of dictionaries",
        found=found,
        todo=todo or "pass e.g. [numpy.arange(48.0)]",
    )
