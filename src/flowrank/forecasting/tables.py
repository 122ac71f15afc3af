"""Forecasts as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError, check_count
from flowrank.forecasting.corrections import Corrections
from flowrank.forecasting.groups import group_request, predict_groups
from flowrank.forecasting.levels import DEFAULT_LEVELS, check_levels
from flowrank.forecasting.model import Model
from flowrank.forecasting.requests import Request, predict_requests
from flowrank.forecasting.skipping import Skipped, Skipping
from flowrank.forecasting.sources import check_asked, grouped, opened, several
from flowrank.progress import progress_bar
from flowrank.series import Series, SeriesSource
from flowrank.series.columns import Columns
from flowrank.series.grids import future_timestamps
from flowrank.series.ids import IdType

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

_Made = TypeVar("_Made")


def iter_forecasts(
    pipeline: BaseChronosPipeline,
    source: Any,
    *,
    horizon: int,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    batch_size: int = 32,
    seed: int = 0,
    id_column: Any = "item_id",
    timestamp_column: Any = "timestamp",
    target: Any = "target",
    corrections: Corrections | None = None,
    non_negative: bool = False,
    progress: bool = False,
    predict_kwargs: Mapping[str, Any] | None = None,
    skip_bad: bool = False,
    skipped: list[Skipped] | None = None,
    past_covariates: Sequence[Any] = (),
    future: Any = None,
    cross_learning: bool = False,
    batch_invariant: bool = False,
    timed: tuple[bool, bool] | None = None,
    **reading: Any,
) -> Iterator[pd.DataFrame]:
    """Yield forecasts as frames of ``batch_size`` series; parameters as in `forecast`.

    Memory grows with the ids of the series, not with their rows: a long table in which series are interleaved, as in
    order of time, is grouped in temporary files. Wide tables and Excel files are held as a whole.

    ``timed`` says whether all series have times, and a time zone; by default, those of the first decide.

    Raises
    ------
    FlowrankError
        As `forecast`; at once for the arguments, while iterating for the series.
    """
    levels = check_levels(quantile_levels)
    horizon = check_count(horizon, "horizon")
    batch_size = check_count(batch_size, "batch_size")
    names = Columns(id_column or "item_id", timestamp_column or "timestamp", target)
    _check_names(names, levels)
    skipping = Skipping(skip_bad, skipped)
    joint = check_asked(pipeline, target, past_covariates, future, cross_learning)
    columns = {"id_column": id_column, "timestamp_column": timestamp_column, "target": target}
    columns |= {"past_covariates": past_covariates, "future": future}
    found = opened(source, on_bad=skipping.reader, **columns, **reading)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "non_negative": non_negative}
    options |= {"on_bad": skipping.reader, "batch_invariant": batch_invariant}
    if joint:
        model = Model(pipeline, levels, corrections or Corrections(), dict(predict_kwargs or {}))
        results = _joint(
            model, found, target, horizon, skipping, progress, timed, cross_learning=cross_learning, **options
        )
        return _frames(results, levels, batch_size, names, found.ids, skipping)
    pairs = ((one, partial(_request, one)) for one in _shown(cast(SeriesSource, found), progress))
    predicted = predict_requests(
        pipeline,
        _requests(pairs, horizon, skipping, timed),
        horizon=horizon,
        quantile_levels=levels,
        corrections=corrections,
        predict_kwargs=predict_kwargs,
        **options,
    )
    return _frames(_of_series(predicted, several(target)[0]), levels, batch_size, names, found.ids, skipping)


def _check_names(names: Columns, levels: list[float]) -> None:
    """Refuse names of the caller's that the columns of the forecasts have."""
    made = ["target_name", "predictions", *map(str, levels)]
    for argument, name in (("id_column", names.id_column), ("timestamp_column", names.timestamp_column)):
        if name in made or (argument == "id_column" and name == names.timestamp_column):
            raise FlowrankError(
                argument,
                expected=f"a name that no other column of the forecasts has ({', '.join(made[:2])}, levels)",
                found=repr(name),
                todo="rename the column",
            )


