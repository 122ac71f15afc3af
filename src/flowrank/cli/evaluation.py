"""``flowrank evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import err, out, print_skipped
from flowrank.cli.options import Cluster, Corrected, EngineRun, Overwrite, Quiet, UsableColumns
from flowrank.files import refuse_existing

FLAGS = ("--overwrite", "--quiet", "--help", "--help-all", "--skip-bad", "--wide")  # options without a value


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models to score; seasonal-naive, the usual baseline, is one too."),
    ],
    data: Annotated[
        list[Path],
        typer.Option(envvar="FLOWRANK_DATA", help="CSV or Parquet files of series, or folders of them; one or more."),
    ],
    output: Annotated[Path, typer.Option(help="CSV file to write: dataset, model, MASE, WQL.")],
    columns: UsableColumns,
    run: EngineRun,
    corrected: Corrected,
    cluster: Cluster,
    backtests: Annotated[
        Path | None,
        typer.Option(help="CSV file that says what is forecast: dataset, offset, prediction_length, num_rolls."),
    ] = None,
    prediction_length: Annotated[
        int | None, typer.Option(help="Number of steps to forecast in data sets that --backtests does not name.")
    ] = None,
    max_series: Annotated[int | None, typer.Option(help="Score at most so many series of each data set.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score models on rolling-origin backtests: MASE and WQL, as gluonts defines them.

    On a Ray cluster (`--on ray`) each model on each data set is a task.
    """
    from flowrank.evaluation import SEASONAL_NAIVE, datasets_in, read_backtests
    from flowrank.forecasting.skipping import Skipped, skipped_path

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    if columns.skip_bad:
        refuse_existing(skipped_path(output), overwrite=overwrite, argument="--output", kind="file")
    skipped: list[Skipped] = []
    sources = datasets_in(data)
    tests = read_backtests(backtests) if backtests else None
    if tests is not None and prediction_length is None:
        known = {test.dataset for test in tests}
        for name in sorted(set(sources) - known):
            err.print(f"no backtest for {name}: left out", highlight=False)
        sources = {name: path for name, path in sources.items() if name in known}
    scores = _scorer(list(dict.fromkeys(models)), run, cluster)(
        sources,
        tests,
        prediction_length=prediction_length,
        batch_size=run.batch_size,
        max_series=max_series,
        seed=run.seed,
        corrections=corrected.chosen(),
        skipped=skipped,
        progress=not quiet,
        **columns.settings(),
    )
    _write(scores, skipped if columns.skip_bad else None, output, overwrite=overwrite)
    print_skipped(skipped)
    _print_relative(scores, SEASONAL_NAIVE if SEASONAL_NAIVE in models else models[0])


def _scorer(models: list[str], run: EngineRun, cluster: Cluster) -> Callable[..., Any]:
    """The library's function that scores these models, here or on a cluster."""
    from flowrank.evaluation import SEASONAL_NAIVE

    cluster.check()
    if cluster.on is None:
        pipelines = {name: name if name == SEASONAL_NAIVE else run.opened(name) for name in models}
        return partial(flowrank.evaluate, pipelines)
    from flowrank.distributed import evaluate as evaluate_there

    places = cluster.places(run.threads, run.device)
    return partial(evaluate_there, models, engine=run.engine, dtype=run.dtype, **places)


def _write(scores: Any, skipped: list[Any] | None, output: Path, *, overwrite: bool) -> None:
    """Write the scores, and the list of series left out unless it is None; an empty list removes an earlier file."""
    from flowrank.files import atomic_file
    from flowrank.forecasting.skipping import skipped_path, write_skipped

    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        scores.to_csv(temporary, index=False)
        if skipped:
            with atomic_file(skipped_path(output), overwrite=overwrite, argument="--output") as listed:
                write_skipped(skipped, listed)
        elif skipped is not None:
            skipped_path(output).unlink(missing_ok=True)  # of an earlier run


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
            option = "" if "=" in argument or argument in FLAGS else argument
        elif after_data and models:
            expanded.append("--data")
        else:
            after_data, models = False, models + 1
        expanded.append(argument)
    return ["evaluate", *expanded]
