"""``flowrank export``."""

from __future__ import annotations

import json
import warnings
from typing import Annotated

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import err, out
from flowrank.cli.models import opened
from flowrank.cli.options import Model, Output, Overwrite
from flowrank.files import refuse_existing


def export(
    model: Model,
    output: Output,
    format: Annotated[
        str, typer.Option(help="onnx (read by ONNX Runtime, OpenVINO and others) or openvino (its own format).")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(help="Weights: fp32, bf16 (half the file) or int8 (a quarter, and integer products).")
    ] = "fp32",
    overwrite: Overwrite = False,
) -> None:
    """Write a model as a graph that ONNX Runtime or OpenVINO runs, also where torch is not installed."""
    from flowrank.exporting import OWNED
    from flowrank.graphs import MANIFEST

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=OWNED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        folder = flowrank.export(
            opened(model, "cpu", "float32"), output, format=format, precision=precision, overwrite=overwrite
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    table = Table(show_header=False, title=f"{model} → {output}")
    table.add_row("needs", ", ".join(f"{name} {number}" for name, number in manifest["needs"].items()))
    table.add_row("bytes", f"{sum((folder / name).stat().st_size for name in manifest['files']):,}")
    check = manifest.get("check")
    if check is None:
        table.add_row("checked", "no: the runtime is not installed here")
    else:
        table.add_row(
            "differs from the model",
            f"by {check['difference']:.1e} of a series' spread at most, {check['typical']:.1e} usually",
        )
    out.print(table)
    for warning in caught:
        if issubclass(warning.category, UserWarning) and "times as long" in str(warning.message):
            err.print(f"[bold yellow]warning[/] {warning.message}")
