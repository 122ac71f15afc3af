"""``flowrank forecast``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from flowrank.cli.console import out, print_skipped
from flowrank.cli.options import (
    Cluster,
    Corrected,
    Covariates,
    EngineRun,
    ForecastColumns,
    Model,
    Overwrite,
    Quiet,
    refuse_given,
)
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing

SERIES = 10_000


@dataclass(frozen=True)
class Answer:
    """What is to be said of the values to come."""

    panel: ClassVar[str | None] = None

    quantile: Annotated[
        list[float] | None, typer.Option(help="Quantile level; repeatable. Default: 0.1, 0.2, … 0.9.")
    ] = None
    num_samples: Annotated[
        int | None,
        typer.Option(help="Sample paths for each series, by models that draw them. Default: the model's own number."),
    ] = None
    non_negative: Annotated[
        bool,
        typer.Option(
            "--non-negative", help="Values are never below 0, as counts: no forecast is; negative ones are refused."
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments for them."""
        from flowrank.forecasting import DEFAULT_LEVELS

        sampling = {} if self.num_samples is None else {"num_samples": check_count(self.num_samples, "--num-samples")}
        levels = tuple(self.quantile or DEFAULT_LEVELS)
        return {"quantile_levels": levels, "non_negative": self.non_negative, "predict_kwargs": sampling}


@dataclass(frozen=True)
class ForecastRun(EngineRun):
    """How a model runs, and what decides the last bit."""

    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="A forecast depends on its series alone, to the last bit: not on the others, their order or "
            "--batch-size. Slower where series are of many lengths. Folders are always forecast so.",
        ),
    ] = False


@dataclass(frozen=True)
class Partitions(Cluster):
    """How a folder of Parquet files is forecast, one part after the other, here or on a cluster."""

    panel: ClassVar[str | None] = "Folders of Parquet files"

    partition_series: Annotated[
        int, typer.Option(help="Series of a part, about, where files have one row a series.")
    ] = SERIES

    def asked(self, series: str) -> bool:
        """Whether the series are a folder, or somewhere else."""
        return self.on is not None or "://" in series or Path(series).is_dir()


_UNASKED: dict[str, Any] = {
    "wide": False,
    "encoding": None,
    "sheet": None,
    "cross_learning": False,
    "past_covariates": [],
    "future": None,
}
"""What settings are where nobody asks for them, and a part of a folder is not told of them."""


def _forecast_folder(
    model: str, series: str, output: str, horizon: int, parts: Partitions, run: EngineRun, asked: dict[str, Any]
) -> None:
    """Forecast a folder of Parquet files into another."""
    from flowrank.distributed import forecast_files

    further = {name: value for name, value in asked.items() if name not in _UNASKED or value != _UNASKED[name]}
    manifest = forecast_files(
        series,
        model,
        output,
        **parts.places(run.threads, run.device),
        partition_series=parts.partition_series,
        engine=run.engine,
        dtype=run.dtype,
        batch_size=run.batch_size,
        horizon=horizon,
        **further,
    )
    told = f"{manifest['forecast']} series forecast, {manifest['skipped']} left out (column error)"
    out.print(f"{told}, in {manifest['partitions']} parts", highlight=False)
    for name, why in manifest["quarantined"].items():
        out.print(f"not forecast: {name}: expected {why['expected']}, found {why['found']}", highlight=False)
    if over := manifest["passed_over"]:
        out.print(f"not read, as they are no Parquet files: {', '.join(over[:5])}{' …' if over[5:] else ''}")
    out.print(f"written to {output}", highlight=False)


def forecast(
    model: Model,
    series: Annotated[
        str,
        typer.Argument(
            help="CSV, Parquet or Excel file of series; or a folder of Parquet files, here or at an address (s3://…)."
        ),
    ],
    horizon: Annotated[int, typer.Option(help="Number of steps to forecast.")],
    output: Annotated[str, typer.Option(help="CSV or Parquet file to write; of a folder, a folder.")],
    answer: Answer,
    columns: ForecastColumns,
    covariates: Covariates,
    run: ForecastRun,
    corrected: Corrected,
    parts: Partitions,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Forecast every series of a file, in memory that grows with its ids and not with its rows.

    Models that read groups forecast several targets together (`--target a,b`), with covariates. A folder of Parquet
    files is forecast part by part, here or on a Ray cluster (`--on ray`), and goes on where it was interrupted.
    """
    from flowrank.forecasting import Skipped, write_forecasts

    asked = {**answer.settings(), **columns.settings(), **covariates.settings()}
    asked |= {"corrections": corrected.chosen(), "progress": not quiet, "seed": run.seed}
    parts.check()
    if parts.asked(series):
        if overwrite:
            raise FlowrankError(
                "--overwrite",
                expected="a new folder for the forecasts of a folder, or one of the same run to go on with",
                found="--overwrite",
                todo="leave it out, and remove what is there by hand",
            )
        _forecast_folder(model, series, output, horizon, parts, run, asked)
        return
    refuse_given("a folder of Parquet files", "--partition-series", parts.partition_series, SERIES)
    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_count(horizon, "--horizon")
    pipeline = run.opened(model)
    skipped: list[Skipped] = []
    write_forecasts(
        pipeline,
        series,
        output,
        horizon=horizon,
        batch_size=run.batch_size,
        batch_invariant=run.batch_invariant,
        skipped=skipped,
        overwrite=overwrite,
        **asked,
    )
    print_skipped(skipped)
    out.print(f"written to {output}", highlight=False)
