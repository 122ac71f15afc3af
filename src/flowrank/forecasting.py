"""Forecasts of any number of series, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd

from flowrank.errors import FlowrankError, check_count
from flowrank.files import atomic_file, refuse_existing
from flowrank.progress import progress_bar
from flowrank.series import Series, read_series
from flowrank.series.frequency import future_timestamps

if TYPE_CHECKING:
    import pyarrow as pa
    from chronos import BaseChronosPipeline

DEFAULT_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_WINDOW = 16  # batches that are sorted by length together
_MODERATE = (1e-8, 1e8)  # magnitudes whose squares and sums are safe in fp32
_ROW_GROUP = 65_536  # rows of a Parquet file that are written together
_FLAT = 1e-5  # a smaller spread, relative to the magnitude, drowns in the rounding of fp32
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
    moderated = [_moderate(history, centred) for history in histories]
    batch = np.full((len(histories), max(map(len, histories))), np.nan)
    for row, (values, _, _) in zip(batch, moderated, strict=True):
        row[len(row) - len(values) :] = values
    with seeded(pipeline, seed):
        quantiles, mean = pipeline.predict_quantiles(
            torch.from_numpy(batch).to(torch.float32),
            prediction_length=horizon,
            quantile_levels=levels,
            **predict_kwargs,
        )
    if isinstance(quantiles, list):  # Chronos-2: a tensor (variables, horizon, levels) for each series
        quantiles, mean = torch.stack([q[0] for q in quantiles]), torch.stack([m[0] for m in mean])
    exponents = np.array([exponent for _, exponent, _ in moderated])
    offsets = np.array([offset for _, _, offset in moderated])
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.sort(quantiles.double().cpu().numpy(), axis=-1) + offsets[:, None, None]
        m = mean.double().cpu().numpy() + offsets[:, None]
        return np.ldexp(q, exponents[:, None, None]), np.ldexp(m, exponents[:, None])


def _moderate(values: np.ndarray, centred: bool) -> tuple[np.ndarray, int, float]:
    """Return values of moderate size, with the power of two and the offset that give the original back."""
    exponent, offset = 0, 0.0
    largest = float(np.nanmax(np.abs(values)))
    if largest > 0 and not _MODERATE[0] <= largest <= _MODERATE[1]:
        exponent = int(np.frexp(largest)[1])
        values = np.ldexp(values, -exponent)
        largest = float(np.ldexp(largest, -exponent))
    if centred and 0 < np.nanmax(values) - np.nanmin(values) < _FLAT * largest:
        offset = float(np.nanmean(values))
        values = values - offset
        inner, more, _ = _moderate(values, False)
        if more:  # float64 leaves no spread below 2⁻⁵³ of the offset: nothing under- or overflows here
            return inner, exponent + more, float(np.ldexp(offset, -more))
    return values, exponent, offset


class seeded:
    """Draw from generators seeded for one batch, and give the global ones back untouched."""

    def __init__(self, pipeline: BaseChronosPipeline, seed: tuple[int, int]) -> None:
        import torch

        self._device = torch.device(getattr(pipeline.inner_model, "device", "cpu"))
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        indices = [self._device.index or 0] if self._device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=indices)

    def __enter__(self) -> None:
        import torch

        self._fork.__enter__()
        torch.default_generator.manual_seed(self._seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def iter_forecasts(
    pipeline: BaseChronosPipeline,
    source: Any,
    *,
    horizon: int,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    batch_size: int = 32,
    seed: int = 0,
    id_column: str = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str = "target",
    freq: str | None = None,
    progress: bool = False,
    predict_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield forecasts as frames of ``batch_size`` series; parameters as in `forecast`.

    Memory does not grow with the number of series.

    Raises
    ------
    FlowrankError
        As `forecast`; at once for the arguments, while iterating for the series.
    """
    levels = check_levels(quantile_levels)
    horizon = check_count(horizon, "horizon")
    batch_size = check_count(batch_size, "batch_size")
    columns = {"id_column": id_column, "timestamp_column": timestamp_column, "target": target}
    series = read_series(source, freq=freq, **columns)  # type: ignore[arg-type]
    requests = (Request(one.item_id, one.target, _future(one, horizon)) for one in _shown(series, progress))
    results = predict_requests(
        pipeline,
        requests,
        horizon=horizon,
        quantile_levels=levels,
        batch_size=batch_size,
        seed=seed,
        predict_kwargs=predict_kwargs,
    )
    return _frames(results, levels, batch_size, id_column or "item_id", timestamp_column or "timestamp", target)


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