def _requests(
    pairs: Iterable[tuple[Series, Callable[[pd.Index], _Made]]],
    horizon: int,
    skipping: Skipping,
    timed: tuple[bool, bool] | None,
) -> Iterator[_Made]:
    """Make requests of series and functions of the steps that follow them."""
    kind = timed
    for one, made in pairs:
        mine = (one.start is not None, one.start is not None and one.start.tz is not None)
        try:
            if mine != (kind or mine):
                raise _of_another_kind(one.item_id, mine, kind or mine)
            request = made(_future(one, horizon))
        except FlowrankError as error:
            skipping(one.item_id, error)
            continue
        kind = mine
        yield request


def _of_another_kind(item_id: Any, mine: tuple[bool, bool], others: tuple[bool, bool]) -> FlowrankError:
    found, wanted = (
        f"time stamps with{'' if zoned else 'out'} a time zone" if timed else "no time stamps"
        for timed, zoned in (mine, others)
    )
    return FlowrankError(
        "series",
        expected="time stamps for all series or for none, with a time zone for all or for none",
        found=f"{found} for series {item_id!r}, in place of {wanted}",
        todo="correct its times, or forecast the two kinds apart",
    )


def _request(series: Series, steps: pd.Index) -> Request[pd.Index]:
    return Request(series.item_id, series.target, steps)


def _future(series: Series, horizon: int) -> pd.Index:
    if series.start is None:
        return pd.RangeIndex(len(series), len(series) + horizon)
    if series.freq is None:
        raise FlowrankError(
            "freq",
            expected="a frequency to continue the time stamps",
            found=f"series {series.item_id!r} of {len(series)} values, from which none can be inferred",
            todo='pass it (freq="h", --freq h)',
        )
    return future_timestamps(series.start, len(series), series.freq, horizon)


class _Forecast(NamedTuple):
    """Quantiles (horizon, levels) and point forecasts (horizon,) of one target."""

    item_id: Any
    steps: pd.Index
    target: Any
    quantiles: np.ndarray
    mean: np.ndarray


def _of_series(
    results: Iterator[tuple[Request[pd.Index], np.ndarray, np.ndarray]], target: Any
) -> Iterator[list[_Forecast]]:
    for request, quantiles, mean in results:
        yield [_Forecast(request.item_id, request.key, target, quantiles, mean)]


def _joint(
    model: Model,
    source: Any,
    target: Any,
    horizon: int,
    skipping: Skipping,
    progress: bool,
    timed: tuple[bool, bool] | None,
    **options: Any,
) -> Iterator[list[_Forecast]]:
    groups, roles = grouped(source, target, skipping.reader)
    pairs = ((one.series, partial(group_request, one, roles)) for one in _shown(groups, progress))
    results = predict_groups(model, _requests(pairs, horizon, skipping, timed), roles, **options)
    for item_id, steps, quantiles, means in results:
        yield [_Forecast(item_id, steps, *one) for one in zip(roles.targets, quantiles, means, strict=True)]


def _frames(
    results: Iterator[list[_Forecast]],
    levels: list[float],
    batch_size: int,
    names: Columns,
    ids: IdType,
    skipping: Skipping,
) -> Iterator[pd.DataFrame]:
    count = 0
    while batch := list(chain.from_iterable(islice(results, batch_size))):
        count += len(batch)
        horizon = len(batch[0].steps)
        column = ids.column([one.item_id for one in batch])
        frame = pd.DataFrame(
            {
                names.id_column: column.repeat(horizon).reset_index(drop=True),
                names.timestamp_column: batch[0].steps.append([one.steps for one in batch[1:]]),
                "target_name": pd.Series([one.target for one in batch]).repeat(horizon).reset_index(drop=True),
                "predictions": np.concatenate([one.mean for one in batch]),
            }
        )
        quantiles = np.concatenate([one.quantiles for one in batch])
        for values, level in zip(quantiles.T, levels, strict=True):
            frame[str(level)] = values
        frame.attrs["time_of_day"] = any(_within_days(one.steps) for one in batch)
        yield frame
    skipping.finish(count)


def _within_days(times: pd.Index) -> bool:
    """Tell whether steps are shorter than a day: a midnight among them is a time of day."""
    step = getattr(times, "freq", None)
    return isinstance(step, pd.tseries.offsets.Tick) and step.nanos < 86_400 * 10**9


def _shown(items: Iterable[_Made], progress: bool) -> Iterator[_Made]:
    with progress_bar("forecasting", show=progress) as advance:
        for one in items:
            yield one
            advance(1)


