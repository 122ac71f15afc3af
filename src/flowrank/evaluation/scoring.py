"""Scores of models on data sets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError, check_count
from flowrank.evaluation.backtests import Backtest
from flowrank.evaluation.rolls import Truth, rolls, seasonal_naive
from flowrank.forecasting import DEFAULT_LEVELS, Corrections, Request, Skipped, predict_requests
from flowrank.forecasting.skipping import Skipping
from flowrank.progress import progress_bar
from flowrank.series import read_series

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

SEASONAL_NAIVE = "seasonal-naive"

COLUMNS = ["dataset", "model", "MASE", "WQL", "suite", "series", "seconds"]

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
    plan = plan_of(datasets, backtests, prediction_length)
    scorer = Scorer(batch_size, seed, max_series, corrections, skip_bad, reading)
    rows: list[dict[str, Any]] = []
    context = min(
        (int(model.model_context_length) for model in models.values() if not isinstance(model, str)), default=0
    )
    with progress_bar("evaluating", total=len(plan) * len(models), unit="scores", show=progress) as advance:
        for test in plan:
            for number, (name, model) in enumerate(models.items()):
                told = skipped if number == 0 else []  # each model leaves out the same
                rows.append(scorer.row(name, model, datasets[test.dataset], test, context, told))
                advance(1)
    return pd.DataFrame(rows, columns=COLUMNS)


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


def plan_of(
    datasets: Mapping[str, Any],
    backtests: Sequence[Backtest] | Mapping[str, Backtest] | None,
    prediction_length: int | None,
) -> list[Backtest]:
    """Backtests of data sets, in the order of their scores.

    Raises
    ------
    FlowrankError
        If there is no data set, or one has neither backtest nor ``prediction_length``.
    """
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
class Scorer:
    """Scores one model on one data set; the parameters are those of `evaluate`."""

    batch_size: int
    seed: int
    max_series: int | None
    corrections: Corrections | None
    skip_bad: bool
    reading: Mapping[str, Any]

    def row(
        self, name: str, model: Any, source: Any, test: Backtest, context: int, skipped: list[Skipped] | None
    ) -> dict[str, Any]:
        """Return a row of scores.

        Parameters
        ----------
        name
            Of the model.
        model
            A pipeline, or the text "seasonal-naive".
        source
            Of the data set.
        test
            How it is cut.
        context
            Steps of history that the model of the shortest context reads; what has no value in them is a bad series.
        skipped
            List that takes the series that were left out; None: a warning tells of them.
        """
        argument = f"data set {test.dataset!r}"
        skipping = Skipping(self.skip_bad, skipped, test.dataset)
        series = read_series(source, argument=argument, on_bad=skipping.reader, **self.reading)
        requests = rolls(series, test, self.max_series, skipping, context)
        return self._score(name, model, requests, test, skipping)

    def _score(
        self, name: str, model: Any, requests: Iterator[Request[Truth]], test: Backtest, skipping: Skipping
    ) -> dict[str, Any]:
        from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss

        started, argument = time.perf_counter(), f"data set {test.dataset!r}"
        metrics = {
            "MASE": MASE("0.5")(axis=None),
            "WQL": MeanWeightedSumQuantileLoss(list(DEFAULT_LEVELS))(axis=None),
        }
        if isinstance(model, str):
            results = ((request, seasonal_naive(request, test.prediction_length)) for request in requests)
        else:
            forecasts = predict_requests(
                model,
                requests,
                horizon=test.prediction_length,
                batch_size=self.batch_size,
                seed=self.seed,
                argument=argument,
                corrections=self.corrections,
            )
            results = ((request, quantiles) for request, quantiles, _ in forecasts)
        count = 0
        while batch := list(islice(results, _METRIC_BATCH)):
            count += len(batch)
            data = _metric_input(batch)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                for metric in metrics.values():
                    metric.update(data)
        skipping.finish(count, argument)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = {key: _number(metric.get()) for key, metric in metrics.items()}
        return {
            "dataset": test.dataset,
            "model": name,
            **scores,
            "suite": test.suite,
            "series": count // test.num_rolls,
            "seconds": time.perf_counter() - started,
        }


def _number(value: Any) -> float:
    number = float(np.ma.filled(value, np.nan))
    return number if np.isfinite(number) else float("nan")


def _metric_input(batch: list[tuple[Request[Truth], np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what gluonts reads: labels and quantiles ``(batch, time)``, seasonal errors ``(batch, 1)``."""
    quantiles = np.stack([forecast for _, forecast in batch])
    data = {str(level): quantiles[:, :, i] for i, level in enumerate(DEFAULT_LEVELS)}
    data["label"] = np.ma.masked_invalid(np.stack([request.key.label for request, _ in batch]))
    data["seasonal_error"] = np.array([[request.key.seasonal_error] for request, _ in batch])
    return data
