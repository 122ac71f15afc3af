"""The results as figures, PNG and SVG, readable at a width of 400 pixels.

python examples/modality/figures.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import HELDOUT
from modalities import HARD_SERIES, MODALITIES
from ranks import EPSILONS, theorem_2_bound
from tables import power, rows

BLUE, SKY, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
GREY = "#5A5A5A"
COLOURS = dict(zip(MODALITIES, (BLUE, SKY, VERMILION, GREEN, ORANGE), strict=True))
STYLE = {
    "font.size": 16,
    "axes.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "svg.fonttype": "none",
    "savefig.dpi": 160,
}


def embedding(results: dict[str, pd.DataFrame]) -> Figure:
    """Rank of the token embedding of each modality, before and after training; one dot a seed."""
    ranks = rows(results["embedding_ranks"], data=HELDOUT, quantity="tokens")
    width = int(ranks["dim"].max())
    figure, panels = plt.subplots(2, 1, figsize=(5.4, 6.2), sharex=True)
    for axes, epsilon in zip(panels, EPSILONS, strict=True):
        for row, name in enumerate(reversed(MODALITIES)):
            chosen = rows(ranks, modality=name, epsilon=epsilon)
            before, after = (chosen.loc[chosen["state"] == state, "rank"] for state in ("initial", "trained"))
            axes.plot([before.median(), after.median()], [row, row], color=COLOURS[name], alpha=0.5)
            axes.plot(before, [row] * len(before), "o", color=COLOURS[name], mfc="white", ms=8, mew=2)
            axes.plot(after, [row] * len(after), "o", color=COLOURS[name], ms=8)
        axes.set_yticks(range(len(MODALITIES)), list(reversed(MODALITIES)))
        axes.set_title(f"ε = {epsilon}", loc="left")
        axes.set_xlim(0, width * 1.04)
        axes.set_ylim(-0.6, len(MODALITIES) - 0.4)
        axes.grid(axis="x", color="0.9")
    panels[1].set_xlabel(f"rank of the embedded tokens, of {width}\n○ before training   ● after")
    return figure


def spectra(results: dict[str, pd.DataFrame]) -> Figure:
    """Singular values of the trained token embeddings, with both ε."""
    curves = rows(results["spectra"], data=HELDOUT, quantity="tokens", state="trained")
    width = int(curves["j"].max())
    figure, axes = plt.subplots(figsize=(5.4, 4.6))
    ends = {}
    for name in MODALITIES:
        seeds = curves[curves["modality"] == name].pivot_table(index="j", columns="seed", values="sigma")
        axes.plot(seeds.index, seeds, color=COLOURS[name], lw=1.6)
        ends[name] = float(seeds.iloc[-1].median())
    _thresholds(axes, at=width)
    axes.set(yscale="log", ylim=(1e-4, 1.3), xlim=(1, width), xlabel="j", ylabel="σⱼ / σ₁, after training")
    _labels_at_right(axes, ends, COLOURS)
    return figure


def depth(results: dict[str, pd.DataFrame]) -> Figure:
    """Rank of the residual stream over depth, after training: medians over seeds."""
    streams = rows(results["stream_ranks"], data=HELDOUT, state="trained", head=-1)
    streams = streams[streams["quantity"].isin(["embedding", "residual"])]
    block = np.where(streams["quantity"] == "embedding", 0, streams["layer"] + 1)
    figure, panels = plt.subplots(2, 1, figsize=(5.4, 7.0), sharex=True)
    for axes, epsilon in zip(panels, EPSILONS, strict=True):
        ends = {}
        for name in MODALITIES:
            chosen = rows(streams.assign(block=block), modality=name, epsilon=epsilon)
            median = chosen.groupby("block")["rank"].median()
            axes.plot(median.index, median, "o-", color=COLOURS[name])
            ends[name] = float(median.iloc[-1])
        axes.set_ylim(0, int(streams["dim"].max()) * 1.03)
        axes.set_title(f"ε = {epsilon}", loc="left")
        axes.set_ylabel("rank")
        _labels_at_right(axes, ends, COLOURS)
    panels[1].set_xticks(sorted(set(block)), ["embedding", *map(str, range(1, len(set(block))))])
    panels[1].set_xlabel("after block")
    return figure


def hard_series(results: dict[str, pd.DataFrame]) -> Figure:
    """Where low rank ends: patches and their trained embedding on series that the model has not seen."""
    ranks = rows(results["embedding_ranks"], modality="series patches", state="trained")
    names = [HELDOUT, *HARD_SERIES]
    figure, axes = plt.subplots(figsize=(4.2, 6.4))
    for quantity, epsilon, colour, shift, title in (
        ("patches", 0.1, GREY, 0.27, "values, 0.1"),
        ("tokens", 0.1, BLUE, 0.0, "embedding, 0.1"),
        ("tokens", 0.01, VERMILION, -0.27, "embedding, 0.01"),
    ):
        for row, name in enumerate(reversed(names)):
            found = rows(ranks, data=name, quantity=quantity, epsilon=epsilon)["rank"]
            axes.barh(row + shift, found.median(), height=0.25, color=colour)
            note = f"{found.median():.0f}" + (f" {title}" if row == len(names) - 1 else "")
            axes.text(found.median() + 1, row + shift, note, va="center", color=colour, fontsize=14)
    axes.set_yticks(range(len(names)), [name.replace(" near", "\nnear") for name in reversed(names)])
    axes.set_xlabel("rank of patches of 16, by ε")
    axes.margins(x=0.1)
    return figure


def patch_sweep(results: dict[str, pd.DataFrame]) -> Figure:
    """Rank of the embedding against the patch size, with theorem 2's line and the slopes."""
    sweeps = rows(results["sweeps"], sweep="patch", quantity="tokens")
    width = int(sweeps["dim"].max())
    figure, axes = plt.subplots(figsize=(5.4, 5.2))
    k = np.geomspace(1, sweeps["value"].max(), 100)
    bound = np.array([theorem_2_bound(value, width, 0.1) for value in k])
    axes.plot(k, bound, color=GREY, ls="--")
    axes.text(k[-1], width * 1.06, "theorem 2, both ε", color=GREY, ha="right")
    axes.plot(k, np.minimum(k, width), color=GREY, ls=":", lw=1.6)
    axes.text(4.4, 3.1, "k", color=GREY)
    _growth(axes, sweeps, "k", top=0.86)
    _powers_of_two(axes, sweeps["value"])
    axes.set(yscale="log", ylim=(0.9, width * 1.4), xlabel="patch size k\n○ before training   ● after")
    axes.set_yticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    axes.minorticks_off()
    axes.set_ylabel(f"rank of the embedding, of {width}")
    return figure


