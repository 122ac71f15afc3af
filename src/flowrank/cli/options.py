"""Arguments, options and groups of options that several commands share."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from flowrank.cli.models import opened
from flowrank.errors import FlowrankError

Model = Annotated[
    str, typer.Argument(help="Model: Hugging Face id, folder, or embedded model (`flowrank models` lists them).")
]
Output = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the model to.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress bars.")]
BatchSize = Annotated[int, typer.Option(help="Series in one forward pass.")]
SeriesOption = Annotated[
    Path | None,
    typer.Option("--series", help="CSV or Parquet file of series. Default: built-in synthetic series."),
]


@dataclass(frozen=True)
class Columns:
    """How a file of series reads."""

    panel: ClassVar[str | None] = "Columns of the series file"

    id_column: Annotated[str, typer.Option(help="Column with the id of each series; '' if there is none.")] = "item_id"
    timestamp_column: Annotated[str, typer.Option(help="Column with the time stamps; '' if there is none.")] = (
        "timestamp"
    )
    target: Annotated[str, typer.Option(help="Column with the values.")] = "target"
    freq: Annotated[
        str | None,
        typer.Option(
            help="Frequency as pandas writes it, e.g. h or D; needed if time stamps have gaps or do not show it. "
            "Also MS-15 (the 15th of each month), MS-1-11-21 (dekads), 'C:Mon Tue Wed Thu Fri Sat'."
        ),
    ] = None
    date_format: Annotated[
        str | None, typer.Option(help="Format of text dates as strptime takes it, e.g. %d.%m.%Y; default: found out.")
    ] = None
    day_first: Annotated[
        bool | None,
        typer.Option(
            "--day-first/--month-first",
            help="Whether 05/03/2024 is 5 March or May 3rd; default: found out from the whole column, or refused.",
            show_default=False,
        ),
    ] = None
    utc: Annotated[
        bool, typer.Option("--utc", help="Turn times into UTC; for columns of several UTC offsets, refused otherwise.")
    ] = False
    decimal: Annotated[str | None, typer.Option(help="Decimal mark of numbers, as , in 1,5; default: a point.")] = None
    thousands: Annotated[
        str | None, typer.Option(help="Mark that parts thousands, as . in 1.000; default: there is none.")
    ] = None
    wide: Annotated[
        bool, typer.Option("--wide", help="Each column is a series, but for that of the times; its name is the id.")
    ] = False
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of a CSV file that is not UTF-8, e.g. latin-1, cp1252, utf-16.")
    ] = None
    sheet: Annotated[str | None, typer.Option(help="Sheet of an Excel file that has several.")] = None

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments for them."""
        named = {"id_column": self.id_column or None, "timestamp_column": self.timestamp_column or None}
        written = {"date_format": self.date_format, "decimal": self.decimal, "thousands": self.thousands}
        told: dict[str, Any] = {name: value for name, value in written.items() if value is not None}
        if self.day_first is not None:
            told["day_first"] = self.day_first
        if self.utc:
            told["utc"] = True
        named |= {"target": self.target, "freq": self.freq}
        return {**named, "wide": self.wide, "encoding": self.encoding, "sheet": self.sheet, **told}


@dataclass(frozen=True)
class UsableColumns(Columns):
    """How a file of series reads, and whether series that cannot be used stop everything."""

    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Leave out series that cannot be used; say why, here and in a file NAME.skipped.csv."
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments for them."""
        return {**super().settings(), "skip_bad": self.skip_bad}


@dataclass(frozen=True)
class ForecastColumns(UsableColumns):
    """How a file of series reads, and which of its columns are forecast."""

    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column with the values; default: target. Several, repeated or with commas between (a name with a "
            "comma in quotes), are forecast together by models that read groups; target_name tells their rows apart.",
        ),
    ] = None  # type: ignore[assignment]

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments for them."""
        targets = names_of(self.target or ["target"], "--target")
        return {**super().settings(), "target": targets[0] if len(targets) == 1 else targets}


@dataclass(frozen=True)
class Covariates:
    """What helps to forecast the targets and is not forecast."""

    panel: ClassVar[str | None] = "Covariates, for models that read groups"

    past_covariates: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns that are known in the past only, repeated or with commas between: numbers, or texts and "
            "booleans, which are categories."
        ),
    ] = None
    future: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|COLUMNS",
            help="Table of covariates whose next values are known: the same id and time columns, and a row for each of "
            "the next --horizon steps of each series. The series file has its columns as well. Of a file with one row "
            "a series: names of columns, with commas between, whose lists go on into the time to come.",
        ),
    ] = None
    cross_learning: Annotated[
        bool,
        typer.Option(
            "--cross-learning",
            help="Read all series of a batch as one group: a forecast then depends on the others in its batch, and on "
            "--batch-size.",
        ),
    ] = False

    def settings(self) -> dict[str, Any]:
        """Give the library's arguments for them."""
        past = names_of(self.past_covariates or [], "--past-covariates")
        future: Path | list[str] | None = None
        if self.future is not None:
            path = Path(self.future)
            is_file = bool(path.suffix) or path.exists()
            future = path if is_file else names_of([self.future], "--future")
        return {"past_covariates": past, "future": future, "cross_learning": self.cross_learning}


