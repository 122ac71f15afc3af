"""Histories cut from series, what follows them, and the seasonal naive forecast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from pandas.tseries.offsets import CustomBusinessDay

from flowrank.errors import FlowrankError, check_count
from flowrank.evaluation.backtests import Backtest
from flowrank.forecasting import DEFAULT_LEVELS, Request
from flowrank.forecasting.skipping import Skipping
from flowrank.series import Series
from flowrank.series.calendars import Listed, MonthDays
from flowrank.series.frequency import offset_of
from flowrank.series.weeks import days_of


@dataclass(frozen=True)
class Truth:
    """What a forecast is compared with: labels ``(prediction_length,)`` and the in-sample seasonal error."""

    label: np.ndarray
    seasonal_error: float
    seasonality: int


def rolls(
    source: Iterable[Series], backtest: Backtest, max_series: int | None, skipping: Skipping, context: int
) -> Iterator[Request[Truth]]:
    """Yield the histories of each roll of each series, with what follows them; of ``max_series`` series at most."""
    count = 0
    most = None if max_series is None else check_count(max_series, "max_series")
    for series in source:
        try:
            requests = _cut(series, backtest, context if skipping.wanted else 0)
        except FlowrankError as error:
            skipping(series.item_id, error)
            continue
        yield from requests
        count += 1
        if count == most:  # what comes after it is not looked at
            return


def _cut(series: Series, backtest: Backtest, context: int) -> list[Request[Truth]]:
    """Return the rolls of a series; with a ``context``, refuse one of whose values none is in it."""
    argument, requests = f"data set {backtest.dataset!r}", []
    seasonality = season_length(series.freq)
    for cut in backtest.cuts(len(series)):
        end = cut + backtest.prediction_length
        if cut < 1 or end > len(series):
            raise FlowrankError(
                argument,
                expected=f"series that a cut at {backtest.offset}, {backtest.num_rolls} rolls of "
                f"{backtest.prediction_length} steps and a history fit in",
                found=f"series {series.item_id!r} of {len(series)} values",
                todo="leave it out (skip_bad=True, --skip-bad), or make the backtest shorter",
            )
        history = series.target[:cut]
        if context and not np.isfinite(history[-context:]).any():
            raise FlowrankError(
                argument,
                expected=f"an observed value in the last {context} of each history (the models' context)",
                found=f"series {series.item_id!r}, which has none before position {cut}",
            )
        truth = Truth(series.target[cut:end], seasonal_error(history, seasonality), seasonality)
        requests.append(Request(series.item_id, history, truth))
    return requests


def season_length(freq: str | None) -> int:
    """Return the number of steps in a season, by gluonts; 1 where the frequency is not known.

    Examples
    --------
    >>> [season_length(freq) for freq in ("h", "15min", "MS", "QS-JAN", "W-MON", "D", None)]
    [24, 96, 12, 4, 1, 1, 1]
    >>> [season_length(freq) for freq in ("MS-15", "MS-1-11-21", "3MS-15", "C:Mon Tue Wed Thu Fri Sat")]
    [12, 36, 4, 6]
    """
    from gluonts.time_feature import get_seasonality

    if freq is None:
        return 1
    calendar = offset_of(freq)
    if isinstance(calendar, MonthDays):
        return max(1, 12 * len(calendar.days) // calendar.months)
    if isinstance(calendar, Listed):
        return 1
    return len(days_of(calendar)) if isinstance(calendar, CustomBusinessDay) else get_seasonality(freq)


def seasonal_error(history: np.ndarray, seasonality: int) -> float:
    """Return the mean absolute difference over one season, missing values left out; 0 where there is none.

    As gluonts has it: a history shorter than a season is measured with a season of 1, and
    the metrics leave a series out whose error is 0.

    Parameters
    ----------
    history
        Shape ``(time,)``, NaN where missing.

    Examples
    --------
    >>> seasonal_error(np.array([1.0, 2.0, np.nan, 6.0, 9.0]), 1)
    2.0
    """
    if seasonality > len(history):
        seasonality = 1
    differences = np.abs(history[seasonality:] - history[:-seasonality])
    differences = differences[~np.isnan(differences)]
    return float(differences.mean()) if len(differences) else 0.0


def seasonal_naive(request: Request[Truth], horizon: int) -> np.ndarray:
    """Repeat the last season over ``horizon`` and at every level; the mean where the history is shorter."""
    history = np.nan_to_num(request.history, nan=0.0)
    season = history[-request.key.seasonality :]
    if len(history) < request.key.seasonality:
        season = np.full(1, history.mean())
    return np.repeat(np.resize(season, horizon)[:, None], len(DEFAULT_LEVELS), axis=1)
