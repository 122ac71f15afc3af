"""Forecasts of the partitions of Parquet files, in this process or on Ray, that go on where they were interrupted."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flowrank.distributed.addresses import File, Folder, absolute, model_identity, model_path
from flowrank.distributed.forecaster import OPTIONS, Forecaster
from flowrank.distributed.partitions import (
    KEPT,
    Partition,
    check_files,
    forecast_partition,
    is_parquet,
    planned,
    refuse_twice,
)
from flowrank.distributed.ray_cluster import check_cluster, results_of
from flowrank.distributed.workers import refusal
from flowrank.errors import FlowrankError, check_count
from flowrank.files import no_place_to_go_on, refuse_other_settings
from flowrank.forecasting import iter_forecasts
from flowrank.progress import progress_bar
from flowrank.series.frequency import normalize_frequency

RUN, MANIFEST = f"{KEPT}/run.json", f"{KEPT}/manifest.json"
SERIES = 10_000
"""Series of a partition, about."""
_OF_DATA = frozenset({"series", "freq", "timestamp_column", "past_covariates", "future"})
"""What refusals of a partition are about; others are of the call, and leaving out a partition mends nothing."""


def forecast_files(
    series: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    horizon: int,
    on: str | None = None,
    workers: int = 1,
    threads: int = 1,
    num_gpus: float = 0,
    partition_series: int = SERIES,
    skip_bad: bool = False,
    progress: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Forecast a folder of Parquet files into another, one file a partition.

    A partition is a file, or, of files with one row a series, some row groups of it. Its forecasts appear when they
    are whole. The same call goes on where a run was interrupted: partitions that are done are not done again.
    ``_flowrank/manifest.json`` in the output appears at the end, and holds counts that add up.

    Parameters
    ----------
    series
        Parquet file or folder, or their address (``s3://…``). All rows of a series lie in one file.
    model
        A name, or a folder that every worker sees.
    output
        Folder, or its address.
    horizon
        Steps ahead.
    on
        None: this process. "ray": a Ray cluster, the one that this process belongs to or a new one on this machine;
        "ray://HOST:PORT" or "HOST:PORT": the one there.
    workers, threads, num_gpus
        Processes on Ray, and CPU threads and GPUs of each; in this process, threads alone.
    partition_series
        Series of a partition, about, where files have one row a series.
    skip_bad
        Whether to leave out series that cannot be forecast, and say why in a column ``error``; and partitions that
        cannot be read, which the manifest lists. Otherwise the run stops at the first.
    progress
        Whether to show a progress bar.
    **options
        Of `Forecaster`.

    Returns
    -------
    dict
        The manifest: ``partitions``; ``series``, ``forecast``, ``skipped``, ``rows`` of those that were read;
        ``quarantined``, those that were not, with the reason; ``passed_over``, names of files that are no Parquet.

    Raises
    ------
    FlowrankError
        If the output is of another run or lies in the input, the input has no Parquet files, such of several schemas
        or such that change meanwhile, a series comes twice, a worker cannot see the model, a partition cannot be
        forecast, or no series can be.

    Examples
    --------
    >>> forecast_files("series", "flow-bolt", "forecasts", horizon=12, on="ray", workers=4)  # doctest: +SKIP
    """
    series, output = absolute(series), absolute(output)
    source, folder = Folder(series), Folder(output)
    check_cluster(workers, threads, num_gpus)
    options = {"device": "cuda" if num_gpus else "cpu", **options, "horizon": horizon, "skip_bad": skip_bad}
    given: dict[str, Any] = {"model": model_path(model), "threads": threads, **options}
    forecaster = Forecaster(**given)  # refuses options that are wrong before anything starts
    _refuse_nested(series, output)
    shown = source.files()
    files = [one for one in shown if is_parquet(one)]
    check_files(source, files, forecaster)
    settings: dict[str, Any] = {"model": model_identity(model), "input": series, **_told(files), **_chosen(options)}
    settings |= {"partition_series": check_count(partition_series, "partition_series")}
    settings = json.loads(json.dumps(settings, default=str))
    run = _continued(folder, settings)
    if run is None:
        partitions = planned(source, files, forecaster.target, partition_series, skip_bad=skip_bad)
        if forecaster.id_column is not None:
            refuse_twice(source, partitions, forecaster.id_column)
        folder.write_json(RUN, {"settings": settings, "partitions": [asdict(one) for one in partitions]})
    else:
        partitions = [Partition(one["number"], one["file"], _pair(one["row_groups"])) for one in run["partitions"]]
    records = {one.number: record for one in partitions if (record := _done(folder, one)) is not None}
    todo = [one for one in partitions if one.number not in records]
    work = partial(_work, forecaster, series=series, output=output)
    paths = {"model": given["model"], "series": series}
    found = results_of(work, todo, on=on, workers=workers, threads=threads, num_gpus=num_gpus, paths=paths)
    with progress_bar("forecasting", total=len(partitions), unit="parts", show=progress) as advance:
        advance(len(records))
        try:
            for record in found:
                number = record["partition"]["number"]
                if "refused" in record and not (skip_bad and record["refused"]["argument"] in _OF_DATA):
                    raise _refusal(partitions[number], record["refused"])
                records[number] = record
                advance(1)
        except FlowrankError:
            if not records and not folder.files():
                folder.remove(RUN)  # so that the same output can be given again
            raise
    _refuse_changed(source, settings)
    passed_over = [one.name for one in shown if not is_parquet(one)]
    return _finished(folder, partitions, records, passed_over)