def names_of(given: list[str], option: str, kind: str = "names of columns") -> list[str]:
    """Return the names in an option that may be repeated, with commas between several.

    Raises
    ------
    FlowrankError
        If a name is empty.

    Examples
    --------
    >>> names_of(["sold,returned", "price"], "--target"), names_of(['"a,b"'], "--target")
    (['sold', 'returned', 'price'], ['a,b'])
    """
    found = [name for row in csv.reader(given, skipinitialspace=True) for name in row]
    if "" in found or len(found) < len(given):
        raise FlowrankError(option, expected=f"{kind} with commas between", found=", ".join(map(repr, given)))
    return found


@dataclass(frozen=True)
class Corrected:
    """Which weaknesses of models are worked around."""

    panel: ClassVar[str | None] = "Corrections"

    corrections: Annotated[
        str,
        typer.Option(
            help="Weaknesses of the models that are worked around: all, none (as by the model's own code), or "
            "names with commas between: missing-tail (cuts missing last values, forecasts further), level (high level, "
            "small movement), constant, tails (quantiles beyond the trained ones), long-horizon. "
            "Of groups (several targets, covariates), tails alone."
        ),
    ] = "all"

    def chosen(self) -> Any:
        """Return the corrections."""
        from flowrank.forecasting import Corrections

        if self.corrections == "all":
            return Corrections()
        return Corrections.named([] if self.corrections == "none" else self.corrections.split(","))


@dataclass(frozen=True)
class Cluster:
    """Where tasks are done that do not depend on one another."""

    panel: ClassVar[str | None] = "Ray cluster"

    on: Annotated[
        str | None,
        typer.Option(
            help="ray (the cluster that this machine belongs to, or a new one on it), ray://HOST:PORT or HOST:PORT. "
            "Default: this process."
        ),
    ] = None
    workers: Annotated[int, typer.Option(help="Processes on the cluster, of --threads each.")] = 1
    gpus: Annotated[float, typer.Option(help="GPUs of each process.")] = 0.0

    def check(self) -> None:
        """Refuse sizes of a cluster where none is asked for.

        Raises
        ------
        FlowrankError
            If there is one.
        """
        if self.on is None:
            refuse_given("--on", "--workers", self.workers, 1)
            refuse_given("--on", "--gpus", self.gpus, 0.0)

    def places(self, threads: int | None, device: str) -> dict[str, Any]:
        """Give the library's arguments for them, with the device if it is no CPU."""
        chosen = {} if device == "cpu" else {"device": device}
        sizes = {"workers": self.workers, "threads": 1 if threads is None else threads, "num_gpus": self.gpus}
        return {"on": self.on, **sizes, **chosen}


@dataclass(frozen=True)
class Run:
    """How a model runs."""

    panel: ClassVar[str | None] = "Device, precision and seed"

    seed: Seed = 0
    device: Annotated[str, typer.Option(help="Device that the model runs on: cpu, cuda, cuda:1, auto.")] = "cpu"
    dtype: Annotated[
        str,
        typer.Option(
            help="Precision of the weights: auto (as saved), float32, bfloat16, float16, or fastest (on this device)."
        ),
    ] = "auto"

    def opened(self, model: str) -> Any:
        """Open a model so."""
        return opened(model, self.device, self.dtype)


@dataclass(frozen=True)
class EngineRun(Run):
    """How a model runs, by which code and how many series at once."""

    panel: ClassVar[str | None] = "Device, precision, speed and seed"

    batch_size: BatchSize = 32
    engine: Annotated[
        str | None,
        typer.Option(
            help="What runs the model: exact (faster, same forecasts), stock (chronos-forecasting), onnxruntime, "
            "openvino, or the fastest of these here. Default: exact; of an exported model, a runtime that is installed."
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads. Default: all; of a folder of series, and with --on, 1. Share them out where several "
            "processes run."
        ),
    ] = None

    def opened(self, model: str) -> Any:
        """Open a model so."""
        return opened(model, self.device, self.dtype, self.engine, threads=self.threads)


def refuse_given(wanted: str, option: str, given: Any, *defaults: Any) -> None:
    """Refuse an option that has no effect without another one, unless it has its default.

    Raises
    ------
    FlowrankError
        With the option, and what was expected with it.

    Examples
    --------
    >>> refuse_given("--method whole", "--rounds", 3, 2)
    Traceback (most recent call last):
    flowrank.errors.FlowrankError: --rounds: expected --method whole with it, found 3; leave one of them out
    """
    if given not in defaults:
        found = "given" if given is True else getattr(given, "value", given)
        raise FlowrankError(option, expected=f"{wanted} with it", found=str(found), todo="leave one of them out")
