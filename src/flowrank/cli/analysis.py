"""``flowrank analyze``: where a model's ranks are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import out
from flowrank.cli.models import opened
from flowrank.cli.options import (
    Device,
    Dtype,
    Freq,
    IdColumn,
    Model,
    Overwrite,
    Quiet,
    Seed,
    SeriesOption,
    Target,
    TimestampColumn,
    columns,
)


def analyze(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder to write; `flowrank report` reads it.")],
    series: SeriesOption = None,
    count: Annotated[int, typer.Option(help="Series to run at most.")] = 256,
    points: Annotated[int, typer.Option(help="Last points of each series.")] = 512,
    epsilon: Annotated[list[float] | None, typer.Option(help="Tolerance of the ε-rank; repeatable.")] = None,
    advise: Annotated[bool, typer.Option("--advise", help="Print a design read out of the ranks.")] = False,
    budget: Annotated[float, typer.Option(help="Attention parameters that the design may keep, in (0, 1].")] = 0.25,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    id_column: IdColumn = "item_id",
    timestamp_column: TimestampColumn = "timestamp",
    target: Target = "target",
    freq: Freq = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure ε-ranks of weights, embeddings and activations over depth."""
    import json

    from flowrank.analysis import EPSILONS, PROFILE_FILES
    from flowrank.compression.allocation import check_ratio
    from flowrank.files import atomic_files, refuse_existing_in

    check_ratio(budget, "--budget")
    names = (*PROFILE_FILES, "ranks.parquet", "recipe.json", "advice.json")
    refuse_existing_in(output, names, overwrite=overwrite, argument="--output")
    pipeline = opened(model, device, dtype)
    profile = flowrank.analyze(
        pipeline,
        series=series,
        count=count,
        points=points,
        epsilons=tuple(epsilon or EPSILONS),
        seed=seed,
        progress=not quiet,
        **columns(id_column, timestamp_column, target, freq),
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
    smallest = min(profile.about["settings"]["epsilons"])
    table = Table("stack", "layer", "dim", f"rank (ε = {smallest:g})", title=f"Residual stream of {model}")
    rows = profile.ranks.query("epsilon == @smallest and quantity in ('embedding', 'residual')")
    for row in rows.itertuples():
        layer = "embedding" if row.quantity == "embedding" else str(row.layer)
        table.add_row(row.stack, layer, str(row.dim), str(row.rank))
    out.print(table)
    if advice is not None:
        out.print(str(advice), highlight=False, markup=False)
    out.print(f"written to {output}; next: flowrank report {output}", highlight=False)
