"""Does a model know seasons? The forecast of clean seasonal series against their noise-free continuation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowrank.errors import check_count
from flowrank.forecasting import quantiles_of
from flowrank.randomness import seeded

if TYPE_CHECKING:
    from flowrank.pipelines import Pipeline

PERIODS = (7, 12, 24, 48)
NOISE = 0.1


def seasonal_probe(
    pipeline: Pipeline,
    periods: Sequence[int] = PERIODS,
    *,
    count: int = 64,
    length: int = 512,
    horizon: int = 64,
    seed: int = 0,
) -> dict[int, float]:
    """Relative error ‖median forecast − truth‖ / ‖truth‖ on series of one random season with 10 % noise.

    1 says nothing (the mean), about 0.1 copies the last seasons.

    Parameters
    ----------
    pipeline
        A model.
    periods
        Season lengths; each gets ``count`` profiles of independent normal values, of zero mean and unit spread.
    count, length, horizon
        Series a period, values that the model sees, values that it forecasts.
    seed
        Of the series, and of sample paths (see `flowrank.forecasting.forecast`).

    Returns
    -------
    dict
        The relative error for each period.

    Raises
    ------
    FlowrankError
        If a number is not a whole one ≥ 1, or a period not ≥ 2.

    Examples
    --------
    >>> from flowrank import load
    >>> errors = seasonal_probe(load("flow-bolt-mini"), [7], count=8)
    >>> bool(errors[7] < 0.3)
    True
    """
    for name, value in (("count", count), ("length", length), ("horizon", horizon)):
        check_count(value, name)
    errors = {}
    for period in periods:
        context, truth = _seasonal(check_count(period, "periods", 2), count, length, horizon, seed)
        with seeded(pipeline, seed) as options:
            given = {"prediction_length": horizon, "quantile_levels": [0.5], **options}
            quantiles, _ = quantiles_of(pipeline, torch.from_numpy(context).float(), **given)
        told = torch.cat(quantiles) if isinstance(quantiles, list) else quantiles  # of groups, each of one series
        forecast = told[..., 0].double().cpu().numpy()
        errors[int(period)] = float(np.linalg.norm(forecast - truth) / np.linalg.norm(truth))
    return errors


def _seasonal(period: int, count: int, length: int, horizon: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy contexts (count, length) and their noise-free continuations (count, horizon)."""
    rng = np.random.default_rng([seed, period])
    profiles = rng.standard_normal((count, period))
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.maximum(profiles.std(axis=1, keepdims=True), 1e-12)
    clean = profiles[:, np.arange(length + horizon) % period]
    noise = NOISE * rng.standard_normal((count, length))
    return clean[:, :length] + noise, clean[:, length:]
