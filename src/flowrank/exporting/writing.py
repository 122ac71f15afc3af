"""A model as a folder with a graph, that a runtime opens without torch."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flowrank.engine.graphs import Parts
from flowrank.engine.tracing import onnx_model
from flowrank.errors import FlowrankError
from flowrank.exporting.card import card
from flowrank.exporting.checking import Check, checked
from flowrank.exporting.precision import dynamic_integers, halved, integers
from flowrank.family import family_of, tensor_digest
from flowrank.files import atomic_folder
from flowrank.graphs import MANIFEST, RUNTIMES, check_installed, installed
from flowrank.graphs.folder import ENDINGS, VERSION, digest
from flowrank.pipelines import load

FORMATS = tuple(ENDINGS)
PRECISIONS = ("fp32", "bf16", "int8")
OWNED = (
    *(MANIFEST, "README.md"),
    *(f"{part}{ending}" for part in ("model", "encoder", "step") for ending in (*ENDINGS.values(), ".bin")),
)
"""Files of an exported folder."""

_RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino"}
_FAR = 1e-4  # of a graph of full precision from its model, relative: something is wrong


def export(
    model: Any,
    folder: str | Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    overwrite: bool = False,
) -> Path:
    """Write a model as a graph that ONNX Runtime or OpenVINO runs, with its digest, levels and a model card.

    One graph for any number of series, any context, any pattern of missing values. `flowrank.load` opens the folder,
    also where torch is not installed.

    Parameters
    ----------
    model
        A pipeline, or what `flowrank.load` opens.
    folder
        Where to.
    format
        "onnx", or "openvino" (an IR of that runtime; needs ``pip install "flowrank[openvino]"``).
    precision
        Of the weights: "fp32"; "bf16", half the bytes (ONNX Runtime computes in fp32 all the same, OpenVINO in bf16);
        or "int8", a quarter (ONNX Runtime multiplies integers, OpenVINO decides by the processor).
    overwrite
        Whether an earlier export there may be replaced.

    Returns
    -------
    Path
        The folder. ``export.json`` in it tells source, versions, and by how much the graph differed from the model on
        random series; that is measured where the runtime is installed.

    Raises
    ------
    FlowrankError
        If the model's family has no graph, a package is missing, the folder exists, or the graph does not forecast what
        the model does.

    Examples
    --------
    >>> import tempfile, flowrank
    >>> folder = tempfile.mkdtemp() + "/exported"
    >>> path = export("flow-bolt-mini", folder)  # doctest: +SKIP
    >>> quantiles = flowrank.load(path).predict([[1.0, 2.0, 1.0, 2.0]], prediction_length=12)  # doctest: +SKIP
    >>> quantiles.shape  # doctest: +SKIP
    (1, 9, 12)
    """
    _one_of("format", format, FORMATS)
    _one_of("precision", precision, PRECISIONS)
    pipeline = load(model) if isinstance(model, str | Path) else model
    family = family_of(pipeline)
    engine_class = pipeline.inference.graph_engine
    if engine_class is None:
        raise family.lacks("graphs")
    _check_computed(pipeline)
    runtime = _RUNTIME[format]
    if format == "openvino" or precision == "int8":
        check_installed(runtime, "format")
    parts: Parts = engine_class.traced(pipeline.inner_model)
    with atomic_folder(folder, overwrite=overwrite, argument="folder", owned=OWNED) as temporary:
        plain = {name: onnx_model(graph) for name, graph in parts.graphs.items()}
        paths = {
            name: _written(_packed(one, format, precision), temporary / f"{name}{ENDINGS[format]}", format)
            for name, one in plain.items()
        }
        files = {one.name: digest(one) for one in sorted(temporary.iterdir())}
        manifest: dict[str, Any] = {
            "version": VERSION,
            "format": format,
            "precision": precision,
            "graph": parts.facts.to_dict(),
            "source": {
                "name": pipeline.name,
                "family": family.name,
                "revision": pipeline.revision,
                "sha256": tensor_digest(pipeline.inner_model),
                "parameters": int(pipeline.inner_model.num_parameters()),
            },
            "config": json.loads(pipeline.inner_model.config.to_json_string()),
            "needs": _needs(next(iter(plain.values())), format),
            "tools": _tools(),
            "files": files,
        }
        check: Check | None = None
        if runtime in installed():
            check = checked(pipeline, plain, paths, runtime, parts.facts, precision)
            if precision == "fp32" and pipeline.inner_model.dtype == torch.float32:
                _refuse_far(check)
            manifest["check"] = check.to_dict()
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(card(manifest), encoding="utf-8")
    if check is not None and check.slower is not None and check.slower > 1:
        warnings.warn(
            f"{precision} takes {check.slower:.2f} times as long as fp32 on this processor, for {check.series} series",
            stacklevel=2,
        )
    return Path(folder)


def _packed(model: Any, form: str, precision: str) -> Any:
    if precision == "bf16":
        return halved(model)
    if precision == "int8":
        return dynamic_integers(model) if form == "onnx" else integers(model)
    return model


def _written(model: Any, path: Path, form: str) -> Path:
    """Write a graph's file, or files."""
    if form == "onnx":
        path.write_bytes(model.SerializeToString())
        return path
    import openvino

    opened = openvino.Core().read_model(model.SerializeToString())
    openvino.save_model(opened, path, compress_to_fp16=False)
    return path


def _needs(model: Any, form: str) -> dict[str, Any]:
    """What a runtime has to be able to read."""
    if form == "openvino":
        return {"openvino": version("openvino")}
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return {"opset": int(opset), "IR": int(model.ir_version)}


def _tools() -> dict[str, str]:
    names = ("flowrank", "torch", "onnx", "onnxscript", *(RUNTIMES[one].package for one in installed()))
    return {name: version(name) for name in names}


def _check_computed(pipeline: Any) -> None:
    """Refuse a model that the exact engine does not compute: a graph leaves out what it does, and is checked by it."""
    model = pipeline.inner_model
    if pipeline.inference.engine_class.knows(model) and model.device.type == "cpu":
        return
    raise FlowrankError(
        "model",
        expected="a model on the CPU, in eval mode, without hooks, of layers that the exact engine knows",
        found=f"one on {model.device}" if model.device.type != "cpu" else "another",
        todo="open it anew with flowrank.load(…)",
    )


def _refuse_far(check: Check) -> None:
    if not check.difference <= _FAR:
        raise FlowrankError(
            "graph",
            expected=f"forecasts within {_FAR:g} of the model's own",
            found=f"a difference of {check.difference:.2g}",
            todo="this is a fault of flowrank or of a runtime: nothing was written; please report it",
        )


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise FlowrankError(argument, expected=f"one of {', '.join(allowed)}", found=repr(value))
