"""``flowrank compress``: a smaller model, of a size or of an accuracy that was asked for."""

from __future__ import annotations

import shutil
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import announced, out
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
from flowrank.cli.searching import MetricName, UnitName, searched, share, tolerated, work_folder
from flowrank.errors import FlowrankError
from flowrank.files import refuse_existing

RATIO, ALPHA, ROUNDS, POINTS = 0.25, 0.35, 2, 512


class MethodName(str, Enum):
    """Compression methods by the name the command line gives them."""

    joint = "joint"
    input = "input"
    weight = "weight"
    whole = "whole"


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
        MethodName,
        typer.Option(help="Joint heads, SVD weighted by the input, SVD of the weight, or the whole model."),
    ] = (MethodName.joint),
    ratio: Annotated[
        float,
        typer.Option(
            help="Kept share, in (0, 1]: of the attention parameters; with --method whole, of all that --unit counts."
        ),
    ] = RATIO,
    allocation: Annotated[
        AllocationName, typer.Option(help="Which rank where; of the whole model: budget or uniform.")
    ] = AllocationName.budget,
    alpha: Annotated[float, typer.Option(help="α of the flow schedule d0 (1 + layer)^α.")] = ALPHA,
    per_head: Annotated[
        bool, typer.Option("--per-head", help="joint: heads of a layer may differ; a little more accurate, slower.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="whole: steps of equal ratio, measured before each.")] = ROUNDS,
    unit: Annotated[
        UnitName, typer.Option(help="What becomes small, with --method whole or --max-loss.")
    ] = UnitName.parameters,
    max_loss: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Find the smallest model that loses at most this, e.g. 1%; no --ratio then."
        ),
    ] = None,
    metric: Annotated[MetricName | None, typer.Option(help="--max-loss: of what. Default: WQL.")] = None,
    steps: Annotated[
        int | None, typer.Option("--heal-steps", help="--max-loss: of each healing by gradients. Default: 0, none.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="--max-loss: steps ahead that are judged. Default: 24.")] = None,
    validation_series: Annotated[
        int | None, typer.Option(help="--max-loss: series of each kind to judge on at most. Default: 2048.")
    ] = None,
    also_synthetic: Annotated[
        bool,
        typer.Option(
            "--also-synthetic", help="--max-loss with --series: calibrate and judge on synthetic series as well."
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--work",
            help="--max-loss: folder for the log and the models; a search that was cut off goes on there. "
            "Default: OUT.search, removed in the end.",
        ),
    ] = None,
    series: SeriesOption = None,
    calibration_series: Annotated[
        int | None,
        typer.Option(
            help="Calibration series to use at most; synthetic ones are added where the method needs more. "
            "Default: 512 (--max-loss: 1024 for a Bolt, 512 for a T5)."
        ),
    ] = None,
    calibration_points: Annotated[int, typer.Option(help="Last points of each calibration series.")] = POINTS,
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
    """Make a smaller model, by its size or by what it may lose, and save it as a Hugging Face folder."""
    from flowrank.family import MODEL_FILES

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    common: dict[str, Any] = {
        "series": series,
        "seed": seed,
        "progress": not quiet,
        **columns(id_column, timestamp_column, target, freq),
    }
    for_search = {
        "steps": steps,
        "horizon": horizon,
        "validation_series": validation_series,
        "calibration_series": calibration_series,
        "also_synthetic": also_synthetic or None,
    }
    if max_loss is not None:
        _only("no --max-loss", "--allocation", allocation.value, "budget")
        _only("no --max-loss", "--method", method.value, "joint", "whole")
        for option, given, default in (
            ("--ratio", ratio, RATIO),
            ("--alpha", alpha, ALPHA),
            ("--per-head", per_head, False),
            ("--rounds", rounds, ROUNDS),
            ("--calibration-points", calibration_points, POINTS),
        ):
            _only("no --max-loss", option, given, default)
        if series is None:
            _only("--series", "--also-synthetic", also_synthetic, False)
        common |= {name: value for name, value in for_search.items() if value is not None}
        tolerance = tolerated(max_loss, metric, unit)
        work = work_folder(folder, output)
        child = searched(opened(model, device, dtype), tolerance, work, keep=folder is not None, **common)
    else:
        of_search = {
            "--metric": metric,
            "--heal-steps": steps,
            "--horizon": horizon,
            "--validation-series": validation_series,
            "--also-synthetic": also_synthetic or None,
            "--work": folder,
        }
        for option, value in of_search.items():
            _only("--max-loss", option, value, None)
        with announced():
            child = flowrank.compress(
                opened(model, device, dtype),
                _method(method, _allocation(method, allocation, ratio, alpha, unit), per_head, rounds),
                calibration_series=calibration_series,
                calibration_points=calibration_points,
                **common,
            )
    child.save_pretrained(output, overwrite=overwrite)
    if max_loss is not None and folder is None:
        shutil.rmtree(work)
    _print(child.recipe or {}, f"{model} → {output}")


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
        table.add_row(f"at most, {tolerance['confidence']:.0%} sure", "", share(found["upper"]), "")
    out.print(table)


def _method(name: MethodName, allocation: Any, per_head: bool, rounds: int) -> Any:
    if name is MethodName.joint:
        _only("--method whole", "--rounds", rounds, ROUNDS)
        return flowrank.JointHeads(allocation, per_head=per_head)
    if per_head:
        raise FlowrankError("--per-head", expected="--method joint", found=f"--method {name.value}")
    if name is MethodName.whole:
        return flowrank.WholeModel(allocation, rounds=rounds)
    _only("--method whole", "--rounds", rounds, ROUNDS)
    return (flowrank.InputSVD if name is MethodName.input else flowrank.WeightSVD)(allocation)


def _allocation(method: MethodName, name: AllocationName, ratio: float, alpha: float, unit: UnitName) -> Any:
    whole = method is MethodName.whole
    if whole and name not in (AllocationName.budget, AllocationName.uniform):
        raise FlowrankError("--allocation", expected="budget or uniform with --method whole", found=name.value)
    if not (whole and name is AllocationName.budget) and unit is not UnitName.parameters:
        raise FlowrankError(
            "--unit",
            expected="parameters, unless it is --method whole with --allocation budget, or --max-loss",
            found=unit.value,
        )
    if name is AllocationName.flow:
        return flowrank.FlowOfRanks(ratio=ratio, alpha=alpha)
    if name is AllocationName.epsilon:
        return flowrank.Epsilon(ratio=ratio)
    return flowrank.Uniform(ratio) if name is AllocationName.uniform else flowrank.Budget(ratio, unit=unit.value)


def _only(beside: str, option: str, given: Any, *defaults: Any) -> None:
    """Refuse an option that means nothing here, but for its defaults."""
    if given not in defaults:
        found = "given" if given is True else getattr(given, "value", given)
        raise FlowrankError(option, expected=f"{beside} beside it", found=str(found), todo="leave one of them out")