def heads_sweep(results: dict[str, pd.DataFrame]) -> Figure:
    """Rank of W_Q, W_K, W_V, and of what training added to them, against the number of heads."""
    sweeps = rows(results["sweeps"], sweep="heads", state="trained")
    width = int(sweeps["dim"].max())
    added = "what training added"
    parts = (("", "weights", 0.1), (" update", added, 0.1), (" update", added, 0.01))
    figure, panels = plt.subplots(3, 1, figsize=(5.4, 9.5), sharex=True)
    for axes, (suffix, title, epsilon) in zip(panels, parts, strict=True):
        ends = {}
        colours = {"W_Q": BLUE, "W_K": GREEN, "W_V": VERMILION}
        for name, colour in colours.items():
            chosen = rows(sweeps, quantity=name + suffix, epsilon=epsilon)
            mean = chosen.groupby("value")["rank"].mean()
            axes.plot(mean.index, mean, "o-", color=colour)
            ends[name] = float(mean.iloc[-1])
            if name == "W_Q":
                apart = np.minimum(mean.index * mean.iloc[0], width)
                axes.plot(mean.index, apart, color=GREY, ls="--")
                axes.text(mean.index[1], width * 1.02, "h × rank at one head", color=GREY)
        axes.set_title(f"{title}, ε = {epsilon}", loc="left")
        axes.set_ylim(0, width * 1.12)
        axes.set_ylabel("rank")
        _labels_at_right(axes, ends, colours)
    _powers_of_two(panels[-1], sweeps["value"])
    panels[-1].set_xlabel("heads h")
    return figure


