"""``flowrank quantize``: weights of 8-bit integers, measured on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

import flowrank
from flowrank.cli.console import err, out
from flowrank.cli.models import opened
from flowrank.cli.options import BatchSize, Model, Output, Overwrite
from flowrank.files import refuse_existing


def quantize(
    model: Model,
    output: Output,
    batch_size: BatchSize = 32,
    seconds: Annotated[float, typer.Option(min=0.0, help="Seconds for which both models are timed.")] = 3.0,
    overwrite: Overwrite = False,
) -> None:
    """Make the weights of the large linear layers 8-bit integers, for CPUs: a quarter of the bytes, often faster."""
    from flowrank.compression.integers import stored_bytes
    from flowrank.compression.timing import seconds_of
    from flowrank.family import MODEL_FILES

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="folder", owned=MODEL_FILES)
    parent = opened(model, "cpu", "float32")
    child = flowrank.quantize(parent)
    child.save_pretrained(output, overwrite=overwrite)
    taken = seconds_of({"float32": parent, "int8": child}, batch_size=batch_size, seconds=seconds)
    ratio = taken["int8"] / taken["float32"]
    before, after = (stored_bytes(one.inner_model) for one in (parent, child))
    table = Table(show_header=False, title=f"{model} → {output}")
    table.add_row("parameters", f"{parent.inner_model.num_parameters():,}")
    table.add_row("bytes before", f"{before:,}")
    table.add_row("bytes after", f"{after:,} ({after / before:.2f})")
    table.add_row(f"time, {batch_size} series", f"{ratio:.2f} of float32's on this machine")
    out.print(table)
    if ratio > 1:
        err.print("[bold yellow]warning[/] the integers are slower than float32 on this machine and batch size")
