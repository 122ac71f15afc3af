"""Ranks of everything that matters in one model, as tidy frames."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank.analysis.flow import flow_of, tolerance
from flowrank.analysis.positions import by_head, nothing
from flowrank.errors import FlowrankError
from flowrank.files import atomic_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROFILE_FILES = ("rank_profile.parquet", "spectra.parquet", "bounds.parquet", "positions.parquet", "analysis.json")
"""What a saved profile consists of."""


@dataclass(frozen=True)
class RankProfile:
    """Ranks of everything that matters in one model.

    Attributes
    ----------
    ranks
        One row a matrix and ε: stack, kind ("embedding", "residual", "self", "cross", "group", "mlp"), layer, depth,
        quantity, head (−1: all), dim, epsilon, rank, effective_rank, stable_rank, and for weights edge (where noise
        ends, over σ_1, by Marchenko and Pastur) and signal (how many singular values are above). Quantities:

        * "embedding", "residual": the stream before the first block, and after each;
        * of a sublayer: "input" (what it reads, after its norm), "update" (what it adds), "stream" (after it),
          "summed" (before its norm, where the norm comes last);
        * of attention, with rows for each head: "queries", "keys", "values", "head_outputs", "W_Q", "W_K", "W_V",
          "W_O", and "attention" (the attention matrices; the mean of their normalised spectra over some series; of kind
          "group", over the groups of two and more series, each the mean over its places).
    spectra
        The same keys with j (from 1) and sigma = σ_j / σ_1.
    bounds
        Of every attention layer without biases, the stream after it: stack, kind, layer, depth, k, sigma = σ_k / σ_1
        and bound, theorem 4's with the layer's own constants.
    about
        Model, series, versions, device and settings, ready for JSON.
    positions
        Of attention whose queries and keys turn with their places, one row a plane of each head; empty for others.
        stack, kind, layer, depth, head, plane (its number in a whole head; −1: all features that do not turn, where a
        compressed head has some), tokens (the longest run that was seen), frequency (θ, radians a token), angle (θ ·
        (tokens − 1), radians: how far the plane turns over those tokens), energy and variance (shares of the head, in
        [0, 1]). A score is a sum of one term a plane, Re(conj(q) e^{iθΔ} k): energy is the share of |q|² |k|² over
        pairs of tokens; variance is that of the terms' variances over the keys of a query, since what is the same for
        all keys changes no attention weight.
    """

    ranks: pd.DataFrame
    spectra: pd.DataFrame
    bounds: pd.DataFrame
    about: dict[str, Any]
    positions: pd.DataFrame = field(default_factory=nothing)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `PROFILE_FILES` into a folder; other files stay.

        Raises
        ------
        FlowrankError
            If one of them is there already and ``overwrite`` is false.
        """
        with atomic_files(folder, PROFILE_FILES, overwrite=overwrite) as temporary:
            self.write_into(temporary)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write the files into an existing folder."""
        for name, frame in zip(PROFILE_FILES, (self.ranks, self.spectra, self.bounds, self.positions), strict=False):
            frame.to_parquet(folder / name, index=False)
        (folder / PROFILE_FILES[-1]).write_text(json.dumps(self.about, indent=2) + "\n", encoding="utf-8")

    def to_parquet(self, path: str | Path) -> None:
        """Write ``ranks`` alone to one Parquet file."""
        self.ranks.to_parquet(path, index=False)

    @classmethod
    def read(cls, folder: str | Path) -> RankProfile:
        """Open what `save` wrote.

        Raises
        ------
        FlowrankError
            If a file is missing.
        """
        folder = Path(folder)
        missing = [name for name in PROFILE_FILES if not (folder / name).is_file()]
        if missing:
            raise FlowrankError(
                "folder", expected=f"a saved profile with {', '.join(missing)}", found=str(folder), todo="analyze again"
            )
        ranks, spectra, bounds, positions = (pd.read_parquet(folder / name) for name in PROFILE_FILES[:-1])
        about = json.loads((folder / PROFILE_FILES[-1]).read_text(encoding="utf-8"))
        return cls(ranks, spectra, bounds, about, positions)

    def flow(self, epsilon: float | None = None, measure: str = "rank") -> pd.DataFrame:
        """The flow-of-ranks, split into what each part of a sublayer does to the rank of the stream.

        Parameters
        ----------
        epsilon
            One of those measured; None: the smallest.
        measure
            "rank", "effective_rank" or "stable_rank".

        Returns
        -------
        DataFrame
            A row a sublayer, in the order of computation: stack, layer, kind, then ranks along the way: before,
            input (after the norm), values and head_outputs (attention only), update, after; and what each step
            changes: normalisation (input − before), mixing (head_outputs − values, which attention matrices do to
            values), residual (after − the larger of before and update, which the sum adds), total (after − before).

        Raises
        ------
        FlowrankError
            If ``epsilon`` was not measured, or ``measure`` is none of the three.
        """
        return flow_of(self.ranks, epsilon, measure)

    def turning(self, epsilon: float | None = None) -> pd.DataFrame:
        """Rank in position: how much of its planes each head uses, from `positions`.

        Parameters
        ----------
        epsilon
            One of those measured; None: the smallest.

        Returns
        -------
        DataFrame
            A row a head: stack, kind, layer, depth, head, tokens, planes (how many turn), effective_planes (exp of the
            entropy of their shares of the variance), position_rank (of the functions cos θΔ and sin θΔ of its planes
            over all distances of those tokens, at ε: `flowrank.theory.position_rank`); and for 0.1 and 0.5 radians,
            planes_below_… (how many planes turn by less over those tokens) and variance_below_… (the share of the
            variance in them and in what does not turn). Empty where nothing turns.

        Raises
        ------
        FlowrankError
            If ``epsilon`` was not measured.
        """
        return by_head(self.positions, tolerance(self.ranks, epsilon))

    def plot_flow(self, ax: Axes | None = None, *, epsilon: float | None = None, measure: str = "rank") -> Axes:
        """Rank of the stream from sublayer to sublayer, coloured by what moved it; see `flow`."""
        from flowrank.analysis import plots

        return plots.flow(self, ax, epsilon, measure)

    def plot_spectra(self, ax: Axes | None = None, *, quantity: str = "residual", stack: str = "encoder") -> Axes:
        """σ_j / σ_1 of one quantity, one curve a layer."""
        from flowrank.analysis import plots

        return plots.spectra(self, ax, quantity, stack)

    def plot_ranks(
        self,
        ax: Axes | None = None,
        *,
        quantities: tuple[str, ...] = ("input", "queries", "keys", "values", "head_outputs"),
        stack: str = "encoder",
        kind: str = "self",
        epsilon: float | None = None,
    ) -> Axes:
        """Rank of several quantities of attention over depth, all heads together."""
        from flowrank.analysis import plots

        return plots.ranks(self, ax, quantities, stack, kind, epsilon)

    def plot_bound(self, ax: Axes | None = None, *, stack: str = "encoder", kind: str = "self", layer: int = 0) -> Axes:
        """Theorem 4 over what was measured, for one attention layer."""
        from flowrank.analysis import plots

        return plots.bound(self, ax, stack, kind, layer)

    def plot_positions(self, ax: Axes | None = None) -> Axes:
        """Share of the scores' variance in planes that turn by less than an angle, one curve a layer.

        Raises
        ------
        FlowrankError
            If nothing in the model turns with its place.
        """
        from flowrank.analysis import plots

        return plots.positions(self, ax)

    def plot_weights(self, ax: Axes | None = None, *, stack: str = "encoder", kind: str = "self") -> Axes:
        """How much of each weight stands out of noise, over depth."""
        from flowrank.analysis import plots

        return plots.weights(self, ax, stack, kind)