def width_sweep(results: dict[str, pd.DataFrame]) -> Figure:
    """Rank of the embedding against the width: theorem 2 says it should not matter."""
    sweeps = rows(results["sweeps"], sweep="width", quantity="tokens")
    patch = 16
    figure, axes = plt.subplots(figsize=(5.4, 4.8))
    d = np.array(sorted(sweeps["value"].unique()))
    axes.plot(d, [theorem_2_bound(patch, value, 0.1) for value in d], color=GREY, ls="--")
    axes.text(d[-1], d[-1] * 1.15, "theorem 2", color=GREY, ha="right")
    _growth(axes, sweeps, "d", top=0.97)
    _powers_of_two(axes, sweeps["value"])
    axes.set(yscale="log", ylim=(2, 450), xlabel="width d\n○ before training   ● after", ylabel="rank of the embedding")
    axes.set_yticks([2, 4, 8, 16, 32, 64, 128, 256], ["2", "4", "8", "16", "32", "64", "128", "256"])
    axes.minorticks_off()
    return figure


def _growth(axes: Axes, sweeps: pd.DataFrame, symbol: str, top: float) -> None:
    """Ranks before and after training at both ε, and the exponents of the latter from ``top`` of the axes down."""
    for line, (epsilon, colour) in enumerate(zip(reversed(EPSILONS), (VERMILION, BLUE), strict=True)):
        for state, style, inside in (("initial", "o--", "white"), ("trained", "o-", colour)):
            chosen = rows(sweeps, epsilon=epsilon, state=state)
            axes.plot(chosen["value"], chosen["rank"], style, color=colour, mfc=inside)
        note = f"ε = {epsilon}: ∝ {symbol}$^{{{power(chosen['value'], chosen['rank']):.2f}}}$"
        axes.text(0.03, top - 0.09 * line, note, color=colour, transform=axes.transAxes, va="top")


def _powers_of_two(axes: Axes, values: pd.Series) -> None:
    ticks = sorted(values.unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, list(map(str, ticks)))


def _thresholds(axes: Axes, at: float) -> None:
    for epsilon in EPSILONS:
        axes.axhline(epsilon, color=GREY, lw=1, ls=":")
        axes.text(at, epsilon * 1.08, f"ε = {epsilon}", color=GREY, ha="right", va="bottom", fontsize=14)


def _labels_at_right(axes: Axes, ends: dict[str, float], colours: dict[str, str]) -> None:
    """Name each curve where it ends, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"
    place: Callable[[float], float] = (
        (lambda y: float(np.log(max(y, low) / low) / np.log(high / low)))
        if logarithmic
        else (lambda y: (y - low) / (high - low))
    )
    gap = 0.28 / (axes.figure.get_figheight() * axes.get_position().height)
    heights: list[tuple[float, str]] = sorted((place(y), name) for name, y in ends.items())
    placed: list[float] = []
    for height, _ in heights:
        placed.append(max(height, placed[-1] + gap) if placed else max(height, 0.0))
    excess = max(0.0, placed[-1] - 1.0)
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], (placed[i + 1] - gap) if i + 1 < len(placed) else placed[i] - excess)
    for height, (_, name) in zip(placed, heights, strict=True):
        axes.text(1.03, height, name, color=colours[name], transform=axes.transAxes, va="center")


FIGURES: dict[str, tuple[Callable[[dict[str, pd.DataFrame]], Figure], tuple[str, ...]]] = {
    "embedding": (embedding, ("embedding_ranks",)),
    "spectra": (spectra, ("spectra",)),
    "depth": (depth, ("stream_ranks",)),
    "hard-series": (hard_series, ("embedding_ranks",)),
    "patch": (patch_sweep, ("sweeps",)),
    "heads": (heads_sweep, ("sweeps",)),
    "width": (width_sweep, ("sweeps",)),
}
"""Each figure and the results it needs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every figure whose results are there."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    matplotlib.use("Agg")
    for name, (draw, needed) in FIGURES.items():
        if all((folder / f"{part}.csv").exists() for part in needed):
            with plt.rc_context(STYLE):
                figure = draw({part: pd.read_csv(folder / f"{part}.csv") for part in needed})
                for suffix in ("png", "svg"):
                    figure.savefig(folder / f"{name}.{suffix}", bbox_inches="tight")
                plt.close(figure)


if __name__ == "__main__":
    main()
