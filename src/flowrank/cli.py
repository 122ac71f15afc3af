"""The `flowrank` command: parses, calls the library, prints."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

import flowrank
from flowrank.errors import FlowrankError, check_count
from flowrank.files import refuse_existing

app = typer.Typer(
    help="Make time series foundation models small and fast, and show why that works.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console()
err = Console(stderr=True)


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


Model = Annotated[str, typer.Argument(help="Hub id, folder, or embedded name (`flowrank models`).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, auto.")]
Dtype = Annotated[str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.")]
IdColumn = Annotated[str, typer.Option(help="Column with the series' ids; '' if there is none.")]
TimestampColumn = Annotated[str, typer.Option(help="Column with the time stamps; '' if there is none.")]
Target = Annotated[str, typer.Option(help="Column with the values.")]
Freq = Annotated[str | None, typer.Option(help="pandas frequency, where it cannot be inferred or times have gaps.")]
BatchSize = Annotated[int, typer.Option(help="Series in one forward pass.")]
SeriesOption = Annotated[
    Path | None,
    typer.Option("--series", help="CSV or Parquet with series; default: built-in synthetic ones."),
]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"flowrank {flowrank.__version__}", highlight=False)
        raise typer.Exit


@app.command()
def models() -> None:
    """List the models that ship with flowrank."""
    for name in flowrank.embedded_models():
        out.print(name, highlight=False)


@app.command()
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
        _load(model, device, dtype),
        chosen,
        series=series,
        calibration_series=calibration_series,
        calibration_points=calibration_points,
        seed=seed,
        progress=not quiet,
        **_columns(id_column, timestamp_column, target, freq),
    )
    child.save_pretrained(output, overwrite=overwrite)
    counts = (child.recipe or {})["parameters"]
    table = Table("", "parent", "child", "kept", title=f"{model} → {output}")
    for label, key in (("parameters", ""), ("attention parameters", "attention_")):
        before, after = counts[f"{key}parent"], counts[f"{key}child"]
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    out.print(table)


def _load(model: str, device: str, dtype: str) -> Any:
    """Open a model, after a look whether its device is there."""
    import torch

    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:
            raise FlowrankError(
                "--device",
                expected="cpu, auto, or a device that torch finds here, such as cuda",
                found=f"{device!r} ({str(error).splitlines()[0]})",
                todo="leave the option out to use the CPU",
            ) from error
    _hush()
    return flowrank.load(model, device_map=device, dtype=dtype)


def _hush() -> None:
    """Leave progress to our own bars: transformers shows one for every file it opens or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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


def _columns(id_column: str, timestamp_column: str, target: str, freq: str | None) -> dict[str, Any]:
    named = {"id_column": id_column or None, "timestamp_column": timestamp_column or None}
    return {**named, "target": target, "freq": freq}


