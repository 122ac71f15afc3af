"""Histories in, quantiles out: what forecasts and evaluation share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.forecasting.levels import DEFAULT_LEVELS, check_levels
from flowrank.forecasting.scale import moderated
from flowrank.randomness import seeded

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

_WINDOW = 16  # batches that are sorted by length together
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Request(Generic[_Key]):
    """A history to forecast, and whatever its caller needs to recognise it by.

    Examples
    --------
    >>> Request("A", np.ones(3), key=7).key
    7
    """

    item_id: str
    history: np.ndarray
    key: _Key


def predict_requests(
    pipeline: BaseChronosPipeline,
    requests: Iterable[Request[_Key]],
    *,
    horizon: int,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    batch_size: int = 32,
    seed: int = 0,
    argument: str = "series",
    predict_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Request[_Key], np.ndarray, np.ndarray]]:
    """Forecast histories in their order, through the pipeline's own ``predict_quantiles``.

    A window of 16 batches is held in memory; in it histories of like length form a batch, so that little
    is padded. Each history is cut to the model's context, divided by a power of two where its
    magnitude lies outside 10⁻⁸ … 10⁸ (undone exactly afterwards), and, for models that subtract a mean
    themselves, moved to its mean where its spread is less than 10⁻⁵ of its magnitude: in fp32 it would be
    lost.

    Parameters
    ----------
    requests
        Histories, shape ``(time,)`` each, float64.
    quantile_levels
        Increasing levels, shape ``(levels,)``.

    Yields
    ------
    request, quantiles, mean
        In the order of ``requests``: quantiles of shape ``(horizon, levels)``, increasing along the levels,
        and the pipeline's point forecast, shape ``(horizon,)``; finite, float64.

    Raises
    ------
    FlowrankError
        If a history has no observed value in the model's context, or the model's output is not finite.
    """
    levels = check_levels(quantile_levels)
    horizon = check_count(horizon, "horizon")
    batch_size = check_count(batch_size, "batch_size")
    context_length = int(pipeline.model_context_length)
    remaining = (_cut(request, context_length, argument) for request in requests)
    by_series = getattr(pipeline, "path", "stock") == "exact"  # its noise belongs to a series, not to a batch
    batches = 0
    while window := list(islice(remaining, _WINDOW * batch_size)):
        order = sorted(range(len(window)), key=lambda i: -len(window[i].history))
        results: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(window)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            forecasts = _predict_batch(
                pipeline,
                [window[i].history for i in chosen],
                horizon,
                levels,
                (seed, 0 if by_series else batches),
                predict_kwargs or {},
            )
            for i, quantiles, mean in zip(chosen, *forecasts, strict=True):
                results[i] = (quantiles, mean)
            batches += 1
        for request, result in zip(window, results, strict=True):
            assert result is not None
            if not (np.isfinite(result[0]).all() and np.isfinite(result[1]).all()):
                raise FlowrankError(
                    argument,
                    expected="finite forecasts",
                    found=f"forecasts that are not finite for series {request.item_id!r}",
                    todo="check the model's weights; values near the largest float64 cannot be forecast",
                )
            yield request, *result


def _cut(request: Request[_Key], context_length: int, argument: str) -> Request[_Key]:
    context = np.array(request.history[-context_length:], dtype=np.float64)  # a copy: lets the history go
    if not np.isfinite(context).any():
        length = len(request.history)
        raise FlowrankError(
            argument,
            expected=f"an observed value in the last {context_length} of each series (the model's context)",
            found=f"series {request.item_id!r}, which " + ("is empty" if length == 0 else "has none"),
            todo="leave the series out",
        )
    return Request(request.item_id, context, request.key)


def _predict_batch(
    pipeline: BaseChronosPipeline,
    histories: list[np.ndarray],
    horizon: int,
    levels: list[float],
    seed: tuple[int, int],
    predict_kwargs: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles ``(batch, horizon, levels)`` and means ``(batch, horizon)``, float64."""
    import torch

    centred = pipeline.forecast_type.name == "QUANTILES"
    scaled = [moderated(history, centred) for history in histories]
    batch = np.full((len(histories), max(map(len, histories))), np.nan)
    for row, (values, _, _) in zip(batch, scaled, strict=True):
        row[len(row) - len(values) :] = values
    with seeded(pipeline, int(np.random.SeedSequence(seed).generate_state(1)[0])) as options:
        quantiles, mean = pipeline.predict_quantiles(
            torch.from_numpy(batch).to(torch.float32),
            prediction_length=horizon,
            quantile_levels=levels,
            **options,
            **predict_kwargs,
        )
    if isinstance(quantiles, list):  # Chronos-2: a tensor (variables, horizon, levels) for each series
        quantiles, mean = torch.stack([q[0] for q in quantiles]), torch.stack([m[0] for m in mean])
    exponents = np.array([exponent for _, exponent, _ in scaled])
    offsets = np.array([offset for _, _, offset in scaled])
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.sort(quantiles.double().cpu().numpy(), axis=-1) + offsets[:, None, None]
        m = mean.double().cpu().numpy() + offsets[:, None]
        return np.ldexp(q, exponents[:, None, None]), np.ldexp(m, exponents[:, None])
