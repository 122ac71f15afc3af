"""Forecasts of several targets together, with covariates: groups in, quantiles out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError
from flowrank.forecasting.model import LEAST_ROWS, Model
from flowrank.forecasting.scale import Moderated
from flowrank.forecasting.skipping import usable
from flowrank.series.categories import UNKNOWN
from flowrank.series.futures import known_values
from flowrank.series.grids import future_timestamps
from flowrank.series.groups import Group
from flowrank.series.value import OnBad
from flowrank.series.values import Categories

_WINDOW = 16  # batches of single series, or as many values of groups, that are sorted by length together
_NO_CATEGORY = "\0"  # in place of a category that the history does not have


@dataclass(frozen=True)
class Roles:
    """Which columns of a group are what, in their order.

    Attributes
    ----------
    targets, past, known
        Names of the targets, of the covariates of the past alone, and of those known of the future as well.
    categories
        Of the covariates that are no numbers.

    Examples
    --------
    >>> Roles(("sold",), known=("price",)).covariates
    ('price',)
    """

    targets: tuple[Any, ...]
    past: tuple[Any, ...] = ()
    known: tuple[Any, ...] = ()
    categories: Categories | None = None

    @property
    def covariates(self) -> tuple[Any, ...]:
        """All covariates."""
        return (*self.past, *self.known)

    @property
    def coded_by_target(self) -> bool:
        """Whether the model turns categories into numbers itself, by the one target's values at each."""
        return len(self.targets) == 1 and bool(self.categories)


@dataclass(frozen=True, eq=False)
class GroupRequest:
    """A group to forecast.

    Attributes
    ----------
    item_id
        Of the group.
    history
        Shape (columns, time): targets, then covariates.
    future
        Shape (known covariates, horizon).
    steps
        The steps to forecast, shape (horizon,): times, or numbers where there are none.
    """

    item_id: Any
    history: np.ndarray
    future: np.ndarray
    steps: pd.Index


def group_request(group: Group, roles: Roles, steps: pd.Index) -> GroupRequest:
    """Put what is known of the future to a history.

    Raises
    ------
    FlowrankError
        As `flowrank.series.futures.known_values`.

    Examples
    --------
    >>> from flowrank.series import Series
    >>> group = Group(Series("A", np.array([[1.0, 5.0], [2.0, 6.0]])))
    >>> request = group_request(group, Roles(("sold", "returned")), pd.RangeIndex(2, 4))
    >>> request.history.tolist(), request.future.shape
    ([[1.0, 2.0], [5.0, 6.0]], (0, 2))
    """
    series = group.series
    future = np.empty((len(steps), 0))
    if roles.known:
        last = None
        if series.start is not None and series.freq is not None:
            last = future_timestamps(series.start, len(series) - 1, series.freq, 1)[0]
        future = known_values(group.future, series.item_id, roles.known, steps, last)
    return GroupRequest(series.item_id, series.target.reshape(len(series), -1).T, future.T, steps)


@dataclass(frozen=True)
class _Prepared:
    """What the model reads of a group, and how its targets were scaled."""

    item_id: Any
    steps: pd.Index
    inputs: dict[str, Any]
    scales: list[Moderated]

    @property
    def length(self) -> int:
        """Steps of the history."""
        return int(self.inputs["target"].shape[1])