@app.command()
def analyze(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder to write; `flowrank report` reads it.")],
    series: SeriesOption = None,
    count: Annotated[int, typer.Option(help="Series to run at most.")] = 256,
    points: Annotated[int, typer.Option(help="Last points of each series.")] = 512,
    epsilon: Annotated[list[float] | None, typer.Option(help="Tolerance of the ε-rank; repeatable.")] = None,
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
    from flowrank.files import atomic_files, refuse_existing_in

    names = (*PROFILE_FILES, "ranks.parquet", "recipe.json")
    refuse_existing_in(output, names, overwrite=overwrite, argument="--output")
    pipeline = _load(model, device, dtype)
    profile = flowrank.analyze(
        pipeline,
        series=series,
        count=count,
        points=points,
        epsilons=tuple(epsilon or EPSILONS),
        seed=seed,
        progress=not quiet,
        **_columns(id_column, timestamp_column, target, freq),
    )
    with atomic_files(output, names, overwrite=overwrite, argument="--output") as folder:
        profile.write_into(folder)
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
    out.print(f"written to {output}; next: flowrank report {output}", highlight=False)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models; seasonal-naive is one too.")],
    data: Annotated[
        list[Path],
        typer.Option(envvar="FLOWRANK_DATA", help="Folders or files with series; several may follow."),
    ],
    output: Annotated[Path, typer.Option(help="CSV with dataset, model, MASE, WQL.")],
    backtests: Annotated[
        Path | None, typer.Option(help="CSV with dataset, offset, prediction_length, num_rolls.")
    ] = None,
    prediction_length: Annotated[int | None, typer.Option(help="Horizon of data sets without a backtest.")] = None,
    batch_size: BatchSize = 32,
    max_series: Annotated[int | None, typer.Option(help="Score only so many series of each data set.")] = None,
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
    """Score models on rolling-origin backtests: MASE and WQL, as gluonts defines them."""
    from flowrank.evaluation import SEASONAL_NAIVE, datasets_in, read_backtests
    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    sources = datasets_in(data)
    tests = read_backtests(backtests) if backtests else None
    if tests is not None and prediction_length is None:
        known = {test.dataset for test in tests}
        for name in sorted(set(sources) - known):
            err.print(f"no backtest for {name}: left out", highlight=False)
        sources = {name: path for name, path in sources.items() if name in known}
    pipelines: dict[str, Any] = {
        name: name if name == SEASONAL_NAIVE else _load(name, device, dtype) for name in dict.fromkeys(models)
    }
    scores = flowrank.evaluate(
        pipelines,
        sources,
        tests,
        prediction_length=prediction_length,
        batch_size=batch_size,
        max_series=max_series,
        seed=seed,
        progress=not quiet,
        **_columns(id_column, timestamp_column, target, freq),
    )
    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        scores.to_csv(temporary, index=False)
    _print_relative(scores, SEASONAL_NAIVE if SEASONAL_NAIVE in pipelines else next(iter(pipelines)))


def _print_relative(scores: Any, baseline: str) -> None:
    table = Table("model", "MASE", "WQL", title=f"Geometric mean relative to {baseline}")
    for row in flowrank.relative_scores(scores, baseline=baseline).itertuples():
        table.add_row(str(row.model), f"{row.MASE:.4f}", f"{row.WQL:.4f}")
    out.print(table)


@app.command()
def benchmark(
    child: Annotated[str, typer.Argument(metavar="CHILD", help="The smaller model.")],
    against: Annotated[str, typer.Option(metavar="PARENT", help="The model to compare with.")],
    output: Annotated[Path, typer.Option(help="JSON to write.")],
    engine: Annotated[str, typer.Option(help="stock: chronos-forecasting's own code path.")] = "stock",
    batch_size: BatchSize = 32,
    context_length: Annotated[int | None, typer.Option(help="Points of each series; default: the model's.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast; default: the model's.")] = None,
    num_samples: Annotated[int, typer.Option(help="Sample paths a series (Chronos-T5).")] = 20,
    repeats: Annotated[int, typer.Option(help="Timed pairs.")] = 7,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's own choice.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Measure latency, parameters, weight, cache and peak bytes of two models, in turns in one process."""
    import json

    from flowrank.files import atomic_file

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    if engine != "stock":
        raise FlowrankError("--engine", expected="stock", found=repr(engine), todo="leave the option out")
    result = flowrank.benchmark(
        _load(child, device, dtype),
        _load(against, device, dtype),
        batch_size=batch_size,
        context_length=context_length,
        horizon=horizon,
        num_samples=num_samples,
        repeats=repeats,
        threads=threads,
        seed=seed,
    )
    with atomic_file(output, overwrite=overwrite, argument="--output") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print_benchmark(result)


def _print_benchmark(result: dict[str, Any]) -> None:
    parent, child, ratio = result["models"]["parent"], result["models"]["child"], result["ratio"]
    device = result["device"]
    table = Table("", "parent", "child", "ratio", title=f"{device['name']}, {device['threads']} threads")

    def row(label: str, before: float | None, after: float | None, share: float | None, spec: str) -> None:
        cells = [("–" if value is None else format(value, spec)) for value in (before, after)]
        table.add_row(label, *cells, "–" if share is None else f"{share:.3f}")

    for key in ("parameters", "attention_parameters", "weight_bytes", "peak_bytes"):
        row(key.replace("_", " "), parent[key], child[key], ratio[key], ",")
    for key in ("self", "cross"):
        row(
            f"{key} cache bytes",
            parent["cache_bytes"][key],
            child["cache_bytes"][key],
            ratio[f"cache_bytes_{key}"],
            ",",
        )
    for key in ("min", "median", "max"):
        row(f"latency s, {key}", parent["latency_s"][key], child["latency_s"][key], None, ".4f")
    for key in ("min", "median", "max"):
        table.add_row(f"latency pair by pair, {key}", "", "", f"{ratio['latency'][key]:.3f}")
    out.print(table)


@app.command()
def forecast(
    model: Model,
    series: Annotated[Path, typer.Argument(help="CSV or Parquet with series.")],
    horizon: Annotated[int, typer.Option(help="Steps to forecast.")],
    output: Annotated[Path, typer.Option(help="CSV or Parquet to write.")],
    quantile: Annotated[list[float] | None, typer.Option(help="Quantile level; repeatable. Default 0.1 … 0.9.")] = None,
    batch_size: BatchSize = 32,
    num_samples: Annotated[int | None, typer.Option(help="Sample paths a series (Chronos-T5).")] = None,
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
    """Forecast every series of a file, in constant memory."""
    from flowrank.forecasting import DEFAULT_LEVELS, write_forecasts

    refuse_existing(output, overwrite=overwrite, argument="--output", kind="file")
    check_count(horizon, "--horizon")
    sampling = {} if num_samples is None else {"num_samples": check_count(num_samples, "--num-samples")}
    pipeline = _load(model, device, dtype)
    if sampling and pipeline.forecast_type.name != "SAMPLES":
        raise FlowrankError(
            "--num-samples",
            expected="a model that draws sample paths (Chronos-T5)",
            found=f"{model!r}, which gives quantiles at once",
            todo="leave the option out",
        )
    write_forecasts(
        pipeline,
        series,
        output,
        horizon=horizon,
        quantile_levels=tuple(quantile or DEFAULT_LEVELS),
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
        predict_kwargs=sampling,
        **_columns(id_column, timestamp_column, target, freq),
    )
    out.print(f"written to {output}", highlight=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with the results of the other commands.")],
    output: Annotated[Path | None, typer.Option(help="HTML to write; default: report.html in the folder.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one offline HTML page (and JSON and Markdown) from a folder of results."""
    out.print(f"written to {flowrank.write_report(folder, output=output, overwrite=overwrite)}", highlight=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo-output"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole chain on the embedded model and real series that ship with statsmodels."""
    from flowrank.demo import run

    _hush()
    run(
        output,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
        say=lambda text: out.print(text, highlight=False),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done · 1: the machine failed us (disk full, no permission) · 2: bad input · 130, 143: interrupted. Whatever
    happens, outputs that were there before stay whole.
    """
    command = typer.main.get_command(app)
    try:
        with _terminable():
            command.main(_several_paths(list(sys.argv[1:] if arguments is None else arguments)), "flowrank")
    except FlowrankError as error:
        err.print(f"[bold red]error[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        return 2
    except (OSError, SafetensorError) as error:
        err.print(f"[bold red]error[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        return 1
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that every clean-up runs."""
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_signal: int, _frame: Any) -> None:
    raise SystemExit(143)


def _several_paths(arguments: list[str]) -> list[str]:
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
            option = "" if "=" in argument or argument in ("--overwrite", "--quiet", "--help") else argument
        elif after_data and models:
            expanded.append("--data")
        else:
            after_data, models = False, models + 1
        expanded.append(argument)
    return ["evaluate", *expanded]


if __name__ == "__main__":
    sys.exit(main())
