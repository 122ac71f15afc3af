"""``flowrank forecast``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from flowrank.cli.console import out, print_skipped
from flowrank.cli.options import Corrected, Covariates, EngineRun, ForecastColumns, Model, Overwrite, Quiet
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing


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

    def check(self, pipeline: Any, model: str) -> None:
        """Refuse sample paths of a model that draws none."""
        if self.num_samples is not None and pipeline.forecast_type.name != "SAMPLES":
            raise FlowrankError(
                "--num-samples",
                expected="a model that draws sample paths",
                found=f"{model!r}, which gives quantiles at once",
                todo="leave the option out",
            )


def forecast(
    model: Model,
    series: Annotated[Path, typer.Argument(help="CSV, Parquet or Excel file of series.")],
    horizon: Annotated[int, typer.Option(help="Number of steps to forecast.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet file to write.")],
    answer: Answer,
    columns: ForecastColumns,
    covariates: Covariates,
    run: EngineRun,
    corrected: Corrected,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="A forecast depends on its series alone, to the last bit: not on the others, their order or "
            "--batch-size. Slower where series are of many lengths.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Forecast every series of a file, in memory that grows with its ids and not with its rows.

    Models that read groups forecast several targets together (`--target a,b`), with covariates.
    """
    from flowrank.forecasting import Skipped, write_forecasts

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_count(horizon, "--horizon")
    asked = {**answer.settings(), **columns.settings(), **covariates.settings()}
    pipeline = run.opened(model)
    answer.check(pipeline, model)
    skipped: list[Skipped] = []
    write_forecasts(
        pipeline,
        series,
        output,
        horizon=horizon,
        batch_size=run.batch_size,
        seed=run.seed,
        corrections=corrected.chosen(),
        batch_invariant=batch_invariant,
        skipped=skipped,
        overwrite=overwrite,
        progress=not quiet,
        **asked,
    )
    print_skipped(skipped)
    out.print(f"written to {output}", highlight=False)
