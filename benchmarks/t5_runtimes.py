"""Chronos-T5 in several runtimes: stock, torch.compile, exact engine, ONNX Runtime, OpenVINO, CTranslate2.

python benchmarks/t5_runtimes.py [--shapes tiny small] [--batches 1 8 32] [--context 512] [--horizon 64] [--paths 20]
    [--threads 2] [--sides stock compiled exact onnxruntime openvino ctranslate2] [--seconds 60]
    [--output t5_runtimes.json]
python benchmarks/t5_runtimes.py --check      CTranslate2 against the exact engine

Models have the published shapes and random weights, so nothing is downloaded. Each side has a process of its own; they
take turns, with a pause in which the threads of the last one go to sleep. A side repeats until --seconds are spent, 31
times at the most, once at the least. Sides that have rows in the output file are not timed again, so time all sides of
a batch size in one go.

`--clock processor --threads 1` counts the seconds that a process was at work: for a machine that does other work, too.

CTranslate2 draws by itself, from the 50 likeliest tokens; it is not a dependency of
flowrank: `pip install ctranslate2`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PAUSE = 0.3  # seconds; OpenMP's threads spin for a while after their last work
ROUNDS = 3
MOST, LEAST = 31, 1
SIDES = ("stock", "compiled", "exact", "onnxruntime", "openvino", "ctranslate2")
GRAPHS = ("onnxruntime", "openvino")
TOLERANCE = 1e-4
STEPS = 40  # of the check
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Call = Callable[[], Any]


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
    pipeline.engine = {"compiled": "stock", "ctranslate2": "exact"}.get(side, side)
    if side == "compiled":
        model = pipeline.inner_model
        model.encoder.forward = torch.compile(model.encoder.forward)
        model.forward = torch.compile(model.forward)
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
    """Compare CTranslate2's probabilities of given tokens with the exact engine's."""
    import torch

    from flowrank.benchmarking.workload import series_of
    from flowrank.families.chronos_t5.engine import T5Engine
    from shapes import t5

    torch.set_num_threads(threads)
    pipeline = t5(shape)
    with torch.no_grad():  # random position biases: as made, they are almost 0
        for stack in (pipeline.inner_model.encoder, pipeline.inner_model.decoder):
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_()
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(torch.stack(list(series_of(1, 100, 0))))
    forced = torch.randint(2, 4096, (1, STEPS), generator=torch.Generator().manual_seed(0))
    logits = T5Engine(pipeline.inner_model).logits(tokens, mask, forced)[0]
    path = forced[0].tolist()
    translator = translator_of(pipeline.inner_model, threads)
    (scored,) = translator.score_batch([[str(one) for one in tokens[0].tolist()]], [[str(one) for one in path]])
    wanted = [float(row[token]) for row, token in zip(logits.log_softmax(-1), path, strict=False)]
    gap = max(abs(a - b) for a, b in zip(scored.log_probs, wanted, strict=False))
    print(f"{shape} ctranslate2: log-probabilities differ by {gap:.2g} at most")
    assert gap <= TOLERANCE * float(logits.abs().max()), gap


def main() -> None:
    from shared import Rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--paths", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timed forecasts for each side and batch size")
    parser.add_argument("--warm", type=int, default=1, help="forecasts that do not count, before each side's first")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    options = vars(arguments)
    if arguments.check:
        for shape in arguments.shapes:
            check(shape, arguments.threads)
        return
    what = {name: options[name] for name in ("context", "horizon", "paths", "threads", "clock")}
    rows = Rows(arguments.output, {"machine": platform.processor() or platform.machine(), **what})
    for shape in arguments.shapes:
        timed(shape, arguments.batches, options, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
