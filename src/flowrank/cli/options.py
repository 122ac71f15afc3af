"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="Hub id, folder, or embedded name (`flowrank models`).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, auto.")]
Dtype = Annotated[str, typer.Option(help="auto (as saved), float32, bfloat16, float16, or fastest on this device.")]
Engine = Annotated[
    str, typer.Option(help="Code path: exact (fast, the same forecasts) or stock (chronos-forecasting).")
]
IdColumn = Annotated[str, typer.Option(help="Column with the series' ids; '' if there is none.")]
TimestampColumn = Annotated[str, typer.Option(help="Column with the time stamps; '' if there is none.")]
Target = Annotated[str, typer.Option(help="Column with the values.")]
Freq = Annotated[str | None, typer.Option(help="pandas frequency, where it cannot be inferred or times have gaps.")]
BatchSize = Annotated[int, typer.Option(help="Series in one forward pass.")]
SeriesOption = Annotated[
    Path | None,
    typer.Option("--series", help="CSV or Parquet with series; default: built-in synthetic ones."),
]


def columns(id_column: str, timestamp_column: str, target: str, freq: str | None) -> dict[str, Any]:
    """Give the library's arguments for the options that say how a file of series reads."""
    named = {"id_column": id_column or None, "timestamp_column": timestamp_column or None}
    return {**named, "target": target, "freq": freq}
