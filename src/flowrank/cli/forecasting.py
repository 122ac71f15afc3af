"""``flowrank forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowrank.cli.console import out, print_skipped
from flowrank.cli.options import Corrected, Covariates, EngineRun, ForecastColumns, Model, Overwrite, Quiet
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing


def forecast(
    model: Model,
    series: Annotated[Path, typer.Argument(help="CSV, Parquet or Excel file of series.")],
    horizon: Annotated[int, typer.Option(help="Number of steps to forecast.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet file to write.")],
    columns: ForecastColumns,
    covariates: Covariates,
    run: EngineRun,
    corrected: Corrected,
    quantile: Annotated[
        list[float] | None, typer.Option(help="Quantile level; repeatable. Default: 0.1, 0.2, … 0.9.")
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(help="Sample paths for each series, by models that draw them. Default: the model's own number."),
    ] = None,
    non_negative: Annotated[
        bool,
        typer.Option(
            "--non-negative", help="Values are never below 0, as counts: no forecast is; negative ones are refused."
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Forecast every series of a file, in memory that grows with its ids and not with its rows.

    Models that read groups forecast several targets together (`--target a,b`), with covariates.
    """
    from flowrank.forecasting import DEFAULT_LEVELS, Skipped, write_forecasts

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_count(horizon, "--horizon")
    reading = {**columns.settings(), **covariates.settings()}
    sampling = {} if num_samples is None else {"num_samples": check_count(num_samples, "--num-samples")}
    pipeline = run.opened(model)
    if sampling:
        _refuse_paths(pipeline, model)
    skipped: list[Skipped] = []
    write_forecasts(
        pipeline,
        series,
        output,
        horizon=horizon,
        quantile_levels=tuple(quantile or DEFAULT_LEVELS),
        batch_size=run.batch_size,
        seed=run.seed,
        corrections=corrected.chosen(),
        non_negative=non_negative,
        skipped=skipped,
        overwrite=overwrite,
        progress=not quiet,
        predict_kwargs=sampling,
        **reading,
    )
    print_skipped(skipped)
    out.print(f"written to {output}", highlight=False)


def _refuse_paths(pipeline: Any, model: str) -> None:
    """Refuse sample paths of a model that draws none."""
    if pipeline.forecast_type.name != "SAMPLES":
        raise FlowrankError(
            "--num-samples",
            expected="a model that draws sample paths",
            found=f"{model!r}, which gives quantiles at once",
            todo="leave the option out",
        )
