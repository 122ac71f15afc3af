"""``flowrank compress`` and ``flowrank analyze``: a smaller model, and where its ranks are."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

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
from flowrank.errors import FlowrankError
from flowrank.files import refuse_existing


class MethodName(str, Enum):
    """Compression methods by the name the command line gives them."""

    joint = "joint"
    input = "input"
    weight = "weight"


class AllocationName(str, Enum):
    """Allocations by the name the command line gives them."""

    budget = "budget"
    uniform = "uniform"
    flow = "flow"
    epsilon = "epsilon"


def compress(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    method: Annotated[
        MethodName, typer.Option(help="Joint heads, SVD weighted by the input, or SVD of the weight.")
    ] = (MethodName.joint),
    ratio: Annotated[float, typer.Option(help="Kept share of the attention parameters, in (0, 1].")] = 0.25,
    allocation: Annotated[AllocationName, typer.Option(help="Which rank where.")] = AllocationName.budget,
    alpha: Annotated[float, typer.Option(help="α of the flow schedule d0 (1 + layer)^α.")] = 0.35,
    per_head: Annotated[
        bool, typer.Option("--per-head", help="joint: heads of a layer may differ; a little more accurate, slower.")
    ] = False,
    series: SeriesOption = None,
    calibration_series: Annotated[int, typer.Option(help="Calibration series to use at most.")] = 512,
    calibration_points: Annotated[int, typer.Option(help="Last points of each calibration series.")] = 512,
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
    """Make a smaller model and save it as a Hugging Face folder."""
    from flowrank.models.checkpoint import MODEL_FILES

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    chosen = _method(method, _allocation(allocation, ratio, alpha), per_head)
    child = flowrank.compress(
        opened(model, device, dtype),
        chosen,
        series=series,
        calibration_series=calibration_series,
        calibration_points=calibration_points,
        seed=seed,
        progress=not quiet,
        **columns(id_column, timestamp_column, target, freq),
    )
    child.save_pretrained(output, overwrite=overwrite)
    counts = (child.recipe or {})["parameters"]
    table = Table("", "parent", "child", "kept", title=f"{model} → {output}")
    for label, key in (("parameters", ""), ("attention parameters", "attention_")):
        before, after = counts[f"{key}parent"], counts[f"{key}child"]
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    out.print(table)


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


def _method(name: MethodName, allocation: Any, per_head: bool) -> Any:
    if name is MethodName.joint:
        return flowrank.JointHeads(allocation, per_head=per_head)
    if per_head:
        raise FlowrankError("--per-head", expected="--method joint", found=f"--method {name.value}")
    return (flowrank.InputSVD if name is MethodName.input else flowrank.WeightSVD)(allocation)


def _allocation(name: AllocationName, ratio: float, alpha: float) -> Any:
    if name is AllocationName.flow:
        return flowrank.FlowOfRanks(ratio=ratio, alpha=alpha)
    if name is AllocationName.epsilon:
        return flowrank.Epsilon(ratio=ratio)
    return (flowrank.Uniform if name is AllocationName.uniform else flowrank.Budget)(ratio)
