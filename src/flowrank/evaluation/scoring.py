"""Scores of models on data sets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError, check_count
from flowrank.evaluation.backtests import Backtest
from flowrank.forecasting import DEFAULT_LEVELS, Corrections, Request, Skipped, predict_requests
from flowrank.forecasting.skipping import Skipping
from flowrank.progress import progress_bar
from flowrank.series import Series, read_series
from flowrank.series.calendars import MonthDays

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

SEASONAL_NAIVE = "seasonal-naive"

_METRIC_BATCH = 256


def evaluate(
    models: Mapping[str, BaseChronosPipeline | str],
    datasets: Mapping[str, Any],
    backtests: Sequence[Backtest] | Mapping[str, Backtest] | None = None,
    *,
    prediction_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_series: int | None = None,
    progress: bool = False,
    corrections: Corrections | None = None,
    skip_bad: bool = False,
    skipped: list[Skipped] | None = None,
    **reading: Any,
) -> pd.DataFrame:
    """Score models on data sets.

    MASE (of the median, scaled by the in-sample seasonal error of the whole history before the cut) and WQL
    (mean weighted quantile loss at 0.1, …, 0.9) are gluonts', as are the seasonalities; missing values are
    masked. The models forecast through their own ``predict_quantiles``, with quantiles put in order by
    sorting. The seasonal naive forecast repeats the last season at every quantile, with missing history taken
    as 0.

    Series are streamed: memory grows neither with their number nor with the number of rolls.

    Parameters
    ----------
    models
        Pipelines, or the text ``"seasonal-naive"``, by name.
    datasets
        Sources that `flowrank.series.read_series` reads, by name; each is read once for each model.
    backtests
        How to cut each data set. Those of data sets that are not in ``datasets`` are ignored.
    prediction_length
        For data sets without a backtest: score the last ``prediction_length`` values, in one roll.
    batch_size
        Histories in one pass through a model.
    seed
        For models that sample.
    max_series
        Score no more than so many series of each data set, from its beginning.
    progress
        Whether to show a progress bar.
    corrections
        As in `flowrank.forecasting.forecast`. None: all of them, as forecasts have them.
    skip_bad
        Whether to leave out series that cannot be read or scored: those of `flowrank.forecasting.forecast`, and those
        too short for their rolls. They are the same for every model.
    skipped
        A list that takes those that were left out, with their reasons. Without it, a `SkippedWarning` says how many.
    **reading
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` and others of `flowrank.series.read_series`.

    Returns
    -------
    pd.DataFrame
        One row a data set and model, in the order of the backtests, then of ``datasets``: ``dataset``,
        ``model``, ``MASE``, ``WQL``, ``suite``, ``series`` (their number), ``seconds`` (wall time). A metric
        without any term (all labels missing, all labels 0, constant histories) is NaN.

    Raises
    ------
    FlowrankError
        If an argument or a source is at fault, a data set has neither backtest nor ``prediction_length``, or
        a series is too short for its rolls.

    Examples
    --------
    >>> week = np.tile([1.0, 2.0, 4.0], 4)
    >>> evaluate({"naive": "seasonal-naive"}, {"toy": [week]}, prediction_length=3)[["MASE", "WQL"]].round(3)
        MASE    WQL
    0  0.889  0.714
    """
    _check_models(models)
    plan = _plan(datasets, backtests, prediction_length)
    rows: list[dict[str, Any]] = []
    context = min(
        (int(model.model_context_length) for model in models.values() if not isinstance(model, str)), default=0
    )
    with progress_bar("evaluating", total=len(plan) * len(models), unit="scores", show=progress) as advance:
        for test in plan:
            for number, (name, model) in enumerate(models.items()):
                argument = f"data set {test.dataset!r}"
                told = skipped if number == 0 else []  # each model leaves out the same
                skipping = Skipping(skip_bad, told, test.dataset)
                source = read_series(datasets[test.dataset], argument=argument, on_bad=skipping.reader, **reading)
                rows.append(
                    _score(
                        name,
                        model,
                        _rolls(source, test, max_series, skipping, context),
                        test,
                        batch_size=batch_size,
                        seed=seed,
                        corrections=corrections,
                        skipping=skipping,
                    )
                )
                advance(1)
    return pd.DataFrame(rows, columns=["dataset", "model", "MASE", "WQL", "suite", "series", "seconds"])


def _check_models(models: Mapping[str, Any]) -> None:
    if not models:
        raise FlowrankError("models", expected="at least one model", found="none")
    for name, model in models.items():
        if model != SEASONAL_NAIVE and not hasattr(model, "predict_quantiles"):
            raise FlowrankError(
                "models",
                expected=f"pipelines, or the text {SEASONAL_NAIVE!r}",
                found=f"{model!r} as {name!r}",
            )


def _plan(
    datasets: Mapping[str, Any],
    backtests: Sequence[Backtest] | Mapping[str, Backtest] | None,
    prediction_length: int | None,
) -> list[Backtest]:
    if not datasets:
        raise FlowrankError("datasets", expected="at least one data set", found="none")
    given = list(backtests.values() if isinstance(backtests, Mapping) else backtests or ())
    plan = [backtest for backtest in given if backtest.dataset in datasets]
    for name in datasets:
        if any(backtest.dataset == name for backtest in plan):
            continue
        if prediction_length is None:
            raise FlowrankError(
                "backtests",
                expected="a backtest for each data set",
                found=f"none for {name!r}",
                todo="add one, or pass prediction_length",
            )
        plan.append(Backtest(name, -check_count(prediction_length, "prediction_length"), prediction_length))
    return plan


@dataclass(frozen=True)
class _Truth:
    """What a forecast is compared with: labels ``(prediction_length,)`` and the in-sample seasonal error."""

    label: np.ndarray
    seasonal_error: float
    seasonality: int


def _score(
    name: str,
    model: Any,
    rolls: Iterator[Request[_Truth]],
    backtest: Backtest,
    *,
    batch_size: int,
    seed: int,
    corrections: Corrections | None,
    skipping: Skipping,
) -> dict[str, Any]:
    from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss

    started = time.perf_counter()
    metrics = {
        "MASE": MASE("0.5")(axis=None),
        "WQL": MeanWeightedSumQuantileLoss(list(DEFAULT_LEVELS))(axis=None),
    }
    if isinstance(model, str):
        results = ((request, _seasonal_naive(request, backtest.prediction_length)) for request in rolls)
    else:
        forecasts = predict_requests(
            model,
            rolls,
            horizon=backtest.prediction_length,
            batch_size=batch_size,
            seed=seed,
            argument=f"data set {backtest.dataset!r}",
            corrections=corrections,
        )
        results = ((request, quantiles) for request, quantiles, _ in forecasts)
    count = 0
    while batch := list(islice(results, _METRIC_BATCH)):
        count += len(batch)
        data = _metric_input(batch)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for metric in metrics.values():
                metric.update(data)
    skipping.finish(count, f"data set {backtest.dataset!r}")
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {key: _number(metric.get()) for key, metric in metrics.items()}
    return {
        "dataset": backtest.dataset,
        "model": name,
        **scores,
        "suite": backtest.suite,
        "series": count // backtest.num_rolls,
        "seconds": time.perf_counter() - started,
    }


def _number(value: Any) -> float:
    number = float(np.ma.filled(value, np.nan))
    return number if np.isfinite(number) else float("nan")


def _metric_input(batch: list[tuple[Request[_Truth], np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what gluonts reads: labels and quantiles ``(batch, time)``, seasonal errors ``(batch, 1)``."""
    quantiles = np.stack([forecast for _, forecast in batch])
    data = {str(level): quantiles[:, :, i] for i, level in enumerate(DEFAULT_LEVELS)}
    data["label"] = np.ma.masked_invalid(np.stack([request.key.label for request, _ in batch]))
    data["seasonal_error"] = np.array([[request.key.seasonal_error] for request, _ in batch])
    return data


def _rolls(
    source: Iterable[Series], backtest: Backtest, max_series: int | None, skipping: Skipping, context: int
) -> Iterator[Request[_Truth]]:
    count = 0
    most = None if max_series is None else check_count(max_series, "max_series")
    for series in source:
        if count == most:
            return
        try:
            requests = _cut(series, backtest, context if skipping.wanted else 0)
        except FlowrankError as error:
            skipping(series.item_id, error)
            continue
        yield from requests
        count += 1


def _cut(series: Series, backtest: Backtest, context: int) -> list[Request[_Truth]]:
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
        truth = _Truth(series.target[cut:end], seasonal_error(history, seasonality), seasonality)
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
    calendar = MonthDays.parsed(freq)
    if calendar is not None:
        return max(1, 12 * len(calendar.days) // calendar.months)
    if freq.startswith("times:"):
        return 1
    return len(freq.split()) if freq.startswith("C:") else get_seasonality(freq)


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


def _seasonal_naive(request: Request[_Truth], horizon: int) -> np.ndarray:
    """Repeat the last season over ``horizon`` and at every level; the mean where the history is shorter."""
    history = np.nan_to_num(request.history, nan=0.0)
    season = history[-request.key.seasonality :]
    if len(history) < request.key.seasonality:
        season = np.full(1, history.mean())
    return np.repeat(np.resize(season, horizon)[:, None], len(DEFAULT_LEVELS), axis=1)
