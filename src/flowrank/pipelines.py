"""Opening a model of any family, or one that was exported. The latter needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrank.errors import FlowrankError
from flowrank.graphs import is_export, open_export

if TYPE_CHECKING:
    from flowrank.family import FlowrankPipeline as Pipeline

    __all__ = ["Pipeline", "load"]


def load(
    source: str | Path | None = None,
    *,
    device_map: Any = "cpu",
    dtype: Any = "auto",
    revision: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    memory_budget: int | None = None,
    local_files_only: bool = False,
) -> Any:
    """Open a time series model of any known family, dense or compressed, or one that was exported.

    Parameters
    ----------
    source
        A hub id (``"amazon/chronos-bolt-small"``), a folder, or the name of an embedded model; a folder of
        `flowrank.export` opens where torch is not installed. None: the embedded model ``flow-bolt``.
    device_map
        Where the weights go: ``"cpu"``, ``"cuda"``, ``"auto"`` or what transformers accepts.
    dtype
        ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ``"float16"``, a torch dtype, or ``"fastest"``: bfloat16
        where a short measurement finds that the device multiplies it faster, else float32. A model of 8-bit integers
        (`flowrank.quantize`) opens as it is.
    revision
        Commit, branch or tag on the hub.
    engine
        "exact" (fast, the same forecasts), "stock" (chronos-forecasting's own code path), "onnxruntime" or "openvino"
        (the same model as a graph in that runtime, on a CPU; made at the first forecast, within seconds), or "fastest":
        what of these is installed and was the fastest in a short measurement for batches of this size. Also a settable
        attribute. None: "exact"; of an exported model, the first runtime that is installed and opens it.
    threads
        CPU threads of an exported model; None: all that this process may use. Other models run in torch, whose threads
        ``torch.set_num_threads`` sets.
    memory_budget
        Bytes for activations and caches of the exact engine; None: 2 GiB on a CPU, half of what is free on a GPU. Also
        a settable attribute. Of an exported model, bytes of a batch; None: half a GiB.
    local_files_only
        Whether a hub id is looked up in the cache of the hub only, and nothing is downloaded.

    Returns
    -------
    FlowrankPipeline or ExportedModel
        A pipeline of the model's family; those of Chronos models have chronos-forecasting's verbs: ``predict``,
        ``predict_quantiles``, ``predict_df``, ``predict_fev``, ``embed``. Or `flowrank.graphs.ExportedModel`, with
        ``predict`` and ``predict_quantiles`` on numpy arrays.

    Raises
    ------
    FlowrankError
        If the source is not there or not such a model, or its weights are absent, truncated or contradict its
        config. Nothing is unpickled and no remote code runs.

    Examples
    --------
    >>> import torch
    >>> pipeline = load("flow-bolt-mini")
    >>> quantiles, mean = pipeline.predict_quantiles([torch.arange(48.0)], prediction_length=12)
    >>> tuple(quantiles.shape), tuple(mean.shape)
    ((1, 12, 9), (1, 12))
    """
    if source is not None and is_export(source):
        _refuse_for_export(device_map=(device_map, ("cpu", "auto")), dtype=(dtype, ("auto",)))
        return open_export(source, engine=engine, threads=threads, memory_budget=memory_budget)
    if threads is not None:
        raise FlowrankError(
            "threads",
            expected="none, as the model is not an exported one",
            found=threads,
            todo="call torch.set_num_threads",
        )
    return _opened(source, device_map, dtype, revision, engine or "exact", memory_budget, local_files_only)


def check_device(device: str, argument: str = "device") -> None:
    """Refuse a device that torch does not find here.

    Raises
    ------
    FlowrankError
        With the reason that torch gives.

    Examples
    --------
    >>> check_device("cpu")
    """
    import torch

    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise FlowrankError(
            argument,
            expected="cpu, auto, or a device that torch finds here, such as cuda",
            found=f"{device!r} ({str(error).splitlines()[0]})",
            todo="leave the option out to use the CPU",
        ) from error


def _refuse_for_export(**given: tuple[Any, tuple[str, ...]]) -> None:
    """Refuse what an exported model has as it was written."""
    for argument, (value, allowed) in given.items():
        if value not in allowed:
            raise FlowrankError(
                argument,
                expected=f"{allowed[0]!r}, for an exported model",
                found=repr(value),
                todo="open the model itself, or export it with another --precision",
            )


def _opened(
    source: str | Path | None,
    device_map: Any,
    dtype: Any,
    revision: str | None,
    engine: str,
    memory_budget: int | None,
    local_files_only: bool,
) -> Any:
    import torch

    from flowrank.cost import fastest_dtype
    from flowrank.engine.paths import check_budget, check_engine
    from flowrank.family import DEFAULT, Checkpoint, FlowrankPipeline
    from flowrank.nn.shapes import Shapes

    check_engine(engine)
    check_budget(memory_budget)
    cached: dict[str, Any] = {"local_files_only": True} if local_files_only else {}
    checkpoint = Checkpoint.find(DEFAULT if source is None else source, revision=revision, **cached)
    if dtype == "fastest" and Shapes.of(checkpoint.config).int8:
        dtype = "auto"
    if dtype == "fastest":
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = fastest_dtype(device_map if device_map != "auto" and isinstance(device_map, str) else auto)
    pipeline = FlowrankPipeline.of_checkpoint(checkpoint, device_map=device_map, dtype=dtype)
    pipeline.engine, pipeline.memory_budget = engine, memory_budget
    return pipeline


def __getattr__(name: str) -> Any:
    """``Pipeline``, the class of what `load` returns where torch is installed."""
    if name == "Pipeline":
        from flowrank.family import FlowrankPipeline

        return FlowrankPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
