"""The runtimes that compute graphs on a CPU, behind one call.

Their threads sleep where they wait, so that several processes share a machine: a thread that spins is a little faster
alone, and slows all others.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flowrank.errors import FlowrankError, check_count

Arrays = Mapping[str, np.ndarray]


class Runtime(ABC):
    """A graph, ready to run.

    Parameters
    ----------
    graph
        A file, or the bytes of an ONNX model.
    threads
        CPU threads.
    precision
        Of the weights in the file: "fp32", "bf16" or "int8".
    """

    name: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str]

    @abstractmethod
    def __init__(self, graph: Path | bytes, *, threads: int, precision: str) -> None: ...

    @abstractmethod
    def run(self, inputs: Arrays) -> np.ndarray:
        """The graph's one output."""

    @abstractmethod
    def held(self, array: np.ndarray) -> Any:
        """An array as the runtime takes it, on the same memory."""

    @abstractmethod
    def run_held(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Some outputs by name, as the runtime holds them, from inputs that it holds.

        Outputs can be inputs of another graph in the same runtime, uncopied. They last until this graph runs again.
        Inputs that nothing in the graph depends on may be given all the same.
        """

    @staticmethod
    @abstractmethod
    def array(value: Any) -> np.ndarray:
        """What the runtime holds, as an array."""


class OnnxRuntime(Runtime):
    """A graph in ONNX Runtime."""

    name, package, extra = "onnxruntime", "onnxruntime", "onnx"

    def __init__(self, graph: Path | bytes, *, threads: int, precision: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors come as exceptions, too
        source = graph if isinstance(graph, bytes) else str(graph)
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._names = {one.name for one in self._session.get_inputs()}

    def run(self, inputs: Arrays) -> np.ndarray:
        """The graph's one output."""
        (result,) = self._session.run(None, dict(inputs))
        return np.asarray(result)

    def held(self, array: np.ndarray) -> Any:
        """An array as the runtime takes it, on the same memory."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(array)

    def run_held(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Some outputs by name, as the runtime holds them."""
        given = {name: value for name, value in inputs.items() if name in self._names}
        found = self._session.run_with_ort_values(list(outputs), given)
        return dict(zip(outputs, found, strict=True))

    @staticmethod
    def array(value: Any) -> np.ndarray:
        """What the runtime holds, as an array."""
        return np.asarray(value.numpy())


class OpenVino(Runtime):
    """A graph in OpenVINO."""

    name, package, extra = "openvino", "openvino", "openvino"

    def __init__(self, graph: Path | bytes, *, threads: int, precision: str) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(graph if isinstance(graph, bytes) else str(graph))
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        compiled = core.compile_model(model, "CPU", options)
        self._request = compiled.create_infer_request()
        self._names = {one.any_name for one in compiled.inputs}

    def run(self, inputs: Arrays) -> np.ndarray:
        """The graph's one output."""
        results = self._request.infer(dict(inputs))
        return np.array(next(iter(results.values())))

    def held(self, array: np.ndarray) -> Any:
        """An array as the runtime takes it, on the same memory."""
        from openvino import Tensor

        return Tensor(array, shared_memory=True)

    def run_held(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Some outputs by name, as the runtime holds them."""
        for name in self._names & inputs.keys():
            self._request.set_tensor(name, inputs[name])
        self._request.infer()
        return {name: self._request.get_tensor(name) for name in outputs}

    @staticmethod
    def array(value: Any) -> np.ndarray:
        """What the runtime holds, as an array."""
        return np.asarray(value.data)


RUNTIMES: dict[str, type[Runtime]] = {one.name: one for one in (OnnxRuntime, OpenVino)}
"""By name."""


def installed() -> list[str]:
    """Names of the runtimes that can be imported here."""
    return [name for name, one in RUNTIMES.items() if find_spec(one.package) is not None]


def check_installed(name: str, argument: str = "engine") -> str:
    """Return the name of a runtime, or refuse it.

    Raises
    ------
    FlowrankError
        If there is no such runtime, or its package is not installed.
    """
    if name not in RUNTIMES:
        raise FlowrankError(argument, expected=f"one of {', '.join(RUNTIMES)}", found=repr(name))
    runtime = RUNTIMES[name]
    if find_spec(runtime.package) is None:
        raise FlowrankError(
            argument,
            expected=f"the package {runtime.package}, which {name!r} needs",
            found="none installed",
            todo=f'pip install "flowrank[{runtime.extra}]"',
        )
    return name


def usable_threads() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_graph(
    graph: Path | bytes, runtime: str, *, threads: int | None = None, precision: str = "fp32", needs: str = ""
) -> Runtime:
    """Open a graph.

    Parameters
    ----------
    graph
        A file, or the bytes of an ONNX model.
    runtime
        One of `RUNTIMES`.
    threads
        CPU threads; None: all that this process may use.
    precision
        Of the weights in the file.
    needs
        What the graph was written for, for an error.

    Raises
    ------
    FlowrankError
        If the runtime is not installed, or cannot read the graph.
    """
    kind = RUNTIMES[check_installed(runtime)]
    count = usable_threads() if threads is None else check_count(threads, "threads")
    try:
        return kind(graph, threads=count, precision=precision)
    except Exception as error:  # each runtime has errors of its own
        raise FlowrankError(
            "graph",
            expected=f"one that {kind.package} {version(kind.package)} can open" + (f" ({needs})" if needs else ""),
            found=_first_line(error),
            todo=f"pip install --upgrade {kind.package}, or export the model again for this version",
        ) from error


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
