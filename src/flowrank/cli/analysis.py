"""``flowrank analyze``: ranks of a model, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.options import Columns, Model, Overwrite, Quiet, Run, SeriesOption


@dataclass(frozen=True)
class Measurement:
    """What is measured, and how finely."""

    panel: ClassVar[str | None] = "Measurement"

    count: Annotated[int, typer.Option(help="Largest number of series that the model is run on.")] = 256
    points: Annotated[int, typer.Option(help="Number of last values that are used of each series.")] = 512
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="Tolerance ε: singular values below ε times the largest are not counted; repeatable."),
    ] = None


def analyze(
    model: Model,
    output: Annotated[
        Path, typer.Option(help="Folder for the results; `flowrank report` makes a page of them.", metavar="FOLDER")
    ],
    measurement: Measurement,
    columns: Columns,
    run: Run,
    series: SeriesOption = None,
    advise: Annotated[
        bool, typer.Option("--advise", help="Also print which widths suit a model of this kind, by its ranks.")
    ] = False,
    budget: Annotated[
        float, typer.Option(help="With --advise: share of the attention parameters to keep, in (0, 1].")
    ] = 0.25,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure the ε-ranks of weights, embeddings and activations, layer by layer."""
    import json

    from flowrank.analysis import EPSILONS, PROFILE_FILES
    from flowrank.compression.rules import check_ratio
    from flowrank.files import atomic_files, refuse_existing_in

    check_ratio(budget, "--budget")
    names = (*PROFILE_FILES, "ranks.parquet", "recipe.json", "advice.json")
    refuse_existing_in(output, names, overwrite=overwrite, argument="--output")
    pipeline = run.opened(model)
    profile = flowrank.analyze(
        pipeline,
        series=series,
        count=measurement.count,
        points=measurement.points,
        epsilons=tuple(measurement.epsilon or EPSILONS),
        seed=run.seed,
        progress=not quiet,
        **columns.settings(),
    )
    advice = flowrank.advise(profile, budget) if advise else None
    with atomic_files(output, names, overwrite=overwrite, argument="--output") as folder:
        profile.write_into(folder)
        if advice is not None:
            text = json.dumps(advice.to_dict(), indent=2, ensure_ascii=False)
            (folder / "advice.json").write_text(text + "\n", encoding="utf-8")
        flowrank.rank_table(pipeline).to_parquet(folder / "ranks.parquet", index=False)
        if pipeline.recipe is not None:
            (folder / "recipe.json").write_text(json.dumps(pipeline.recipe, indent=2) + "\n", encoding="utf-8")
    _print(profile, str(model))
    if advice is not None:
        out.print(str(advice), highlight=False, markup=False)
    out.print(f"written to {output}; next: flowrank report {output}", highlight=False)


def _print(profile: Any, model: str) -> None:
    smallest = min(profile.about["settings"]["epsilons"])
    table = Table("stack", "layer", "dim", f"rank (ε = {smallest:g})", title=f"Residual stream of {model}")
    rows = profile.ranks.query("epsilon == @smallest and quantity in ('embedding', 'residual')")
    for row in rows.itertuples():
        layer = "embedding" if row.quantity == "embedding" else str(row.layer)
        table.add_row(row.stack, layer, str(row.dim), str(row.rank))
    out.print(table)
