"""Forecasts of the partitions of Parquet files, in this process or on Ray, that go on where they were interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flowrank.distributed.addresses import Folder, absolute, model_identity, model_path
from flowrank.distributed.forecaster import Forecaster
from flowrank.distributed.partitions import KEPT, Partition, forecast_partition, id_of, planned, twice
from flowrank.distributed.ray_cluster import check_cluster, results_of
from flowrank.distributed.workers import refusal
from flowrank.errors import FlowrankError, check_count
from flowrank.files import no_place_to_go_on, refuse_other_settings
from flowrank.progress import progress_bar

RUN, MANIFEST = f"{KEPT}/run.json", f"{KEPT}/manifest.json"
SERIES = 10_000
"""Series of a partition, about."""


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
        The manifest: ``partitions``, ``series``, ``forecast``, ``skipped``, ``rows``, ``quarantined``.

    Raises
    ------
    FlowrankError
        If the output is of another run, the input has no Parquet files or such of several schemas, a series lies in two
        partitions, a worker cannot see the model, or a partition cannot be forecast.

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
    settings: dict[str, Any] = {"model": model_identity(model), "input": source.files(".parquet")}
    settings |= {"partition_series": check_count(partition_series, "partition_series")}
    settings |= {name: value for name, value in options.items() if name != "batch_size"}
    settings = json.loads(json.dumps(settings, default=str))
    run = _continued(folder, settings)
    if run is None:
        partitions = planned(source, options.get("target", "target"), partition_series)
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
        for record in found:
            number = record["partition"]["number"]
            if "refused" in record and not skip_bad:
                raise _refusal(partitions[number], record["refused"])
            records[number] = record
            advance(1)
    return _finished(source, folder, partitions, records, options.get("id_column", "item_id"))


def _pair(groups: Sequence[int] | None) -> tuple[int, int] | None:
    return None if groups is None else (groups[0], groups[1])


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
        held = f"{files[0][0] or 'a file'}{' …' if files[1:] else ''}"
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
    todo = f"{told['todo'] or 'write the file anew'}, or leave out what cannot be forecast (skip_bad=True, --skip-bad)"
    return refusal(FlowrankError(**{**told, "todo": todo}), f"in {one}")


def _finished(
    source: Folder, folder: Folder, partitions: list[Partition], records: dict[int, dict[str, Any]], id_column: Any
) -> dict[str, Any]:
    """Check that all is there once, and write the manifest."""
    if missing := [one.output for one in partitions if one.number not in records]:
        raise FlowrankError(
            "on", expected="a result of every part", found=f"none of {', '.join(missing[:3])}", todo="run it again"
        )
    quarantined = {str(partitions[n]): one["refused"] for n, one in sorted(records.items()) if "refused" in one}
    whole = [one for one in partitions if "refused" not in records[one.number]]
    again = None if id_column is None else twice(folder, whole)
    if again is not None:
        first, second, number = again
        raise FlowrankError(
            "series",
            expected="all rows of a series in one partition",
            found=f"series {id_of(source, first, id_column, number)!r} in {first} and in {second}",
            todo="write each series into one file, and choose another output",
        )
    counts = ("series", "forecast", "skipped", "rows")
    manifest = {name: sum(records[one.number][name] for one in whole) for name in counts}
    manifest |= {"partitions": len(partitions), "quarantined": quarantined}
    folder.write_json(MANIFEST, manifest)
    return manifest
