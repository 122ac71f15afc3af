"""Chronos-T5 in several runtimes: stock, torch.compile, exact engine, ONNX Runtime, OpenVINO, CTranslate2.

python benchmarks/t5_runtimes.py [--shapes tiny small] [--batches 1 8 32] [--context 512] [--horizon 64] [--paths 20]
    [--threads 2] [--sides stock compiled exact onnxruntime openvino ctranslate2] [--caches buffer] [--seconds 60]
    [--output t5_runtimes.json]
python benchmarks/t5_runtimes.py --check      the graphs against the exact engine, CTranslate2 against stock
python benchmarks/t5_runtimes.py --parts [--output t5_parts.json]     how long encoder, steps and draws take alone

Models have the published shapes and random weights, so nothing is downloaded. Each side has a process of its own; they
take turns, with a pause in which the threads of the last one go to sleep. A side repeats until --seconds are spent, 31
times at the most, once at the least. Sides that have rows in the output file are not timed again, so time all sides of
a batch size in one go.

`--clock processor --threads 1` counts the seconds that a process was at work: for a machine that does other work, too.

The graphs are what one would deploy. One encodes, and ends with the keys and values of cross-attention; one decodes one
step. Their inputs and outputs are bound, so no cache is copied from call to call. `--caches buffer`: keys and values of
self-attention lie in buffers that grow by 16 places, new ones are written in place; `concatenated`: the graph returns
the longer caches. Contexts without padding only, so no mask has to be added: the best case for them. Tokens are drawn
by the exact engine's own code. CTranslate2 draws by itself, from the 50 likeliest tokens; it is not a dependency of
flowrank: `pip install ctranslate2`.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

PAUSE = 0.3  # seconds; OpenMP's threads spin for a while after their last work
ROUNDS = 3
MOST, LEAST = 31, 1
GROWTH = 16  # places by which buffers grow
SIDES = ("stock", "compiled", "exact", "onnxruntime", "openvino", "ctranslate2")
GRAPHS = ("onnxruntime", "openvino")
CACHES = ("buffer", "concatenated")
TOLERANCE = 1e-4
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Call = Callable[[], Any]


def graphs_of(engine: Any, steps: int, caches: str) -> tuple[bytes, bytes]:
    """The ONNX models of a Chronos-T5's encoder and of one step of its decoder.

    Parameters
    ----------
    engine
        A `T5Engine`, which has read the model.
    steps
        As many as will ever be decoded.
    caches
        One of `CACHES`.
    """
    import torch
    from torch import nn

    from flowrank.engine.tracing import HIDDEN, OPSET, Chain, FeedForwardGraph, Norm, QueriesKeysValues
    from flowrank.families._t5_stack.graph import EncoderGraph

    tokens = engine.model.config.chronos_config["context_length"] + 1
    count = len(engine.layers)

    class Encodes(nn.Module):
        """Token ids (B, L) to keys (B, h, width, L) and values (B, h, L, width) of each layer's cross-attention."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", engine.model.encoder.embed_tokens.weight.detach().clone())
            self.encoder = EncoderGraph(engine.encoder, tokens)
            self.heads = [layer.cross_attention.count for layer in engine.layers]
            self.keys = nn.ModuleList(Chain(layer.cross_attention.key) for layer in engine.layers)
            self.values = nn.ModuleList(Chain(layer.cross_attention.value) for layer in engine.layers)

        def forward(self, tokens: Any) -> Any:
            x = self.encoder(self.table[tokens], torch.zeros(1, tokens.shape[1]))
            found = []
            for heads, key, value in zip(self.heads, self.keys, self.values, strict=True):
                found.append(key(x).unflatten(2, (heads, -1)).permute(0, 2, 3, 1))
                found.append(value(x).unflatten(2, (heads, -1)).transpose(1, 2))
            return tuple(found)

    class Layer(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.reads = QueriesKeysValues(layer.self_attention, layer.self_norm)
            self.writes = Chain(layer.self_attention.output)
            self.heads = layer.cross_attention.count
            self.asks = Chain(layer.cross_attention.query, layer.cross_norm)
            self.answers = Chain(layer.cross_attention.output)
            self.feed_forward = FeedForwardGraph(layer.feed_forward)

        def forward(self, x: Any, bias: Any, now: Any, past: Any, cross: Any) -> Any:
            series, paths, _ = x.shape
            rows = self.reads.each(self.reads.norm(x))
            query, key, value = (part.reshape(series, paths, self.reads.heads, 1, -1) for part in rows)
            if caches == "buffer":
                before = query @ past[0].transpose(3, 4) + bias
                scores = torch.cat([before, (query * key).sum(-1, keepdim=True) + now], -1).softmax(-1)
                read = scores[..., :-1] @ past[1] + scores[..., -1:] * value
            else:
                key, value = (torch.cat([old, new], 3) for old, new in zip(past, (key, value), strict=True))
                read = (query @ key.transpose(3, 4) + bias).softmax(-1) @ value
            x = x + self.writes(read.reshape(series, paths, -1))
            query = self.asks(x).reshape(series, paths, self.heads, -1).transpose(1, 2)
            read = (query @ cross[0]).softmax(-1) @ cross[1]
            x = x + self.answers(read.transpose(1, 2).reshape(series, paths, -1))
            return self.feed_forward(x), key, value

    class Step(nn.Module):
        """Tokens (B, S) and what came before to logits (B, S, vocabulary), and keys and values of each layer."""

        def __init__(self) -> None:
            super().__init__()
            decoder = engine.model.decoder
            self.register_buffer("table", decoder.embed_tokens.weight.detach().clone())
            bias = engine.position.compute_bias(steps, steps).detach()[0, :, -1].flip(1)
            self.register_buffer("bias", bias.contiguous())  # (h, distance)
            self.layers = nn.ModuleList(Layer(layer) for layer in engine.layers)
            self.norm, self.head = Norm(decoder.final_layer_norm), Chain(engine.head)

        def forward(self, tokens: Any, position: Any, past: Any, cross: Any) -> Any:
            x = self.table[tokens]
            now = self.bias[:, :1, None]
            if caches == "buffer":
                places = torch.arange(past[0].shape[3])
                bias = self.bias[:, (position - places).clamp(min=0)] + torch.where(places < position, 0.0, HIDDEN)
            else:
                bias = self.bias[:, torch.arange(past[0].shape[3], -1, -1)]
            made = []
            for i, layer in enumerate(self.layers):
                x, key, value = layer(x, bias[:, None], now, past[2 * i : 2 * i + 2], cross[2 * i : 2 * i + 2])
                made += [key, value]
            return (self.head(self.norm(x) * engine.scale), *made)

    names = [f"{kind}{i}" for i in range(count) for kind in ("key", "value")]

    def exported(module: Any, example: dict[str, Any], axes: dict[str, Any], inputs: list[str], outputs: Any) -> bytes:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                kwargs=example,
                dynamo=True,
                dynamic_shapes=axes,
                input_names=inputs,
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
        logging.disable(logging.NOTSET)
        return program.model_proto.SerializeToString()

    series, length = torch.export.Dim("series", min=1), torch.export.Dim("length", min=2, max=tokens)
    paths, room = torch.export.Dim("paths", min=1), torch.export.Dim("room", min=0, max=max(steps, GROWTH) + GROWTH)
    ids = torch.arange(12).view(2, 6)
    crosses = [f"cross_{name}" for name in names]
    encoder = exported(Encodes(), {"tokens": ids}, {"tokens": {0: series, 1: length}}, ["tokens"], crosses)
    step = Step()
    made = Encodes().eval()(ids)
    past = []
    for layer in engine.layers:
        heads = layer.self_attention
        past += [torch.zeros(2, 3, heads.count, 5, width) for width in (heads.d_qk, heads.d_vo)]
    position = torch.tensor(3)
    example = {"tokens": ids[:, :3], "position": position, "past": past, "cross": [one.detach() for one in made]}
    axes = {
        "tokens": {0: series, 1: paths},
        "position": {},
        "past": [{0: series, 1: paths, 3: room} for _ in past],
        "cross": [{0: series, 3: length}, {0: series, 2: length}] * count,
    }
    inputs = ["tokens", "position", *(f"past_{name}" for name in names), *crosses]
    return encoder, exported(step, example, axes, inputs, ["logits", *names])


class InOnnxRuntime:
    """Both graphs in ONNX Runtime, inputs and outputs bound."""

    def __init__(self, encoder: bytes, step: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        self.encoder, self.step = (
            onnxruntime.InferenceSession(one, options, providers=["CPUExecutionProvider"]) for one in (encoder, step)
        )
        self.inputs = {one.name for one in self.step.get_inputs()}
        self.outputs = [one.name for one in self.step.get_outputs()]

    def encode(self, tokens: np.ndarray) -> dict[str, Any]:
        """Keys and values of cross-attention by name, where the runtime has put them."""
        binding = self.encoder.io_binding()
        binding.bind_cpu_input("tokens", tokens)
        names = [one.name for one in self.encoder.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu")
        self.encoder.run_with_iobinding(binding)
        cross = dict(zip(names, binding.get_outputs(), strict=True))
        self.binding = self.step.io_binding()
        for name, one in cross.items():
            self.binding.bind_ortvalue_input(name, one)
        return cross

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One step; arrays of the runtime go in as they are."""
        for name, one in inputs.items():
            if name not in self.inputs:
                continue
            if isinstance(one, np.ndarray):
                self.binding.bind_input(name, "cpu", 0, one.dtype.type, one.shape, one.ctypes.data)
            else:
                self.binding.bind_ortvalue_input(name, one)
        for name in self.outputs:
            self.binding.bind_output(name, "cpu")
        self.step.run_with_iobinding(self.binding)
        return dict(zip(self.outputs, self.binding.get_outputs(), strict=True))

    @staticmethod
    def array(value: Any) -> np.ndarray:
        """What the runtime has made, as an array on the same memory."""
        import torch

        return torch.from_dlpack(value._ortvalue).numpy() if hasattr(value._ortvalue, "__dlpack__") else value.numpy()


class InOpenVino:
    """Both graphs in OpenVINO, on shared memory; two requests: outputs of one are inputs of the other."""

    def __init__(self, encoder: bytes, step: bytes, threads: int) -> None:
        import openvino

        self.openvino, core = openvino, openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_PRECISION_HINT": "f32"}
        self.encoder = core.compile_model(core.read_model(encoder), "CPU", options)
        step_model = core.compile_model(core.read_model(step), "CPU", options)
        self.requests = [step_model.create_infer_request() for _ in range(2)]
        self.inputs = {one.any_name for one in step_model.inputs}
        self.outputs = [one.any_name for one in step_model.outputs]
        self.encoding = self.encoder.create_infer_request()

    def encode(self, tokens: np.ndarray) -> dict[str, Any]:
        """Keys and values of cross-attention by name, where the runtime has put them."""
        self.encoding.set_tensor("tokens", self.openvino.Tensor(tokens, shared_memory=True))
        self.encoding.infer()
        cross = {one.any_name: self.encoding.get_tensor(one.any_name) for one in self.encoder.outputs}
        for request in self.requests:
            for name, one in cross.items():
                request.set_tensor(name, one)
        return cross

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One step; arrays of the runtime go in as they are."""
        request = self.requests[0]
        self.requests.reverse()
        for name, one in inputs.items():
            if name in self.inputs:
                is_array = isinstance(one, np.ndarray)
                request.set_tensor(name, self.openvino.Tensor(one, shared_memory=True) if is_array else one)
        request.infer()
        return {name: request.get_tensor(name) for name in self.outputs}

    @staticmethod
    def array(value: Any) -> np.ndarray:
        """What the runtime has made, as an array on the same memory."""
        return value.data


class Decodes:
    """A decoder as `T5Engine` wants one, by the graph of a step."""

    def __init__(self, graphs: Any, engine: Any, tokens: np.ndarray, paths: int, steps: int, caches: str) -> None:
        self.graphs, self.paths, self.steps, self.position = graphs, paths, steps, 0
        self.series, self.caches = len(tokens), caches
        self.cross = graphs.encode(tokens)
        self.shapes = {}
        for i, layer in enumerate(engine.layers):
            heads = layer.self_attention
            self.shapes |= {f"key{i}": (heads.count, heads.d_qk), f"value{i}": (heads.count, heads.d_vo)}
        self.past: dict[str, Any] = {}
        self.grow(1)

    def grow(self, paths: int) -> None:
        """Room for more keys and values."""
        for name, (heads, width) in self.shapes.items():
            room = min(self.position + GROWTH, self.steps) if self.caches == "buffer" else 0
            now = np.zeros((self.series, paths, heads, room, width), np.float32)
            if self.position:
                now[:, :, :, : self.position] = self.past[name][:, :, :, : self.position]
            self.past[name] = now

    def first(self, tokens: Any) -> Any:
        """Logits (B, vocabulary) after the start tokens (B,)."""
        logits = self.decode(tokens, 1)
        if self.caches == "concatenated":
            self.past = {name: self.graphs.array(one).repeat(self.paths, 1) for name, one in self.past.items()}
        else:
            self.grow(self.paths)
        return logits

    def next(self, tokens: Any) -> Any:
        """Logits (B · S, vocabulary) after one more token of every path (B · S,)."""
        if self.caches == "buffer" and self.position == next(iter(self.past.values())).shape[3]:
            self.grow(self.paths)
        return self.decode(tokens, self.paths)

    def decode(self, tokens: Any, paths: int) -> Any:
        """Logits after one more token of every path; keys and values are kept."""
        import torch

        self.ids = np.ascontiguousarray(tokens.numpy().reshape(self.series, paths))
        self.place = np.array(self.position, np.int64)
        past = {f"past_{name}": one for name, one in self.past.items()}
        made = self.graphs.run({"tokens": self.ids, "position": self.place, **past})
        for name in self.shapes:
            if self.caches == "buffer":
                torch.from_numpy(self.past[name])[:, :, :, self.position] = torch.from_numpy(
                    self.graphs.array(made[name])
                )[:, :, :, 0]
            else:
                self.past[name] = made[name]
        self.position += 1
        return torch.from_numpy(self.graphs.array(made["logits"])).flatten(0, 1)


def by_graphs(pipeline: Any, runtime: str, caches: str, steps: int, threads: int) -> Any:
    """The pipeline, with a decoder in a graph runtime in place of the exact engine's."""
    from flowrank.engine.paths import Inference
    from flowrank.families.chronos_t5.engine import T5Engine

    model = pipeline.inner_model
    encoder, step = graphs_of(T5Engine(model), steps, caches)
    graphs = {"onnxruntime": InOnnxRuntime, "openvino": InOpenVino}[runtime](encoder, step, threads)

    class GraphT5Engine(T5Engine):
        def decoder(self, tokens: Any, mask: Any, *, paths: int, steps: int, cross_cache: str = "auto") -> Any:
            assert mask.all(), "these graphs have no mask"
            return Decodes(graphs, self, np.ascontiguousarray(tokens.numpy()), paths, steps, caches)

    pipeline.inference = Inference(GraphT5Engine)
    return pipeline


def translator_of(model: Any, threads: int) -> Any:
    """The model in CTranslate2; a token's name is its number."""
    import ctranslate2
    from ctranslate2.converters.transformers import T5Loader

    loader = T5Loader()
    spec = loader.get_model_spec(model)
    loader.set_vocabulary(spec, [str(i) for i in range(model.config.vocab_size)])
    config = spec.config
    config.bos_token = config.unk_token = config.decoder_start_token = "0"
    config.eos_token = "1"
    spec.validate()
    spec.optimize(quantization=None)
    folder = tempfile.mkdtemp()
    try:
        spec.save(folder)
        return ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=threads)
    finally:
        shutil.rmtree(folder)


def call_of(shape: str, side: str, options: dict[str, Any]) -> Callable[[int], Call]:
    """For a batch size, what forecasts it."""
    import torch

    from flowrank.benchmarking.workload import series_of
    from shapes import t5

    torch.set_num_threads(options["threads"])
    pipeline = t5(shape)
    horizon, paths = options["horizon"], options["paths"]
    pipeline.engine = "stock" if side in ("stock", "compiled") else "exact"
    if side == "compiled":
        model = pipeline.inner_model
        model.encoder.forward = torch.compile(model.encoder.forward)
        model.forward = torch.compile(model.forward)
    if side in GRAPHS:
        by_graphs(pipeline, side, options["caches"], horizon, options["threads"])
    translator = translator_of(pipeline.inner_model, options["threads"]) if side == "ctranslate2" else None

    def translated(series: list[Any]) -> Any:
        tokens, _, scale = pipeline.tokenizer.context_input_transform(torch.stack(series))
        found = translator.translate_batch(
            [[str(one) for one in row] for row in tokens.tolist()],
            max_batch_size=0,
            beam_size=1,
            sampling_topk=50,
            num_hypotheses=paths,
            max_decoding_length=horizon,
            min_decoding_length=horizon,
        )
        drawn = torch.tensor([[[int(one) for one in path] for path in each.hypotheses] for each in found])
        return pipeline.tokenizer.output_transform(drawn, scale)

    def forecast(batch: int) -> Call:
        series = list(series_of(batch, options["context"], 0))
        if translator is not None:
            return lambda: translated(series)
        return lambda: pipeline.predict(series, prediction_length=horizon, num_samples=paths)

    return forecast


def worker(pipe: Connection, shape: str, side: str, options: dict[str, Any]) -> None:
    """Forecast on demand: batch sizes in, seconds of some forecasts out."""
    made: Any = None
    clock = CLOCKS[options["clock"]]
    while (asked := pipe.recv()) is not None:
        batch, repeats = asked
        try:
            made = made or call_of(shape, side, options)
            forecast = made(batch)
            taken = []
            for _ in range(repeats):
                start = clock()
                found = forecast()
                taken.append(clock() - start)
            assert not taken or tuple(found.shape) == (batch, options["paths"], options["horizon"]), found.shape
            pipe.send(taken)
        except Exception as error:  # a side that cannot be had is a row that says why
            pipe.send(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}")


def missing(side: str) -> str | None:
    """Why a side cannot be had here, if that is known before it is tried."""
    package = side if side in (*GRAPHS, "ctranslate2") else "torch"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if side == "compiled" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "torch.compile needs a C++ compiler, and there is none"
    return None


def timed(shape: str, batches: list[int], options: dict[str, Any], rows: Any) -> None:
    """A row for each side and batch size that has none yet."""
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    for batch in batches:
        wanted = [side for side in options["sides"] if f"{shape} {batch} {side}" not in rows]
        seconds: dict[str, list[float]] = {}
        why: dict[str, str] = {}
        for side in wanted:
            if (reason := missing(side)) is not None:
                why[side] = reason
                continue
            if side not in pipes:
                pipes[side], there = context.Pipe()
                context.Process(target=worker, args=(there, shape, side, options), daemon=True).start()
            warm = options["warm"] * (2 if side == "compiled" else 1)  # the first forecasts compile
            pipes[side].send((batch, warm))
            found = pipes[side].recv()
            time.sleep(PAUSE)
            if isinstance(found, str):
                why[side] = found
            else:
                seconds[side] = []
        each: dict[str, int] = {}
        for turn in range(ROUNDS):
            for side, taken in seconds.items():
                if turn >= LEAST and sum(taken) > options["seconds"]:
                    continue
                pipes[side].send((batch, each.get(side, 1)))
                found = pipes[side].recv()
                if isinstance(found, str):
                    why[side] = found
                    continue
                taken += found
                each[side] = max(1, min(MOST // ROUNDS, int(options["seconds"] / ROUNDS / min(taken))))
                row: dict[str, Any] = {"shape": shape, "batch": batch, "side": side, "repeats": len(taken)}
                row |= {"least": min(taken), "median": statistics.median(taken), "load": os.getloadavg()[0]}
                rows.put(f"{shape} {batch} {side}", row)
                time.sleep(PAUSE)
        for side, reason in why.items():
            seconds.pop(side, None)
            rows.put(f"{shape} {batch} {side}", {"shape": shape, "batch": batch, "side": side, "why": reason})
            print(f"{shape} {batch} {side}  {reason}", flush=True)
        for side, taken in seconds.items():
            if taken:
                print(f"{shape} {batch} {side}  {min(taken):.4g} s  {statistics.median(taken):.4g} s", flush=True)
    for pipe in pipes.values():
        pipe.send(None)


def table(rows: Any) -> str:
    """Least and median over stock, a line for each shape and batch size."""
    known = {(row["shape"], row["batch"], row["side"]): row for row in rows}
    lines = ["| shape | series | " + " | ".join(f"{side}" for side in SIDES) + " |", "|---" * (len(SIDES) + 2) + "|"]
    for shape, batch in dict.fromkeys((shape, batch) for shape, batch, _ in known):
        cells = []
        base = known.get((shape, batch, "stock"), {})
        for side in SIDES:
            row = known.get((shape, batch, side), {})
            if "least" not in row:
                cells.append("no" if "why" in row else "")
            elif side == "stock" or "least" not in base:
                cells.append(f"{row['least']:.3g} s ({row['median']:.3g})")
            else:
                cells.append(f"{row['least'] / base['least']:.2f} ({row['median'] / base['median']:.2f})")
        lines.append(f"| {shape} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check(shape: str, threads: int) -> None:
    """Compare logits of steps after given tokens with the exact engine's, and CTranslate2's probabilities."""
    import torch

    from flowrank.benchmarking.workload import series_of
    from flowrank.families.chronos_t5.engine import T5Engine
    from shapes import t5

    torch.set_num_threads(threads)
    pipeline = t5(shape)
    with torch.no_grad():  # random position biases: as made, they are almost 0
        for stack in (pipeline.inner_model.encoder, pipeline.inner_model.decoder):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_()
    engine = T5Engine(pipeline.inner_model)
    steps, paths, series = 40, 3, 2
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(torch.stack(list(series_of(series, 100, 0))))
    forced = torch.randint(2, 4096, (steps, series * paths), generator=torch.Generator().manual_seed(0))
    start = torch.zeros(series, dtype=torch.long)

    @torch.inference_mode()
    def logits_of(decoder: Any) -> list[Any]:
        return [decoder.first(start).clone(), *(decoder.next(row).clone() for row in forced)]

    right = logits_of(engine.decoder(tokens, mask.bool(), paths=paths, steps=steps + 1))
    spread = max(float(one.abs().max()) for one in right)
    for runtime in GRAPHS:
        for caches in CACHES:
            if missing(runtime) is not None:
                continue
            by_graphs(pipeline, runtime, caches, steps + 1, threads)
            made = pipeline.inference.engine_for(pipeline.inner_model)
            found = logits_of(made.decoder(tokens, mask.bool(), paths=paths, steps=steps + 1))
            gap = max(float((a - b).abs().max()) for a, b in zip(found, right, strict=True))
            print(f"{shape} {runtime} {caches}: logits differ by {gap:.2g} at most; the largest is {spread:.3g}")
            assert gap <= TOLERANCE * spread, gap
    if missing("ctranslate2") is not None:
        return
    translator = translator_of(pipeline.inner_model, threads)
    path = forced[:, 0].tolist()
    (scored,) = translator.score_batch([[str(one) for one in tokens[0].tolist()]], [[str(one) for one in path]])
    wanted = [float(one[0].log_softmax(-1)[token]) for one, token in zip(right, path, strict=False)]
    gap = max(abs(a - b) for a, b in zip(scored.log_probs, wanted, strict=False))
    print(f"{shape} ctranslate2: log-probabilities differ by {gap:.2g} at most")
    assert gap <= TOLERANCE * spread, gap


def parts(shape: str, batches: list[int], options: dict[str, Any], rows: Any) -> None:
    """Seconds of the encoder, of all steps and of all draws of one forecast, for the exact engine and the graphs."""
    import torch

    from flowrank.benchmarking.workload import series_of
    from flowrank.engine.sampling import uniforms
    from flowrank.families.chronos_t5.engine import T5Engine
    from shapes import t5

    torch.set_num_threads(options["threads"])
    clock = CLOCKS[options["clock"]]
    horizon, paths = options["horizon"], options["paths"]
    for side in [one for one in options["sides"] if one in ("exact", *GRAPHS) and missing(one) is None]:
        pipeline = t5(shape)
        if side != "exact":
            by_graphs(pipeline, side, options["caches"], horizon, options["threads"])
        engine: T5Engine = pipeline.inference.engine_for(pipeline.inner_model)
        for batch in batches:

            def compute(
                engine: T5Engine = engine, batch: int = batch, pipeline: Any = pipeline, side: str = side
            ) -> dict[str, Any]:
                tokens, mask, _ = pipeline.tokenizer.context_input_transform(
                    torch.stack(list(series_of(batch, options["context"], 0)))
                )
                noise = uniforms(list(range(batch)), horizon, paths)
                best: dict[str, float] = {}
                with torch.inference_mode():
                    begin = time.perf_counter()
                    while not best or time.perf_counter() - begin < options["seconds"]:
                        start = clock()
                        decoder = engine.decoder(tokens, mask.bool(), paths=paths, steps=horizon)
                        taken = {"encoder": clock() - start, "steps": 0.0, "draws": 0.0}
                        drawn = torch.zeros(batch, dtype=torch.long)
                        for step in range(horizon):
                            start = clock()
                            logits = decoder.next(drawn.reshape(-1)) if step else decoder.first(drawn)
                            decoded = clock()
                            rows_of_noise = noise[:, step].reshape(-1, 1) if step else noise[:, 0]
                            drawn = pipeline.sampling().draw(logits, rows_of_noise)
                            taken["steps"] += decoded - start
                            taken["draws"] += clock() - decoded
                        best = {name: min(one, best.get(name, one)) for name, one in taken.items()}
                return {"shape": shape, "batch": batch, "side": side, **best}

            rows.row(f"parts {shape} {batch} {side}", compute)


def main() -> None:
    from shared import Rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--caches", default="buffer", choices=CACHES)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--paths", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timed forecasts for each side and batch size")
    parser.add_argument("--warm", type=int, default=1, help="forecasts that do not count, before each side's first")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    options = vars(arguments)
    if arguments.check:
        for shape in arguments.shapes:
            check(shape, arguments.threads)
        return
    what = {name: options[name] for name in ("context", "horizon", "paths", "threads", "clock", "caches")}
    rows = Rows(arguments.output, {"machine": platform.processor() or platform.machine(), **what})
    for shape in arguments.shapes:
        (parts if arguments.parts else timed)(shape, arguments.batches, options, rows)
    if not arguments.parts:
        print(table(rows))


if __name__ == "__main__":
    main()
