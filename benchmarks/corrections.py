"""What the corrections of forecasts gain: missing last values, level, constants, outer quantiles, long horizons.

python benchmarks/corrections.py [--models flow-bolt flow-t5-mini] [--count 60] --output corrections.json

Generated series: a season of 7, 12 or 24 points, noise, a slow random walk; for long horizons random walks and seasons.
Each figure is with `Corrections.none()` and with all corrections; WQL at 0.1, …, 0.9 (times 100) unless said.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import flowrank
from flowrank.forecasting import DEFAULT_LEVELS, Corrections, Request, predict_requests

HORIZON = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["flow-bolt", "flow-bolt-mini", "flow-t5-mini"])
    parser.add_argument("--count", type=int, default=60, help="series of each set")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    for name in settings.models:
        pipeline = flowrank.load(name)
        for what, before, after in measured(pipeline, settings.count):
            found[what] = {**found.get(what, {"set": what}), name: f"{before:.3g} → {after:.3g}"}
            print(name, what, found[what][name], flush=True)
    if settings.output is not None:
        text = {"what": {"series": settings.count, "horizon": HORIZON}, "rows": list(found.values())}
        settings.output.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured(pipeline, count: int):
    """Yield the name of a set and the figure without and with corrections."""
    series = seasonal(count)
    for missing in (0, 1, 2, 5, 24, 64):
        late = [np.r_[one[: -HORIZON - missing], np.full(missing, np.nan)] for one in series]
        truth = np.stack([one[-HORIZON:] for one in series])
        yield (f"last {missing} values missing", *(100 * wql(pipeline, late, truth, each) for each in both()))
    for level in (0, 10, 100, 1000, 100_000):
        moved = [one + level for one in series]
        truth = np.stack([one[-HORIZON:] for one in moved])
        past = [one[:-HORIZON] for one in moved]
        yield (f"level of {level} standard deviations, MAE", *(mae(pipeline, past, truth, each) for each in both()))
    for value in (0.0, 1000.0):
        past = [np.full(length, value) for length in (3, 10, 100, 500)]
        truth = np.full((4, HORIZON), value)
        yield (f"constant {value:g}, widest 0.1 to 0.9", *(widest(pipeline, past, each) for each in both()))
    if pipeline.forecast_type.name == "QUANTILES":
        truth = np.stack([one[-HORIZON:] for one in series])
        past = [one[:-HORIZON] for one in series]
        for level in (0.01, 0.99):
            yield (
                f"values below the {level}-quantile",
                *(
                    float((truth <= quantiles(pipeline, past, HORIZON, [level], each)[..., 0]).mean())
                    for each in both()
                ),
            )
    reach = pipeline.model_prediction_length
    walks = [np.random.default_rng(i).normal(size=300 + 3 * reach).cumsum() for i in range(count)]
    truth, past = np.stack([one[300:] for one in walks]), [one[:300] for one in walks]
    for each in ("first", "second", "third"):
        block = ("first", "second", "third").index(each)
        cut = slice(block * reach, (block + 1) * reach)
        bands = [quantiles(pipeline, past, 3 * reach, [0.1, 0.9], one)[:, cut] for one in both()]
        inside = [float(((truth[:, cut] >= b[..., 0]) & (truth[:, cut] <= b[..., 1])).mean()) for b in bands]
        yield (f"random walk, {each} block: values between 0.1 and 0.9", *inside)
    yield ("random walk, three blocks: WQL", *(100 * wql(pipeline, past, truth, each) for each in both()))
    long = seasonal(count, 3 * reach)
    truth, past = np.stack([one[-3 * reach :] for one in long]), [one[: -3 * reach] for one in long]
    yield ("seasons, three blocks: WQL", *(100 * wql(pipeline, past, truth, each) for each in both()))


def both() -> tuple[Corrections, Corrections]:
    return Corrections.none(), Corrections()


def seasonal(count: int, horizon: int = HORIZON) -> list[np.ndarray]:
    """Series of a mean near 0 and a standard deviation of 1, (364 + horizon,) each."""
    rng, length = np.random.default_rng(0), 364 + horizon
    found = []
    for _ in range(count):
        wave = np.sin(2 * np.pi * np.arange(length) / rng.choice([7, 12, 24]) + rng.uniform(0, 6))
        noise = rng.normal(size=(2, length)) * rng.uniform([0.1, 0.0], [0.6, 0.1])[:, None]
        one = wave * rng.uniform(0.5, 2) + noise[0] + noise[1].cumsum()
        found.append((one - one.mean()) / one.std())
    return found


def quantiles(pipeline, past, horizon: int, levels, corrections: Corrections) -> np.ndarray:
    requests = [Request(str(place), one, place) for place, one in enumerate(past)]
    found = predict_requests(
        pipeline, requests, horizon=horizon, quantile_levels=levels, corrections=corrections, batch_size=64
    )
    return np.stack([forecast for _, forecast, _ in found])


def wql(pipeline, past, truth: np.ndarray, corrections: Corrections) -> float:
    levels = np.array(DEFAULT_LEVELS)
    miss = truth[..., None] - quantiles(pipeline, past, truth.shape[1], DEFAULT_LEVELS, corrections)
    return float(2 * np.maximum(levels * miss, (levels - 1) * miss).sum() / np.abs(truth).sum() / len(levels))


def mae(pipeline, past, truth: np.ndarray, corrections: Corrections) -> float:
    return float(np.abs(truth - quantiles(pipeline, past, truth.shape[1], [0.5], corrections)[..., 0]).mean())


def widest(pipeline, past, corrections: Corrections) -> float:
    band = quantiles(pipeline, past, HORIZON, [0.1, 0.9], corrections)
    return float((band[..., 1] - band[..., 0]).max())


if __name__ == "__main__":
    main()