def _pair(groups: Sequence[int] | None) -> tuple[int, int] | None:
    return None if groups is None else (groups[0], groups[1])


def _refuse_nested(series: str, output: str) -> None:
    if output == series or output.startswith(series.rstrip("/") + "/"):
        raise FlowrankError(
            "output",
            expected="a folder outside of that of the series",
            found=f"{output!r} in {series!r}, where forecasts would be read as series",
            todo="choose a folder beside it",
        )


def _told(files: Iterable[File]) -> dict[str, Any]:
    """What tells files from others of the same names."""
    return {f"file {one.name}".rstrip(): [one.bytes, one.changed] for one in files}


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Options that tell runs apart: what nobody chose is as its default, and left out."""
    known = {**inspect.signature(iter_forecasts).parameters, **inspect.signature(Forecaster).parameters}
    found = {name: one.default for name, one in known.items() if name in {*OPTIONS, "engine", "device", "dtype"}}
    found |= {name: value for name, value in options.items() if name != "batch_size"}
    if found.get("freq") is not None:
        found["freq"] = normalize_frequency(found["freq"])
    return {name: value for name, value in found.items() if value}


def _refuse_changed(source: Folder, settings: dict[str, Any]) -> None:
    """Refuse forecasts of files that were written, came or went while they were forecast."""
    before = {name: value for name, value in settings.items() if name.startswith("file")}
    now = _told(one for one in source.files() if is_parquet(one))
    if differ := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        raise FlowrankError(
            "series",
            expected="files that stay as they are while they are forecast",
            found=f"another {', '.join(differ[:3])} than at the start",
            todo="choose another output",
        )


def _continued(folder: Folder, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The run that the output holds; None for a new one.

    Raises
    ------
    FlowrankError
        If it is another, or the folder holds something else.
    """
    run: dict[str, Any] | None = folder.read_json(RUN)
    if run is not None:
        refuse_other_settings(folder.address, run["settings"], settings, run="run", argument="output")
    elif files := folder.files():
        held = f"{files[0].name or 'a file'}{' …' if files[1:] else ''}"
        raise no_place_to_go_on("output", "run", f"{folder.address!r}, which holds {held}")
    return run


def _done(folder: Folder, one: Partition) -> dict[str, Any] | None:
    """The record of a partition whose file is whole."""
    record: dict[str, Any] | None = folder.read_json(one.record)
    return record if record is not None and folder.size(one.output) == record["bytes"] else None


def _work(forecaster: Forecaster, one: Partition, *, series: str, output: str) -> dict[str, Any]:
    """Forecast a partition; what makes that impossible is told in place of its record."""
    try:
        return forecast_partition(forecaster, Folder(series), Folder(output), one)
    except FlowrankError as error:
        told = {"argument": error.argument, "expected": error.expected, "found": error.found, "todo": error.todo}
    return {"partition": asdict(one), "refused": {name: str(text or "") for name, text in told.items()}}


def _refusal(one: Partition, told: dict[str, str]) -> FlowrankError:
    todo = told["todo"] or "write the file anew"
    if told["argument"] not in _OF_DATA:
        return FlowrankError(**{**told, "todo": told["todo"]})
    todo = f"{todo}, or leave out what cannot be forecast (skip_bad=True, --skip-bad)"
    return refusal(FlowrankError(**{**told, "todo": todo}), f"in {one}")


def _finished(
    folder: Folder, partitions: list[Partition], records: dict[int, dict[str, Any]], passed_over: list[str]
) -> dict[str, Any]:
    """Check that all is there, and write the manifest."""
    if missing := [one.output for one in partitions if one.number not in records]:
        raise FlowrankError(
            "on", expected="a result of every part", found=f"none of {', '.join(missing[:3])}", todo="run it again"
        )
    quarantined = {str(partitions[n]): one["refused"] for n, one in sorted(records.items()) if "refused" in one}
    whole = [records[one.number] for one in partitions if "refused" not in records[one.number]]
    manifest = {name: sum(one[name] for one in whole) for name in ("series", "forecast", "skipped", "rows")}
    manifest |= {"partitions": len(partitions), "quarantined": quarantined, "passed_over": passed_over}
    folder.write_json(MANIFEST, manifest)
    folder.remove_unfinished()
    if not manifest["forecast"]:
        told = next(
            (f"{one['found']} in {name}" for name, one in quarantined.items()), f"{manifest['skipped']} left out"
        )
        raise FlowrankError(
            "series",
            expected="at least one that can be forecast",
            found=f"none of {manifest['series']} ({told})",
            todo="see the column error in the output, and the manifest",
        )
    return manifest
