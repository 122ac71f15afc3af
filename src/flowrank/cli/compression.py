"""``flowrank compress``: a smaller model, of a given size or accuracy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import announced, out
from flowrank.cli.methods import Ranks, Reads, Size, method_of
from flowrank.cli.options import Columns, Model, Output, Overwrite, Quiet, Run, SeriesOption, refuse_given
from flowrank.cli.searching import WITHOUT, Searches, searched, share, tolerated, work_folder
from flowrank.files import refuse_existing

POINTS = 512


@dataclass(frozen=True)
class Calibration:
    """How much of the series is measured."""

    panel: ClassVar[str | None] = "Calibration"

    calibration_series: Annotated[
        int | None,
        typer.Option(
            help="Largest number of series on which activations are measured. Default: 512, and synthetic ones where "
            "the method needs more (with --max-loss: as many as the model's family asks for)."
        ),
    ] = None
    calibration_points: Annotated[
        int, typer.Option(help="Number of last values that are used of each of these series.")
    ] = POINTS


def compress(
    model: Model,
    output: Output,
    size: Size,
    ranks: Ranks,
    reads: Reads,
    search: Searches,
    calibration: Calibration,
    columns: Columns,
    run: Run,
    series: SeriesOption = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make a smaller model, of a given size or a given accuracy, and save it as a Hugging Face folder."""
    from flowrank.family import MODEL_FILES

    several = search.several(size)
    if not several:
        refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    common: dict[str, Any] = {"series": series, "seed": run.seed, "progress": not quiet, **columns.settings()}
    number, points = calibration.calibration_series, calibration.calibration_points
    if size.max_loss is None:
        search.refuse()
        method = method_of(size, ranks)
        common |= {"calibration_series": number, "calibration_points": points}
        with announced():
            child = flowrank.compress(run.opened(model), method, univariate=reads.univariate, **common)
        child.save_pretrained(output, overwrite=overwrite)
    else:
        tolerances = tolerated(size, ranks, search)
        refuse_given(WITHOUT, "--calibration-points", points, POINTS)
        if series is None:
            refuse_given("--series", "--also-synthetic", search.also_synthetic, False)
        if number is not None:
            common["calibration_series"] = number
        if several:
            refuse_given("one search", "--overwrite", overwrite, False)
            _several(model, output, tolerances, search, run, univariate=reads.univariate, **common)
            return
        work, keep = work_folder(search.folder, output), search.folder is not None
        parent = run.opened(model)
        parent = flowrank.univariate(parent) if reads.univariate else parent
        child = searched(parent, tolerances[0], work, keep=keep, **common, **search.settings())
        child.save_pretrained(output, overwrite=overwrite)
        if not keep:
            shutil.rmtree(work)
    _print(child.recipe or {}, f"{model} → {output}")


def _several(
    model: str, output: Path, tolerances: list[flowrank.Tolerance], search: Searches, run: Run, **common: Any
) -> None:
    """Do several searches, and print what each found."""
    from flowrank.distributed import searches

    common |= {**search.places(search.threads, run.device), "threads": search.threads}
    found = searches(
        model,
        output,
        tolerances=tolerances,
        seeds=search.chosen_seeds(common.pop("seed")),
        dtype=run.dtype,
        **common,
        **search.settings(),
    )
    table = Table("folder", "parameters", "kept", "cost kept", "loss", "at most", title=f"{model} → {output}")
    for one in found.to_dict("records"):
        if isinstance(one["folder"], str):
            counts = f"{one['parameters']:,}", f"{one['parameters_kept']:.1%}", f"{one['cost_kept']:.1%}"
            table.add_row(one["folder"], *counts, share(one["loss"]), share(one["upper"]))
        else:
            table.add_row(f"none for {one['max_loss']:g}, seed {one['seed']}: {one['reason']}")
    out.print(table)


def _print(recipe: dict[str, Any], title: str) -> None:
    counts = recipe["parameters"]
    table = Table("", "parent", "child", "kept", title=title)
    for label, key in (("parameters", ""), ("attention parameters", "attention_")):
        before, after = counts[f"{key}parent"], counts[f"{key}child"]
        kept = f"{after / before:.1%}" if before else "–"
        table.add_row(label, f"{before:,}", f"{after:,}", kept)
    if (check := recipe.get("check")) and check["wql_ratio"] is not None:
        table.add_row(f"WQL lost, {check['series']} held-out series", "", share(check["wql_ratio"] - 1), "")
    if "search" in recipe:
        found, tolerance = recipe["search"], recipe["allocation"]
        table.add_row(f"{tolerance['metric']} lost", "", share(found["loss"]), "")
        table.add_row(f"at most, with {tolerance['confidence']:.0%} confidence", "", share(found["upper"]), "")
    out.print(table)
