"""Histories in, quantiles out: what forecasts and evaluation share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.forecasting.corrections import Corrections, constant_value, excess_level, missing_at_end
from flowrank.forecasting.levels import DEFAULT_LEVELS, check_levels
from flowrank.forecasting.model import LEAST_ROWS, Model
from flowrank.forecasting.scale import Moderated
from flowrank.forecasting.skipping import usable
from flowrank.series.value import OnBad

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

_WINDOW = 16  # batches that are sorted by length together
_MANY = 128  # the same, where a batch has series of one length only
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Request(Generic[_Key]):
    """A history to forecast, and whatever its caller needs to recognise it by.

    Examples
    --------
    >>> Request("A", np.ones(3), key=7).key
    7
    """

    item_id: Any
    history: np.ndarray
    key: _Key


@dataclass(frozen=True)
class _Prepared(Generic[_Key]):
    """A request whose history is what the model reads.

    ``late`` steps are forecast before the first that is asked for; a ``constant`` needs no model; ``history`` is the
    original less ``offset``.
    """

    request: Request[_Key]
    history: np.ndarray
    late: int = 0
    constant: float | None = None
    offset: float = 0.0


def predict_requests(
    pipeline: BaseChronosPipeline,
    requests: Iterable[Request[_Key]],
    *,
    horizon: int,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    batch_size: int = 32,
    seed: int = 0,
    argument: str = "series",
    corrections: Corrections | None = None,
    non_negative: bool = False,
    predict_kwargs: Mapping[str, Any] | None = None,
    on_bad: OnBad | None = None,
    batch_invariant: bool = False,
) -> Iterator[tuple[Request[_Key], np.ndarray, np.ndarray]]:
    """Forecast histories in their order, through the pipeline's own ``predict_quantiles``.

    A window of 16 batches is held in memory; in it histories of like length form a batch, so that little
    is padded. Each history is cut to the model's context, corrected, divided by a power of two where its
    magnitude lies outside 10⁻⁸ … 10⁸ (undone exactly afterwards), and, for models that subtract a mean
    themselves, moved to its mean where its spread is less than 10⁻⁵ of its magnitude: in fp32 it would be
    lost.

    Parameters
    ----------
    requests
        Histories, shape ``(time,)`` each, float64.
    quantile_levels
        Increasing levels, shape ``(levels,)``.
    corrections
        Which weaknesses of models are worked around; None: all of `Corrections`.
    non_negative
        Whether no value can be below 0: forecasts are then raised to 0, and histories with a negative value refused.
    on_bad
        Called with the id and the error of each history that cannot be used, which is left out; None: it is raised.
    batch_invariant
        Whether a forecast depends, to its last bit, on nothing but its history: a batch then holds histories of one
        length, and eight rows at least, and all products are of one library, whatever the number of rows.

    Yields
    ------
    request, quantiles, mean
        In the order of ``requests``: quantiles of shape ``(horizon, levels)``, increasing along the levels,
        and the pipeline's point forecast, shape ``(horizon,)``; finite, float64.

    Raises
    ------
    FlowrankError
        If a history has no observed value in the model's context, or a negative one against ``non_negative``, a level
        is out of the model's reach, the model's output is not finite, or ``batch_invariant`` is asked of an engine
        that draws the noise of a batch as a whole.
    """
    corrections = Corrections() if corrections is None else corrections
    levels = check_levels(quantile_levels)
    horizon = check_count(horizon, "horizon")
    batch_size = check_count(batch_size, "batch_size")
    model = Model(pipeline, levels, corrections, dict(predict_kwargs or {}))
    remaining = usable(
        requests,
        partial(_prepared, model=model, corrections=corrections, non_negative=non_negative, argument=argument),
        on_bad,
    )
    if batch_invariant:
        model.check_noise_by_series()
    batches = 0
    while window := list(islice(remaining, (_MANY if batch_invariant else _WINDOW) * batch_size)):
        results: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(window)
        for place, one in enumerate(window):
            if one.constant is not None:
                results[place] = (np.full((horizon, len(levels)), one.constant), np.full(horizon, one.constant))
        for chosen in _batches(window, horizon, model.reach, batch_size, alike=batch_invariant):
            late = [window[place].late for place in chosen]
            histories = [Moderated.of(window[place].history, centred=model.subtracts_mean) for place in chosen]
            if batch_invariant:
                histories += histories[-1:] * (LEAST_ROWS - len(histories))
            noise = seed, 0 if model.noise_by_series else batches
            with model.one_library() if batch_invariant else nullcontext():
                quantiles, means = model.predict(histories, horizon + max(late), noise)
            for row, (place, skipped) in enumerate(zip(chosen, late, strict=True)):
                asked, offset = slice(skipped, skipped + horizon), window[place].offset
                results[place] = (quantiles[row, asked] + offset, means[row, asked] + offset)
            batches += 1
        for one, result in zip(window, results, strict=True):
            assert result is not None
            if not (np.isfinite(result[0]).all() and np.isfinite(result[1]).all()):
                raise FlowrankError(
                    argument,
                    expected="finite forecasts",
                    found=f"forecasts that are not finite for series {one.request.item_id!r}",
                    todo="check the model's weights; values near the largest float64 cannot be forecast",
                )
            if non_negative:
                result = (result[0].clip(min=0.0), result[1].clip(min=0.0))
            yield one.request, *result


def _prepared(
    request: Request[_Key], model: Model, corrections: Corrections, non_negative: bool, argument: str
) -> _Prepared[_Key]:
    context = np.array(request.history[-model.context_length :], dtype=np.float64)  # a copy: lets the history go
    light = Request(request.item_id, context, request.key)
    if not np.isfinite(context).any():
        length = len(request.history)
        raise FlowrankError(
            argument,
            expected=f"an observed value in the last {model.context_length} of each series (the model's context)",
            found=f"series {request.item_id!r}, which " + ("is empty" if length == 0 else "has none"),
            todo="leave the series out (--skip-bad)",
        )
    late = missing_at_end(context) if corrections.missing_tail else 0
    if late:  # as many earlier values take their place in the model's context
        observed = len(request.history) - late
        context = np.array(request.history[max(0, observed - model.context_length) : observed], dtype=np.float64)
    if non_negative and (context < 0).any():
        raise FlowrankError(
            argument,
            expected="no value below 0, as forecasts are to be non-negative",
            found=f"{float(np.nanmin(context))!r} in series {request.item_id!r}",
            todo="correct the value, or forecast without non_negative (--non-negative)",
        )
    constant = constant_value(context) if corrections.constant else None
    if constant is not None:
        return _Prepared(light, context, late, constant)
    context = context[int(np.isfinite(context).argmax()) :]  # models leave out what is missing at the beginning
    offset = excess_level(context, model.input_step) if corrections.level else 0.0
    return _Prepared(light, context - offset if offset else context, late, offset=offset)


def _batches(
    window: Sequence[_Prepared[Any]], horizon: int, reach: int, batch_size: int, *, alike: bool
) -> Iterator[list[int]]:
    """Yield places in the window that go through the model together: of like length, and as many blocks of horizon.

    ``alike``: of one length, with as many values missing at the end.
    """

    def kind(place: int) -> tuple[int, ...]:
        one = window[place]
        return (one.late, len(one.history)) if alike else (-(-(horizon + one.late) // reach),)

    order = sorted(
        (place for place, one in enumerate(window) if one.constant is None),
        key=lambda place: (kind(place), -len(window[place].history)),
    )
    for _, group in groupby(order, key=kind):
        some = list(group)
        for first in range(0, len(some), batch_size):
            yield some[first : first + batch_size]
