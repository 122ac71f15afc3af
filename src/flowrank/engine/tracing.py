"""Models as functions that graph exporters can trace, and the ONNX models of such.

A traced model has no branch that depends on values: it computes padded tokens, too, and hides them by a mask. What
changes nothing whatever the values are is left out, as in the exact engines.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.engine.feed_forward import FeedForward
from flowrank.engine.heads import Heads
from flowrank.engine.products import Matrix, Weight
from flowrank.errors import FlowrankError
from flowrank.graphs import Facts
from flowrank.nn.int8 import Int8Linear

OPSET = 20


class Graph(nn.Module):
    """A model, or a part of one, as one function of arrays, in fp32."""

    @abstractmethod
    def example(self) -> dict[str, Any]:
        """Inputs by name, to trace it with: arrays, or lists of such."""

    @abstractmethod
    def axes(self) -> dict[str, Any]:
        """The axes of the inputs that may have any length."""

    def input_names(self) -> list[str]:
        """Names of its inputs, in their order; those of a list one by one."""
        return list(self.example())

    def output_names(self) -> list[str]:
        """Names of what it gives."""
        return ["quantiles"]


class ModelGraph(Graph):
    """A whole model as one graph."""

    @classmethod
    @abstractmethod
    def of(cls, model: Any) -> ModelGraph:
        """The graph of a model."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What has to be known to forecast with it."""


class Norm(nn.Module):
    """Rows over their root mean square, times a scale; in the form that runtimes know as one operation."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.epsilon = norm.variance_epsilon
        self.register_buffer("scale", norm.weight.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, d) to (…, d)."""
        return x / (x.pow(2.0).mean(-1, keepdim=True) + self.epsilon).sqrt() * self.scale


class Chain(nn.Module):
    """Products with one weight after another, after a norm where one is given."""

    def __init__(self, weights: Sequence[Matrix], norm: Any = None) -> None:
        super().__init__()
        self.count = len(weights)
        self.norm = nn.Identity() if norm is None else Norm(norm)
        for i, weight in enumerate(weights):
            self.register_buffer(f"weight{i}", weight.dense().detach().float().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        x = self.norm(x)
        for i in range(self.count):
            x = x @ getattr(self, f"weight{i}")
        return x


class FeedForwardGraph(nn.Module):
    """x + W_O ReLU(W_I norm(x)), or whatever the layer computes; nothing where no neuron is left."""

    def __init__(self, layer: FeedForward) -> None:
        super().__init__()
        self.gone, self.plain = layer.gone, layer.plain
        if not layer.gone and not layer.plain:
            self.norm, self.module = Norm(layer.norm), in_fp32(layer.module)
        elif not layer.gone:
            self.reads = Chain((*layer.before, layer.inner), layer.norm)
            self.writes = Chain(layer.outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, d) to (…, d)."""
        if self.gone:
            return x
        return x + (self.writes(self.reads(x).relu()) if self.plain else self.module(self.norm(x)))


class Together(nn.Module):
    """Several projections of the same rows, as one product where each is one weight."""

    def __init__(self, projections: tuple[Any, ...]) -> None:
        super().__init__()
        self.widths = [int(one[-1].shape[0]) for one in projections]
        self.fused = all(len(one) == 1 for one in projections)
        weights = [Chain(one) for one in projections]
        if self.fused:
            together = torch.cat([one.weight0.t() for one in weights])  # type: ignore[operator]
            weights = [Chain((Weight(together),))]
        self.each = nn.ModuleList(weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (…, d) to (…, width) for each."""
        if self.fused:
            return list(self.each[0](x).split(self.widths, -1))
        return [one(x) for one in self.each]


class QueriesKeysValues(nn.Module):
    """The three projections of an attention layer after its norm."""

    def __init__(self, heads: Heads, norm: Any) -> None:
        super().__init__()
        self.heads, self.norm = heads.count, Norm(norm)
        self.each = Together((heads.query, heads.key, heads.value))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, L, d) to queries, keys and values (B, h, L, width)."""
        return [
            part.reshape(part.shape[0], part.shape[1], self.heads, -1).transpose(1, 2)
            for part in self.each(self.norm(x))
        ]


def in_fp32(module: Any) -> Any:
    """The module itself, or a copy in fp32 where its weights are of another number type."""
    if all(one.dtype == torch.float32 for one in module.state_dict().values()):
        return module
    made = copy.deepcopy(module)
    for name, one in list(made.named_modules()):
        if isinstance(one, Int8Linear):
            made.set_submodule(name, _linear(one))
    return made.float()


def _linear(layer: Int8Linear) -> nn.Linear:
    """A layer of 8-bit integers as one of numbers that runtimes multiply."""
    weight = layer.quantized.dense().detach().float()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if layer.bias is not None:
            made.bias.copy_(layer.bias.float())
    return made.eval()


def joined(read: Tensor) -> Tensor:
    """What heads read (B, h, L, width), side by side: (B, L, h · width)."""
    batch, heads, length, width = read.shape
    return read.transpose(1, 2).reshape(batch, length, heads * width)


def standardised(context: Tensor, seen: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, time) less their mean and over their spread where ``seen``, 0 elsewhere; both, (n, 1).

    Parameters
    ----------
    context
        NaN where nothing was observed.
    seen
        Where something was.
    least
        The spread of rows that never change.
    """
    count = seen.sum(-1, keepdim=True).to(context.dtype)
    level = torch.nan_to_num(torch.where(seen, context, 0.0).sum(-1, keepdim=True) / count, nan=0.0)
    centred = torch.where(seen, context - level, 0.0)
    spread = torch.nan_to_num(((centred * centred).sum(-1, keepdim=True) / count).sqrt(), nan=1.0)
    spread = torch.where(spread == 0, least, spread)
    return centred / spread, level, spread


def onnx_model(graph: Graph) -> Any:
    """The ONNX model of a graph, an ``onnx.ModelProto``.

    Raises
    ------
    FlowrankError
        If the packages that write ONNX models are missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FlowrankError(
            "engine",
            expected="the packages onnx and onnxscript, which write graphs",
            found=f"no {error.name}",
            todo='pip install "flowrank[onnx]"',
        ) from error
    example = graph.eval().example()
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            kwargs=example,
            dynamo=True,
            dynamic_shapes=graph.axes(),
            input_names=graph.input_names(),
            output_names=graph.output_names(),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _check_axes(graph, model)
    for told in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del told.metadata_props[:]  # stack traces, with paths of this machine
        told.doc_string = ""
    return model


def _check_axes(graph: Graph, model: Any) -> None:
    """Refuse a model in which an axis has the length of the example: the exporter does that without a word."""
    wanted = chain.from_iterable(one if isinstance(one, list) else [one] for one in graph.axes().values())
    for told, axes in zip(model.graph.input, wanted, strict=True):
        fixed = [axis for axis in axes if not told.type.tensor_type.shape.dim[axis].dim_param]
        if fixed:
            raise FlowrankError(
                "graph",
                expected=f"any length of the axes {fixed} of {told.name}",
                found="one of a fixed length",
                todo="this is a fault of flowrank or of the exporter: please report it",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
