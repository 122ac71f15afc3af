"""``flowrank forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    Freq,
    IdColumn,
    Model,
    Overwrite,
    Quiet,
    Seed,
    Target,
    TimestampColumn,
    columns,
)
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing


def forecast(
    model: Model,
    series: Annotated[Path, typer.Argument(help="CSV or Parquet with series.")],
    horizon: Annotated[int, typer.Option(help="Steps to forecast.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet to write.")],
    quantile: Annotated[list[float] | None, typer.Option(help="Quantile level; repeatable. Default 0.1 … 0.9.")] = None,
    batch_size: BatchSize = 32,
    num_samples: Annotated[int | None, typer.Option(help="Sample paths a series (Chronos-T5).")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    engine: Engine = "exact",
    id_column: IdColumn = "item_id",
    timestamp_column: TimestampColumn = "timestamp",
    target: Target = "target",
    freq: Freq = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Forecast every series of a file, in constant memory."""
    from flowrank.forecasting import DEFAULT_LEVELS, write_forecasts

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_count(horizon, "--horizon")
    sampling = {} if num_samples is None else {"num_samples": check_count(num_samples, "--num-samples")}
    pipeline = opened(model, device, dtype, engine)
    if sampling and pipeline.forecast_type.name != "SAMPLES":
        raise FlowrankError(
            "--num-samples",
            expected="a model that draws sample paths (Chronos-T5)",
            found=f"{model!r}, which gives quantiles at once",
            todo="leave the option out",
        )
    write_forecasts(
        pipeline,
        series,
        output,
        horizon=horizon,
        quantile_levels=tuple(quantile or DEFAULT_LEVELS),
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
        predict_kwargs=sampling,
        **columns(id_column, timestamp_column, target, freq),
    )
    out.print(f"written to {output}", highlight=False)
