"""Seconds of a forecast on CUDA: the exact engine and stock code, eager, compiled and as CUDA graphs.

benchmarks/gpu/run.sh time --output FILE [--models flow-bolt flow-t5-mini …] [--batches 1 8 32 256]
    [--dtypes float32 bfloat16] [--ways …] [--minutes 9]

`predict` is a whole forecast: series from the processor's memory, quantiles or paths back there. `core` is what the
exact engine does between: encoder and decoder of series that are packed already, on the device; of a model that draws
paths, with the likeliest token in place of a drawn one. Packing and drawing look at what they computed, so a CUDA graph
can hold the core only. What a graph or torch.compile gains on the core is what it could gain on a forecast.

Each row is written as soon as it is measured; rows that are in the file are not measured again, and one that the time
limit cut off is marked and left out. Models: names that `flowrank.load` knows, and chronos-2-small, chronos-2-base,
bolt-base, t5-small (the published shapes, random weights).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowrank
from flowrank.benchmarking import peak_memory
from flowrank.engine.packing import Packed
from flowrank.pretraining.training import device_name
from flowrank.stopwatch import seconds_taken
from flowrank.versions import versions

WAYS = (
    *("predict, exact", "predict, stock", "predict, stock compiled"),
    *("core", "core, CUDA graph", "core, compiled"),
)
MODELS = ("flow-bolt", "flow-t5-mini", "chronos-2-small", "chronos-2-base")
_WARM, _SECONDS = 3, 3.0  # calls before any is timed; seconds after which there are no more repeats


@dataclass(frozen=True)
class Work:
    """What is timed: series, and how far and how often each is forecast."""

    batch: int
    context: int
    horizon: int
    samples: int

    def series(self) -> Tensor:
        """Random walks (batch, context), always the same ones."""
        return torch.randn(self.batch, self.context, generator=torch.Generator().manual_seed(0)).cumsum(1)


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is not in the file yet; gives an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 256])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=9.0, help="from the start of the script; then it stops")
    parser.add_argument("--device", default="cuda")
    settings = parser.parse_args(words)
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error device: expected a GPU that torch finds, found none; pass --device cpu to try", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    ends = float(os.environ.get("STARTED", time.time())) + 60 * settings.minutes
    file = _File(settings.output, device)
    ways = [way for way in settings.ways if "compiled" not in way], [way for way in settings.ways if "compiled" in way]
    for some, model, dtype in itertools.product(ways, settings.models, settings.dtypes):  # compilers take minutes: last
        pipeline = None
        for batch, way in itertools.product(settings.batches, some):
            key = {"model": model, "dtype": dtype, "batch": batch, "way": way, "context": settings.context}
            key |= {"horizon": settings.horizon, "samples": settings.samples}
            if file.has(key):
                continue
            if time.time() > ends:
                print("the time is over; the same command goes on")
                return 0
            file.begin(key)
            if pipeline is None or "compiled" in way:
                pipeline = opened(model, dtype, device)
            work = Work(batch, settings.context, settings.horizon, settings.samples)
            try:
                row = measured(pipeline, way, work, device, settings.repeats)
            except Exception as error:  # whatever a compiler or a capture refuses is a result
                row = {"error": f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:300]}"}
            if "compiled" in way or "error" in row:
                pipeline = None  # it is not what it was
                torch.compiler.reset()
            file.end({**key, **row})
    return 0


def opened(name: str, dtype: str, device: torch.device) -> Any:
    """A pipeline by its name, on the device."""
    kind, _, shape = name.rpartition("-")
    if kind == "chronos-2":
        from chronos2 import pipeline_of

        pipeline = pipeline_of(shape)
    elif kind in ("bolt", "t5"):
        import shapes

        pipeline = getattr(shapes, kind)(shape)
    else:
        pipeline = flowrank.load(name)
    pipeline.inner_model.to(device=device, dtype=getattr(torch, dtype))
    return pipeline


def measured(pipeline: Any, way: str, work: Work, device: torch.device, repeats: int) -> dict[str, Any]:
    """Seconds, and the most memory above the model's."""
    call, expected = _call(pipeline, way, work, device)
    first = seconds_taken(call, device)
    found: dict[str, Any] = {"first s": _short(first)}
    for _ in range(_WARM - 1):
        call()
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < _SECONDS):
        times.append(seconds_taken(call, device))
    found |= {"least s": _short(min(times)), "median s": _short(statistics.median(times)), "most s": _short(max(times))}
    found["repeats"] = len(times)
    if device.type == "cuda":
        found["peak MiB"] = round((peak_memory(call, device=device) or 0) / 2**20, 1)
    if expected is not None:
        made = call()
        found["gap to eager"] = _short(float((made - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
    return found


def _call(pipeline: Any, way: str, work: Work, device: torch.device) -> tuple[Callable[[], Any], Tensor | None]:
    """What is timed, and what its outputs should be where they are checked."""
    if way.startswith("predict"):
        pipeline.engine = "exact" if way.endswith("exact") else "stock"
        if way.endswith("compiled"):
            model = pipeline.inner_model
            model.compile()
            if _kind(pipeline) == "t5":  # generation calls the encoder by itself
                model.get_encoder().compile()
        inputs: Any = work.series()
        options: dict[str, Any] = {"prediction_length": work.horizon}
        if getattr(pipeline, "takes_seed", False):
            options["num_samples"] = work.samples
        if _kind(pipeline) == "chronos2":
            inputs = list(inputs)
        return lambda: pipeline.predict(inputs, **options), None
    pipeline.engine = "exact"
    core = core_of(pipeline, work, device)

    def eager() -> Tensor:
        with torch.inference_mode():
            return core()

    if way == "core":
        return eager, None
    expected = eager().float().clone()
    if way == "core, compiled":
        if _kind(pipeline) == "t5":
            raise ValueError("not tried: the compiler would unroll every step of the paths")
        compiled = torch.compile(core, dynamic=False)

        def call() -> Tensor:
            with torch.inference_mode():
                return compiled()

        return call, expected
    return _graph(core, device), expected


def _graph(core: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Replay what the core does, captured once."""
    if device.type != "cuda":
        raise ValueError("a CUDA graph needs a GPU")
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(_WARM):
            core()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        made = core()

    def call() -> Tensor:
        graph.replay()
        return made

    return call


def core_of(pipeline: Any, work: Work, device: torch.device) -> Callable[[], Tensor]:
    """The engine's encoder and decoder on series that are packed already."""
    with torch.inference_mode():
        return CORES[_kind(pipeline)](pipeline, work, device)


def _kind(pipeline: Any) -> str:
    """The family by the class of its engine."""
    names = {"FlowrankBoltPipeline": "bolt", "FlowrankT5Pipeline": "t5"}
    return next((kind for name, kind in names.items() if name == type(pipeline).__name__), "chronos2")


def _bolt(pipeline: Any, work: Work, device: torch.device) -> Callable[[], Tensor]:

    model = pipeline.inner_model
    engine = pipeline.inference.engine_for(model)
    scaled, _ = model.instance_norm(work.series().to(device))
    patches = model.patch(scaled).to(model.dtype)
    visible = patches.new_ones(len(patches), patches.shape[1] + bool(model.chronos_config.use_reg_token)).bool()
    packed = Packed.of(visible)
    tokens = engine._embedded(patches, packed)
    return lambda: engine.writes(engine._decode(engine.encoder(tokens.clone(), packed), packed))


def _t5(pipeline: Any, work: Work, device: torch.device) -> Callable[[], Tensor]:
    from flowrank.families.chronos_t5.engine import Decoder

    engine = pipeline.inference.engine_for(pipeline.inner_model)
    ids, mask, _ = pipeline.tokenizer.context_input_transform(work.series())
    ids, mask = ids.to(device), mask.to(device).bool()
    packed = Packed.of(mask)
    kept = ids[packed.rows, packed.positions]
    start = torch.full((work.batch,), engine.start_token, device=device)

    def core() -> Tensor:
        encoded = engine.encoder(engine.read(kept).clone(), packed)
        decoder = Decoder(engine, encoded, packed, work.samples, work.horizon, "auto")
        logits = decoder.first(start)
        token = logits.argmax(dim=1).repeat_interleave(work.samples)
        for _ in range(1, work.horizon):
            logits = decoder.next(token)
            token = logits.argmax(dim=1)
        return logits

    return core


def _chronos2(pipeline: Any, work: Work, device: torch.device) -> Callable[[], Tensor]:
    from flowrank.engine.feed_forward import normalised
    from flowrank.families.chronos2.engine import Inputs
    from flowrank.families.chronos2.layers import Places
    from flowrank.families.chronos2.rotary import frequencies

    model = pipeline.inner_model
    engine = pipeline.inference.engine_for(model)
    groups = torch.arange(work.batch, device=device)
    inputs = Inputs(work.series().to(device), groups, None)
    ahead = -(-work.horizon // model.chronos_config.output_patch_size)
    scaled, loc_scale = model.instance_norm(inputs.context)
    patches = model.patch(scaled.to(model.dtype))
    packed = Packed.of(groups.new_ones(work.batch, patches.shape[1] + 1 + ahead).bool(), apart=False)
    tokens = engine._embedded(patches, inputs, loc_scale, packed, ahead)
    places = Places.of(packed, groups, frequencies(model.config), tokens.dtype, ahead=ahead)

    def core() -> Tensor:
        x = tokens.clone()
        for time_layer, group, feed_forward in engine.layers[:-1]:
            time_layer.add(x, places)
            group.add(x, places.neighbours)
            feed_forward.add(x)
        time_layer, group, feed_forward = engine.layers[-1]
        x = time_layer.ahead(x, places)
        group.add(x, places.neighbours_ahead)
        feed_forward.add(x)
        return engine.writes(normalised(x, model.encoder.final_layer_norm))

    return core


CORES: dict[str, Callable[..., Callable[[], Tensor]]] = {"bolt": _bolt, "t5": _t5, "chronos2": _chronos2}


class _File:
    """Rows as JSON, whole after every one."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.rows = path, []
        about = {"device": device_name(device), "versions": versions(), "CUDA": torch.version.cuda}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            self.rows = before["rows"]
            if before["device"] != about["device"]:
                told = f"expected timings of {about['device']}, found those of {before['device']}"
                raise SystemExit(f"error output: {told}; choose another file")
        self.about = about

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a row is there; one that was begun and never ended counts as one."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def begin(self, key: dict[str, Any]) -> None:
        """Note that a row is being measured."""
        self._write([*self.rows, {**key, "error": "did not end within the time of a command"}])

    def end(self, row: dict[str, Any]) -> None:
        """Add a row."""
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        self._write(self.rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        lines = ",\n".join(json.dumps(row) for row in rows)
        temporary.write_text(f'{json.dumps(self.about)[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")
        os.replace(temporary, self.path)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    sys.exit(main())
