"""Ranks of everything that matters in one model, as tidy frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flowrank.analysis.flow import flow_of
from flowrank.errors import FlowrankError
from flowrank.files import atomic_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROFILE_FILES = ("rank_profile.parquet", "spectra.parquet", "bounds.parquet", "analysis.json")
"""What a saved profile consists of."""


@dataclass(frozen=True)
class RankProfile:
    """Ranks of everything that matters in one model.

    Attributes
    ----------
    ranks
        One row a matrix and ε: stack, kind ("embedding", "residual", "self", "cross", "mlp"), layer, depth, quantity,
        head (−1: all), dim, epsilon, rank, effective_rank, stable_rank, and for weights edge (where noise ends, over
        σ_1, by Marchenko and Pastur) and signal (how many singular values are above). Quantities:

        * "embedding", "residual": the stream before the first block, and after each;
        * of a sublayer: "input" (what it reads, after its norm), "update" (what it adds), "stream" (after it),
          "summed" (before its norm, where the norm comes last);
        * of attention, with rows for each head: "queries", "keys", "values", "head_outputs", "W_Q", "W_K", "W_V",
          "W_O", and "attention" (the attention matrices; the mean of their normalised spectra over some series).
    spectra
        The same keys with j (from 1) and sigma = σ_j / σ_1.
    bounds
        Of every attention layer without biases, the stream after it: stack, kind, layer, depth, k, sigma = σ_k / σ_1
        and bound, theorem 4's with the layer's own constants.
    about
        Model, series, versions, device and settings, ready for JSON.
    """

    ranks: pd.DataFrame
    spectra: pd.DataFrame
    bounds: pd.DataFrame
    about: dict[str, Any]

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
        for name, frame in zip(PROFILE_FILES, (self.ranks, self.spectra, self.bounds), strict=False):
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
        ranks, spectra, bounds = (pd.read_parquet(folder / name) for name in PROFILE_FILES[:-1])
        return cls(ranks, spectra, bounds, json.loads((folder / PROFILE_FILES[-1]).read_text(encoding="utf-8")))

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

    def plot_weights(self, ax: Axes | None = None, *, stack: str = "encoder", kind: str = "self") -> Axes:
        """How much of each weight stands out of noise, over depth."""
        from flowrank.analysis import plots

        return plots.weights(self, ax, stack, kind)
