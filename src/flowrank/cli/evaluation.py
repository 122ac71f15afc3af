"""``flowrank evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import err, out
from flowrank.cli.models import opened
from flowrank.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    Freq,
    IdColumn,
    Overwrite,
    Quiet,
    Seed,
    Target,
    TimestampColumn,
    columns,
)
from flowrank.files import refuse_existing


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models; seasonal-naive is one too.")],
    data: Annotated[
        list[Path],
        typer.Option(envvar="FLOWRANK_DATA", help="Folders or files with series; several may follow."),
    ],
    output: Annotated[Path, typer.Option(help="CSV with dataset, model, MASE, WQL.")],
    backtests: Annotated[
        Path | None, typer.Option(help="CSV with dataset, offset, prediction_length, num_rolls.")
    ] = None,
    prediction_length: Annotated[int | None, typer.Option(help="Horizon of data sets without a backtest.")] = None,
    batch_size: BatchSize = 32,
    max_series: Annotated[int | None, typer.Option(help="Score only so many series of each data set.")] = None,
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
    """Score models on rolling-origin backtests: MASE and WQL, as gluonts defines them."""
    from flowrank.evaluation import SEASONAL_NAIVE, datasets_in, read_backtests
    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    sources = datasets_in(data)
    tests = read_backtests(backtests) if backtests else None
    if tests is not None and prediction_length is None:
        known = {test.dataset for test in tests}
        for name in sorted(set(sources) - known):
            err.print(f"no backtest for {name}: left out", highlight=False)
        sources = {name: path for name, path in sources.items() if name in known}
    pipelines: dict[str, Any] = {
        name: name if name == SEASONAL_NAIVE else opened(name, device, dtype, engine) for name in dict.fromkeys(models)
    }
    scores = flowrank.evaluate(
        pipelines,
        sources,
        tests,
        prediction_length=prediction_length,
        batch_size=batch_size,
        max_series=max_series,
        seed=seed,
        progress=not quiet,
        **columns(id_column, timestamp_column, target, freq),
    )
    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        scores.to_csv(temporary, index=False)
    _print_relative(scores, SEASONAL_NAIVE if SEASONAL_NAIVE in pipelines else next(iter(pipelines)))


def _print_relative(scores: Any, baseline: str) -> None:
    table = Table("model", "MASE", "WQL", title=f"Geometric mean relative to {baseline}")
    for row in flowrank.relative_scores(scores, baseline=baseline).itertuples():
        table.add_row(str(row.model), f"{row.MASE:.4f}", f"{row.WQL:.4f}")
    out.print(table)


def several_paths(arguments: list[str]) -> list[str]:
    """Let ``evaluate MODEL --data a b`` stand for ``evaluate MODEL --data a --data b``."""
    if arguments[:1] != ["evaluate"]:
        return arguments
    expanded: list[str] = []
    option, after_data, models = "", False, 0
    for argument in arguments[1:]:
        if option:  # this is its value
            after_data, option = option == "--data", ""
        elif argument.startswith("-"):
            after_data = argument.startswith("--data=")
            option = "" if "=" in argument or argument in ("--overwrite", "--quiet", "--help") else argument
        elif after_data and models:
            expanded.append("--data")
        else:
            after_data, models = False, models + 1
        expanded.append(argument)
    return ["evaluate", *expanded]