def forecast(pipeline: BaseChronosPipeline, source: Any, *, horizon: int, **options: Any) -> pd.DataFrame:
    """Forecast every series of a source.

    Parameters
    ----------
    pipeline
        Any chronos-forecasting pipeline.
    source
        Anything that `flowrank.series.read_series` reads.
    horizon
        Number of steps after the last row of each series, ≥ 1. Values may be missing up to the last row.
    quantile_levels
        Levels in (0, 1); by default 0.1, …, 0.9. The quantiles are put in order by sorting, which never
        raises the quantile loss. Levels that the model was not trained on are extended, down to 0.001, and those that
        its sample paths are too few for refused.
    batch_size
        Series in one pass through the model; of several targets or with covariates, ids.
    seed
        For models that sample; whole number ≥ 0. With the exact engine a series' forecast depends on the seed and on
        the series, not on its neighbours, the batch size or what other threads draw. Pipelines that know torch's
        global generators only, as chronos-forecasting's own do, have them seeded for each batch and then given back;
        such batches wait for those of other threads.
    target
        Name of the column of values, or a list of names: columns that are forecast together.
    past_covariates
        Names of columns that help and are not forecast: known up to the last row. Numbers; or texts and booleans, which
        are categories.
    future
        A table, or the path of one, of what is known of the time to come: the same columns of ids and times, and the
        covariates whose next values are known, such as prices or holidays. The history has these columns too; they
        count as known for this reason alone, and need not be in ``past_covariates``. There is a row for each of the
        next ``horizon`` steps of each series; a cell may be empty, further rows are not used.
    cross_learning
        Whether all series of a batch are read as one group. A forecast then depends on the other series of its batch,
        and on ``batch_size``.
    batch_invariant
        Whether a forecast depends on nothing but its series, to the last bit: not on ``batch_size``, the order of the
        series or how they are divided among machines of one kind. Batches then hold series of one length, and all
        products are of one library: as fast for series of few lengths, slower for ragged ones.
    id_column, timestamp_column, freq, wide, encoding, sheet, date_format, day_first, utc, decimal, thousands
        As in `flowrank.series.read_series`, which says what the others that it takes are.
    corrections
        Which weaknesses of the models are worked around: missing values at the end, high levels, constants, outer
        quantiles, long horizons. None: all of `Corrections`. Where several targets, covariates or ``cross_learning``
        are asked for, outer quantiles alone are: the model reads missing values at the end as they are.
    non_negative
        Whether values are never below 0, as counts: forecasts are then raised to 0, and a negative value is refused.
    progress
        Whether to show a progress bar.
    predict_kwargs
        More arguments for ``predict_quantiles``, e.g. ``{"num_samples": 20}``.
    skip_bad
        Whether to leave out series that cannot be read or forecast: without a value, with gaps, out of order, not
        finite … Otherwise the first of them raises its error.
    skipped
        A list that takes those that were left out, with their reasons. Without it, a `SkippedWarning` says how many.

    Returns
    -------
    pd.DataFrame
        ``horizon`` rows a series, and target, in the order of the source: id, in the type that it came in; time (or
        the step, from the series' length on, where there are no times), ``target_name``, ``predictions`` (the
        pipeline's point forecast) and one column a level, named by it.

    Raises
    ------
    FlowrankError
        If an argument or the source is at fault, or a series has no observed value in the model's context; if the
        pipeline reads series one by one and is asked for more; if ``future`` lacks a row or a series, has a column or
        an id that the history has not, or goes on at other times.

    Examples
    --------
    >>> from chronos import BaseChronosPipeline  # doctest: +SKIP
    >>> pipeline = BaseChronosPipeline.from_pretrained("amazon/chronos-bolt-tiny")  # doctest: +SKIP
    >>> forecast(pipeline, "sales.csv", horizon=12, quantile_levels=(0.1, 0.5, 0.9))  # doctest: +SKIP
    """
    frames = list(iter_forecasts(pipeline, source, horizon=horizon, **options))
    whole = pd.concat(frames, ignore_index=True)
    whole.attrs.clear()
    ids = whole.columns[0]
    if all(isinstance(frame[ids].dtype, pd.CategoricalDtype) for frame in frames):
        whole[ids] = whole[ids].astype("category")  # of a file, each frame has the categories of its own rows
    return whole
