"""What it costs when the slow planes of rotary attention no longer turn: error of scores and of forecasts.

python benchmarks/slow_planes.py MODEL [--spans 37 101 577] [--output slow_planes.json] [--figure slow_planes.png]

MODEL is a dense Chronos-2 folder. For each span of tokens, and for each number f of planes that still turn (the fastest
ones), the other planes stop turning in every layer; nothing else changes. Reported:

* error of scores: root mean square of what the scores change by, over theirs, with the queries and keys of the model as
  it is; over random pairs of tokens of all layers, heads and series;
* bound: the same of Σ |q_p| |k_p| min(2, θ_p |Δ|) over the planes that stopped (`flowrank.theory.slow_planes`), which
  holds for every pair;
* error of forecasts: root mean square of the change of all quantiles, over theirs, in units of each series' context.

A span beyond what the model reads is cut to it; `--stretch` reads on instead, further than the model was trained for.
The series are synthetic, whole and of one length, each read alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowrank
from flowrank.family import anatomy_of
from flowrank.files import atomic_file, refuse_existing
from flowrank.synthetic import synthetic_series
from flowrank.theory import slow_planes

AHEAD = 4
"""Patches of the future, as in 512 → 64 with patches of 16."""

SHORTEST = 64
"""Points of the shortest synthetic series."""

STEPS = 16
"""Numbers of planes that still turn: so many steps from none to all."""


def time_attention(model: Any) -> list[Any]:
    """Layers that attend over time, whole ones alone: a narrowed one has turning features of its own."""
    layers = [one.module for one in anatomy_of(model).attention if one.turns]
    if not layers or not all(hasattr(layer, "rope_embed") for layer in layers):
        raise SystemExit("MODEL: expected a dense model with rotary positions, found another")
    return layers


@contextmanager
def turning(layers: list[Any], count: int) -> Iterator[None]:
    """Within the block only the ``count`` fastest planes turn."""
    before = [layer.rope_embed.inv_freq.clone() for layer in layers]
    for layer in layers:
        layer.rope_embed.inv_freq[count:] = 0
    try:
        yield
    finally:
        for layer, frequencies in zip(layers, before, strict=True):
            layer.rope_embed.inv_freq.copy_(frequencies)


def contexts(model: Any, tokens: int, series: int) -> Tensor:
    """Synthetic series (series, points) that make so many tokens with [REG] and the future."""
    points = (tokens - 1 - AHEAD) * model.chronos_config.input_patch_size
    if points < SHORTEST:
        raise SystemExit(f"--spans: expected {SHORTEST} points of context or more, found {points} for {tokens} tokens")
    drawn = (torch.as_tensor(one.target, dtype=torch.float32) for one in synthetic_series(8 * series, length=points))
    whole = [one / one.abs().max() for one in drawn if len(one) == points and one.isfinite().all() and one.std() > 0]
    return torch.stack(whole[:series])


@torch.no_grad()
def forecast(model: Any, context: Tensor) -> Tensor:
    """All quantiles in units of each series' context."""
    encoded, *_ = model.encode(context=context, num_output_patches=AHEAD)
    return model.output_patch_embedding(encoded[0][:, -AHEAD:])


