"""Exported models against the exact engine and the stock class, on random inputs.

python benchmarks/equality.py MODEL [MODEL …] [--inputs 200] [--formats onnx openvino] [--output equality.json]

MODEL is a Chronos-Bolt, Chronos-2 or Chronos-T5, dense or compressed; it is exported in fp32 into a temporary folder
and opened without torch's help. Each input is a batch of 1 to 64 series of 1 to 4096 values: walks at scales from 1e-30
to 1e30, some with missing values, some constant, some without any value. Models that read groups get, in every second
input, groups of two to five series, with values known ahead of one of them. The horizon is the model's own. Of models
that draw paths, the logits of eight steps are compared, after tokens that are given.

Gaps are the largest difference of a quantile over the largest magnitude of its series' forecast. "from fp64" counts the
series that are further than 1e-5 from the exact engine in fp64: what rounding alone does. Two kinds of series
are counted apart. Those whose forecast overflows in fp32 must overflow in both; what is left is not comparable. Of
constants smaller than 1, chronos-forecasting gives one of two forecasts, as the fp32 mean of the values happens to be
the value itself or its neighbour: the spread is then taken as 1e-5, or is next to nothing. A graph adds in another
order, and may come to the other one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chronos import ChronosConfig

import flowrank
from flowrank.errors import FlowrankError
from flowrank.family import family_of

NEAR = 1e-5
STEPS = 7
SCALES = (-30, -12, -3, 0, 0, 0, 3, 12, 30)


def walks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Random walks of many lengths and scales, some with holes, constant or without a value."""
    made = []
    for number in range(count):
        values = rng.normal(size=int(2 ** rng.uniform(0, 12))).cumsum() + rng.normal() * 5
        if number % 4 == 1:
            values[rng.random(len(values)) < 0.4] = np.nan
        if number % 9 == 2:
            values[:] = 5.0
        if number % 13 == 3:
            values[:] = np.nan
        made.append((values * 10.0 ** rng.choice(SCALES)).astype(np.float32))
    return made


def grouped(rng: np.random.Generator, count: int, horizon: int) -> list[dict[str, Any]]:
    """Inputs of two to five series of one length, one of them known ahead."""
    made = []
    while count > 0:
        members = int(rng.integers(2, 6))
        length = int(2 ** rng.uniform(2, 10))
        scale = 10.0 ** rng.choice(SCALES)
        values = (rng.normal(size=(members, length + horizon)).cumsum(axis=1) * scale).astype(np.float32)
        values[0, :length][rng.random(length) < 0.1] = np.nan
        one: dict[str, Any] = {"target": values[:-1, :length] if members > 2 else values[0, :length]}
        one["past_covariates"] = {"known": values[-1, :length]}
        if rng.random() < 0.7:
            one["future_covariates"] = {"known": values[-1, length:]}
        made.append(one)
        count -= members
    return made


def inputs_of(pipeline: Any, number: int) -> Any:
    """The input of a number."""
    rng = np.random.default_rng(number)
    count = int(rng.integers(1, 65))
    if family_of(pipeline).reads_groups and number % 2:
        return grouped(rng, count, int(pipeline.model_prediction_length))
    return walks(rng, count)


def forecast(model: Any, inputs: list[Any]) -> np.ndarray:
    """Forecasts as (series, numbers), fp64; groups one by one, as chronos-forecasting takes no unlike ones together."""
    if model.forecast_type.name == "SAMPLES":
        return logits(model, inputs)
    if isinstance(inputs[0], dict):
        found = [one for group in inputs for one in model.predict([group])]
    else:
        found = list(model.predict([torch.from_numpy(one) for one in inputs]))
    parts = [np.asarray(one, dtype=np.float64) for one in found]
    return np.concatenate([one.reshape(-1, one.shape[-2] * one.shape[-1]) for one in parts])