def predict_groups(
    model: Model,
    requests: Iterable[GroupRequest],
    roles: Roles,
    *,
    batch_size: int,
    seed: int = 0,
    cross_learning: bool = False,
    non_negative: bool = False,
    on_bad: OnBad | None = None,
    batch_invariant: bool = False,
) -> Iterator[tuple[Any, pd.Index, np.ndarray, np.ndarray]]:
    """Forecast groups in their order.

    Missing values stay missing, at the end as well: the model reads them so. Histories are cut to the model's context;
    values of a size that fp32 does not hold are scaled as those of single series.

    Parameters
    ----------
    model
        Of a pipeline that says ``takes_groups``.
    roles
        What the columns of the requests are.
    batch_size
        Groups in one pass through the model.
    cross_learning
        Whether the groups of a batch are read as one; batches then keep the order of the requests.
    non_negative, on_bad, batch_invariant
        As of `flowrank.forecasting.predict_requests`; what is said of histories there holds of groups here.

    Yields
    ------
    item_id, steps, quantiles, mean
        In the order of ``requests``: id and steps of a request, its quantiles, shape (targets, horizon, levels), and
        point forecasts, shape (targets, horizon); float64.

    Raises
    ------
    FlowrankError
        If a target has no observed value in the model's context, or a negative one against ``non_negative``, or the
        model's output is not finite; or if ``batch_invariant`` is asked for with ``cross_learning``.
    """
    if batch_invariant and cross_learning:
        raise FlowrankError(
            "batch_invariant",
            expected="False with cross_learning, by which a forecast depends on the others of its batch",
            found=True,
            todo="leave one of them out",
        )
    prepare = partial(_prepared, roles=roles, model=model, non_negative=non_negative)
    remaining = usable(requests, prepare, on_bad)
    batches = 0
    columns = len(roles.targets) + len(roles.covariates)
    held = batch_size if cross_learning else batch_size * max(1, _WINDOW // columns)
    while window := list(islice(remaining, held)):
        places = list(range(len(window)))
        if not cross_learning:
            places.sort(key=lambda place: -window[place].length)
        results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for chosen in _batches(window, places, batch_size, alike=batch_invariant):
            inputs = [window[place].inputs for place in chosen]
            if batch_invariant:
                inputs += inputs[-1:] * (LEAST_ROWS - len(inputs))
            with model.one_library() if batch_invariant else nullcontext():
                found = model.predict_groups(
                    inputs,
                    len(window[0].steps),
                    (seed, batches),
                    batch_size=len(inputs) * columns,  # rows
                    cross_learning=cross_learning,
                )
            results |= {place: _restored(window[place], *one) for place, one in zip(chosen, found, strict=False)}
            batches += 1
        for place, one in enumerate(window):
            yield one.item_id, one.steps, *_checked(one.item_id, *results[place], non_negative)


def _batches(window: Sequence[_Prepared], places: list[int], batch_size: int, *, alike: bool) -> Iterator[list[int]]:
    """Yield places in the window that go through the model together; ``alike``: of one length."""
    lengths = groupby(places, key=lambda place: window[place].length if alike else 0)
    for group in [list(some) for _, some in lengths]:
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


def _restored(one: _Prepared, quantiles: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.stack([scale.restored(values) for scale, values in zip(one.scales, quantiles, strict=True)]),
        np.stack([scale.restored(values) for scale, values in zip(one.scales, means, strict=True)]),
    )


def _checked(
    item_id: Any, quantiles: np.ndarray, means: np.ndarray, non_negative: bool
) -> tuple[np.ndarray, np.ndarray]:
    if not (np.isfinite(quantiles).all() and np.isfinite(means).all()):
        raise FlowrankError(
            "series",
            expected="finite forecasts",
            found=f"forecasts that are not finite for series {item_id!r}",
            todo="check the model's weights; values near the largest float64 cannot be forecast",
        )
    return (quantiles.clip(min=0.0), means.clip(min=0.0)) if non_negative else (quantiles, means)


def _prepared(request: GroupRequest, roles: Roles, model: Model, non_negative: bool) -> _Prepared:
    context, count = np.array(request.history[:, -model.context_length :]), len(roles.targets)
    _check_targets(request.item_id, context[:count], roles, model, non_negative)
    history = request.history if roles.coded_by_target else context  # coding takes the whole history
    scales = [_moderated(row, model) for row in history[:count]]
    past, future = {}, {}
    for number, name in enumerate(roles.covariates):
        key, known = f"{number:05}", number - len(roles.past)
        after = request.future[known] if known >= 0 else np.empty(0)
        past[key], after = _covariate(name, history[count + number], after, roles, model)
        if known >= 0:
            future[key] = after
    inputs: dict[str, Any] = {"target": np.stack([scale.values for scale in scales])}
    inputs |= {"past_covariates": past} if past else {}
    inputs |= {"future_covariates": future} if future else {}
    return _Prepared(request.item_id, request.steps, inputs, scales)


def _check_targets(item_id: Any, targets: np.ndarray, roles: Roles, model: Model, non_negative: bool) -> None:
    for name, values in zip(roles.targets, targets, strict=True):
        if not np.isfinite(values).any():
            raise FlowrankError(
                "series",
                expected=f"an observed value in the last {model.context_length} of each target (the model's context)",
                found=f"series {item_id!r}, which has none in {name!r}",
                todo="leave the series out (--skip-bad)",
            )
        if non_negative and (values < 0).any():
            raise FlowrankError(
                "series",
                expected="no value below 0, as forecasts are to be non-negative",
                found=f"{float(np.nanmin(values))!r} in {name!r} of series {item_id!r}",
                todo="correct the value, or forecast without non_negative (--non-negative)",
            )


def _moderated(values: np.ndarray, model: Model) -> Moderated:
    return Moderated.of(values, centred=model.subtracts_mean) if np.isfinite(values).any() else Moderated(values)


def _covariate(
    name: Any, past: np.ndarray, future: np.ndarray, roles: Roles, model: Model
) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads of a covariate: numbers, or the texts of categories."""
    categories: Sequence[str] | None = (roles.categories or {}).get(name)
    if categories is None:
        values = _moderated(np.concatenate([past, future]), model).values
        return values[: len(past)], values[len(past) :]
    if roles.coded_by_target:
        words = np.array([*categories, _NO_CATEGORY, np.nan], dtype=object)  # the last but one has place -2
        places = [np.where(np.isnan(codes), -1, np.where(codes == UNKNOWN, -2, codes)) for codes in (past, future)]
        return words[places[0].astype(int)], words[places[1].astype(int)]
    before, after = (np.where(np.isnan(codes), float(len(categories)), codes) for codes in (past, future))
    return before, np.where(after == UNKNOWN, np.nan, after)