def pairs(model: Any, layers: list[Any], context: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries and keys (pairs, planes), complex, and distances (pairs,), of random pairs of each head of each layer."""
    seen: list[Tensor] = []
    handles = [
        projection.register_forward_hook(lambda _m, _i, output: seen.append(output))
        for layer in layers
        for projection in (layer.q, layer.k)
    ]
    forecast(model, context)
    for handle in handles:
        handle.remove()
    generator = torch.Generator().manual_seed(0)
    for layer, query, key in zip(layers, seen[::2], seen[1::2], strict=True):
        heads = [one.unflatten(2, (layer.n_heads, -1)) for one in (query, key)]
        for head in range(layer.n_heads):
            series = torch.randint(len(context), (count,), generator=generator)
            i, j = torch.randint(query.shape[1], (2, count), generator=generator)
            q, k = (
                torch.complex(*one[series, at, head].double().chunk(2, dim=1))
                for one, at in zip(heads, (i, j), strict=True)
            )
            yield q, k, (j - i).double()


def measure(model: Any, tokens: int, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """One row a number of planes that still turn."""
    layers = time_attention(model)
    frequencies = layers[0].rope_embed.inv_freq.double().clone()
    planes = len(frequencies)
    context = contexts(model, tokens, arguments.series)
    sampled = list(pairs(model, layers, context, arguments.pairs))
    energy = sum(float(score(q, k, lags, frequencies).square().sum()) for q, k, lags in sampled)
    usual = forecast(model, context)
    rows = []
    for count in sorted({round(planes * step / STEPS) for step in range(STEPS + 1)}):
        row = {"tokens": tokens, "planes": planes, "turning": count}
        changed = bounded = 0.0
        for q, k, lags in sampled if count < planes else []:
            sides = slow_planes(q[:, count:], k[:, count:], frequencies[count:], lags)
            if not sides.holds:
                raise SystemExit(f"the bound does not hold: {tokens} tokens, {count} planes turning")
            changed, bounded = changed + float(sides.actual.square().sum()), bounded + float(sides.bound.square().sum())
        with turning(layers, count):
            error = float((forecast(model, context) - usual).norm() / usual.norm())
        slowest = float(frequencies[count]) * (tokens - 1) if count < planes else 0.0
        row |= {
            "largest_angle": slowest,
            "score_error": (changed / energy) ** 0.5,
            "score_bound": (bounded / energy) ** 0.5,
        }
        rows.append({**row, "forecast_error": error})
        print(
            f"{tokens:>7}{count:>9}{slowest:>12.4f}{row['score_error']:>13.2e}{row['score_bound']:>13.2e}{error:>13.2e}",
            flush=True,
        )
    return rows


def score(query: Tensor, key: Tensor, lags: Tensor, frequencies: Tensor) -> Tensor:
    """Scores of pairs, all planes turning."""
    angles = lags[:, None] * frequencies
    return (query.conj() * torch.polar(torch.ones_like(angles), angles) * key).real.sum(dim=1)


def draw(rows: list[dict[str, float]], path: Path, kind: str) -> None:
    """Both errors over the number of planes that still turn, a curve a span."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from flowrank import figures

    drawing = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for hue, tokens in zip(figures.SERIES, sorted({row["tokens"] for row in rows}), strict=False):
        mine = [row for row in rows if row["tokens"] == tokens and row["turning"] < row["planes"]]
        x = [row["turning"] for row in mine]
        for ax, name, dash, label in (
            (left, "score_error", "-", f"{tokens} tokens"),
            (left, "score_bound", "--", f"{tokens} tokens, bound"),
            (right, "forecast_error", "-", f"{tokens} tokens"),
        ):
            ax.plot(x, [max(row[name], 1e-12) for row in mine], dash, color=hue, label=label, linewidth=1.8)
    for ax, what in ((left, "relative error of scores"), (right, "relative error of forecasts")):
        ax.set(yscale="log", xlabel=f"planes that still turn, of {rows[0]['planes']}", ylabel=what)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figures.legible(ax)
    drawing.savefig(path, dpi=150, format=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--spans", type=int, nargs="+", default=[37, 101, 577], help="tokens")
    parser.add_argument("--series", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=2048, help="pairs of tokens of each head")
    parser.add_argument("--stretch", action="store_true", help="read spans beyond what the model was trained for")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    for path in filter(None, (arguments.output, arguments.figure)):
        refuse_existing(path, overwrite=arguments.overwrite)
    model: Any = flowrank.load(arguments.model).inner_model.float().eval()
    chronos = model.chronos_config
    longest = chronos.context_length // chronos.input_patch_size + 1 + AHEAD
    spans = sorted(set(arguments.spans if arguments.stretch else [min(one, longest) for one in arguments.spans]))
    if arguments.stretch:
        chronos.context_length = max(chronos.context_length, max(spans) * chronos.input_patch_size)
    print(f"{'tokens':>7}{'turning':>9}{'next angle':>12}{'scores':>13}{'bound':>13}{'forecasts':>13}")
    rows = [row for tokens in spans for row in measure(model, tokens, arguments)]
    if arguments.output:
        chosen = {name: getattr(arguments, name) for name in ("series", "pairs", "stretch")}
        found = {"model": arguments.model, **chosen, "torch": torch.__version__, "rows": rows}
        with atomic_file(arguments.output, overwrite=arguments.overwrite) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        with atomic_file(arguments.figure, overwrite=arguments.overwrite) as temporary:
            draw(rows, temporary, arguments.figure.suffix[1:] or "png")


if __name__ == "__main__":
    main()