def logits(model: Any, inputs: list[Any]) -> np.ndarray:
    """Logits as (series, numbers), fp64, after tokens that are drawn at random."""
    longest = max(map(len, inputs))
    batch = np.stack([np.pad(one, (longest - len(one), 0), constant_values=np.nan) for one in inputs])
    chronos = (
        model.manifest["config"]["chronos_config"]
        if hasattr(model, "manifest")
        else model.inner_model.config.chronos_config
    )
    tokenizer = ChronosConfig(**chronos).create_tokenizer()
    tokens, mask, _ = tokenizer.context_input_transform(torch.from_numpy(batch))
    forced = torch.randint(2, chronos["n_tokens"], (len(batch), STEPS), generator=torch.Generator().manual_seed(0))
    if hasattr(model, "manifest"):
        found = model._graph.logits(tokens.numpy(), mask.bool().numpy(), forced.numpy())
    elif model.engine == "exact":
        found = model.inference.engine_for(model.inner_model).logits(tokens, mask, forced).numpy()
    else:
        start = torch.full((len(batch), 1), model.inner_model.config.decoder_start_token_id)
        decoded = torch.cat([start, forced], dim=1)
        with torch.no_grad():
            found = model.inner_model(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoded).logits.numpy()
    return np.asarray(found, dtype=np.float64).reshape(len(batch), -1)


def gaps(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Gap of every series; NaN of those that overflow alike, infinite of those that do not."""
    finite = np.isfinite(theirs)
    apart = np.abs(np.where(finite, mine, 0) - np.where(finite, theirs, 0)).max(axis=1, initial=0)
    found = apart / np.abs(np.where(finite, theirs, 0)).max(axis=1, initial=1e-37)
    found[~finite.all(axis=1)] = np.nan
    found[(np.isfinite(mine) != finite).any(axis=1)] = np.inf
    return found


def small_constants(inputs: list[Any]) -> np.ndarray:
    """Which single series are a constant smaller than 1."""
    if isinstance(inputs[0], dict):
        return np.zeros(sum(len(np.atleast_2d(one["target"])) for one in inputs), dtype=bool)
    seen = [one[np.isfinite(one)] for one in inputs]
    return np.array([len(one) > 0 and np.ptp(one) == 0 and abs(one[0]) < 1 for one in seen])


def compared(name: str, formats: list[str], count: int) -> list[dict[str, Any]]:
    """Rows of one model: each exported form and the stock class against the exact engine."""
    pipeline, precise = flowrank.load(name, dtype="float32"), flowrank.load(name, dtype="float64")
    with tempfile.TemporaryDirectory() as folder:
        opened: dict[str, Any] = {}
        for form in formats:
            flowrank.export(pipeline, Path(folder) / form, format=form)
            opened[form] = flowrank.load(Path(folder) / form)
        found: dict[str, list[np.ndarray]] = {side: [] for side in (*opened, "stock")}
        far: dict[str, int] = dict.fromkeys((*opened, "stock", "exact"), 0)
        constants = []
        for number in range(count):
            inputs = inputs_of(pipeline, number)
            pipeline.engine = "exact"
            expected = forecast(pipeline, inputs)
            truth, apart = forecast(precise, inputs), small_constants(inputs)
            constants.append(apart)
            far["exact"] += int((gaps(expected, truth)[~apart] > NEAR).sum())
            pipeline.engine = "stock"
            for side, parts in found.items():
                mine = forecast(opened.get(side, pipeline), inputs)
                parts.append(gaps(mine, expected))
                far[side] += int((gaps(mine, truth)[~apart] > NEAR).sum())
        rows, apart = [], np.concatenate(constants)
        for side, parts in found.items():
            every = np.concatenate(parts)
            plain = every[~apart & ~np.isnan(every)]
            row = {"model": Path(name).name, "side": side, "inputs": count, "series": len(every)}
            row |= {"largest": float(plain.max()), "median": float(np.median(plain))}
            row |= {"beyond 1e-5": int((plain > NEAR).sum()), "from fp64": far[side], "exact from fp64": far["exact"]}
            row |= {"overflow alike": int(np.isnan(every).sum())}
            row |= {"small constants": int(apart.sum()), "of them beyond 1e-5": int((every[apart] > NEAR).sum())}
            rows.append(row)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino"], choices=["onnx", "openvino"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="prediction_length")
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        try:
            rows += compared(name, arguments.formats, arguments.inputs)
        except FlowrankError as error:
            print(f"{name}: {error}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