def _frames(
    results: Iterator[tuple[Request[pd.Index], np.ndarray, np.ndarray]],
    levels: list[float],
    batch_size: int,
    id_column: str,
    timestamp_column: str,
    target: str,
) -> Iterator[pd.DataFrame]:
    kind: type[pd.Index] | None = None
    while batch := list(islice(results, batch_size)):
        requests = [request for request, _, _ in batch]
        horizon = len(requests[0].key)
        for request in requests:
            kind = kind or type(request.key)
            if type(request.key) is not kind:
                raise FlowrankError(
                    "series",
                    expected="time stamps for all series or for none",
                    found=f"series {request.item_id!r} unlike those before it",
                    todo="forecast the two kinds apart",
                )
        frame = pd.DataFrame(
            {
                id_column: np.repeat([request.item_id for request in requests], horizon),
                timestamp_column: requests[0].key.append([request.key for request in requests[1:]]),
                "target_name": target,
                "predictions": np.concatenate([mean for _, _, mean in batch]),
            }
        )
        quantiles = np.concatenate([quantiles for _, quantiles, _ in batch])
        for column, level in zip(quantiles.T, levels, strict=True):
            frame[str(level)] = column
        yield frame


def _shown(series: Iterable[Series], progress: bool) -> Iterator[Series]:
    with progress_bar("forecasting", show=progress) as advance:
        for one in series:
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
        raises the quantile loss.
    batch_size
        Series in one pass through the model.
    seed
        For models that sample. The global generators are left as they are. With the exact engine a series' forecast
        depends on the seed and on the series, not on its neighbours or the batch size.
    id_column, timestamp_column, target, freq
        As in `flowrank.series.read_series`.
    progress
        Whether to show a progress bar.
    predict_kwargs
        More arguments for ``predict_quantiles``, e.g. ``{"num_samples": 20}``.

    Returns
    -------
    pd.DataFrame
        ``horizon`` rows a series, in the order of the source: id, time (or the step, from the series' length
        on, where there are no times), ``target_name``, ``predictions`` (the pipeline's point forecast) and
        one column a level, named by it.

    Raises
    ------
    FlowrankError
        If an argument or the source is at fault, or a series has no observed value in the model's context.

    Examples
    --------
    >>> from chronos import BaseChronosPipeline  # doctest: +SKIP
    >>> pipeline = BaseChronosPipeline.from_pretrained("amazon/chronos-bolt-tiny")  # doctest: +SKIP
    >>> forecast(pipeline, "sales.csv", horizon=12, quantile_levels=(0.1, 0.5, 0.9))  # doctest: +SKIP
    """
    return pd.concat(list(iter_forecasts(pipeline, source, horizon=horizon, **options)), ignore_index=True)


def write_forecasts(
    pipeline: BaseChronosPipeline,
    source: Any,
    output: str | Path,
    *,
    horizon: int,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Forecast every series of a source into a CSV or Parquet file, batch by batch.

    The file appears when it is whole; an error or an interruption leaves what was there before. Parameters
    are those of `forecast`, and ``output``, a path that ends in ``.csv`` or ``.parquet``.

    Raises
    ------
    FlowrankError
        As `forecast`, and if ``output`` exists while ``overwrite`` is false, or has another ending.
    """
    output = refuse_existing(output, overwrite=overwrite)
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise FlowrankError(
            "output",
            expected="a path that ends in .csv or .parquet",
            found=repr(str(output)),
            todo="rename it",
        )
    frames = iter_forecasts(pipeline, source, horizon=horizon, **options)
    with atomic_file(output, overwrite=overwrite) as temporary:
        if output.suffix.lower() == ".csv":
            for number, frame in enumerate(frames):
                frame.to_csv(temporary, mode="a" if number else "w", header=number == 0, index=False)
        else:
            _write_parquet(frames, temporary)
    return output


def _write_parquet(frames: Iterator[pd.DataFrame], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    waiting: list[pd.DataFrame] = []
    try:
        for frame in chain(frames, [None]):
            if frame is not None:
                waiting.append(frame)
            if not waiting or (frame is not None and sum(map(len, waiting)) < _ROW_GROUP):
                continue
            table = pa.concat_tables([_arrow(one) for one in waiting])
            waiting = []
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Return a table with times in microseconds, which reach every year that another batch may need."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz)) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def check_levels(levels: Sequence[float]) -> list[float]:
    """Return quantile levels in increasing order without repeats, or refuse them.

    Examples
    --------
    >>> check_levels((0.9, 0.5, 0.1))
    [0.1, 0.5, 0.9]
    """
    try:
        found = sorted({float(level) for level in levels})
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 < level < 1 for level in found):
        raise FlowrankError(
            "quantile_levels",
            expected="numbers in (0, 1)",
            found=repr(levels),
            todo="pass e.g. (0.1, 0.5, 0.9)",
        )
    return found
