"""Rank in position, as tables: which planes of a head tell tokens apart, and how far they turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from flowrank.analysis.spectra import Place, places
from flowrank.analysis.streams import Streams
from flowrank.analysis.turning import TurningStreams
from flowrank.linalg import Spectrum
from flowrank.theory import lags_of, position_rank

SLOW = (0.1, 0.5)
"""Planes that turn by less than so many radians over the tokens in use are called slow; two readings."""

COLUMNS: dict[str, Any] = {
    "stack": str,
    "kind": str,
    "layer": int,
    "depth": int,
    "head": int,
    "plane": int,
    "tokens": int,
    "frequency": float,
    "angle": float,
    "energy": float,
    "variance": float,
}
"""What a row of `RankProfile.positions` holds, with types."""

_HEAD = ["stack", "kind", "layer", "depth", "head"]


def nothing() -> pd.DataFrame:
    """The table of a model whose queries and keys do not turn.

    Examples
    --------
    >>> nothing().empty, list(nothing())[:2]
    (True, ['stack', 'kind'])
    """
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def planes_in(streams: Streams) -> pd.DataFrame:
    """One row a plane of each head that turns; see `RankProfile.positions`."""
    rows: list[dict[str, Any]] = []
    for where in places(streams.blocks):
        found = streams.turning.get((where.index, where.place))
        if found is not None and found.series:
            rows += _of_layer(where, found)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS) if rows else nothing()


def _of_layer(where: Place, found: TurningStreams) -> Iterator[dict[str, Any]]:
    attention = found.attention
    every = tuple(range(found.planes))
    for index, (head, width) in enumerate(zip(attention.active, attention.query_widths, strict=True)):
        names = [*(attention.planes[index] if attention.planes else every)]
        frequencies = found.frequencies[index].tolist()
        if width > 2 * found.planes:
            names, frequencies = [*names, -1], [*frequencies, 0.0]
        shares = [part[index] / part[index].sum().clamp_min(1e-300) for part in (found.energy, found.variance)]
        key = where.key("", head)
        base = {"stack": key.stack, "kind": key.kind, "layer": key.layer, "depth": key.depth, "head": head}
        for number, (plane, theta) in enumerate(zip(names, frequencies, strict=True)):
            energy, variance = (float(share[number]) for share in shares)
            yield {
                **base,
                "plane": plane,
                "tokens": found.tokens,
                "frequency": theta,
                "angle": theta * (found.tokens - 1),
                "energy": energy,
                "variance": variance,
            }


def by_head(positions: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """As `RankProfile.turning`, from the frame of planes."""
    rows = []
    ranks: dict[tuple[Any, ...], int] = {}
    for key, planes in positions.groupby(_HEAD, sort=False):
        turning, tokens = planes[planes["plane"] >= 0], int(planes["tokens"].iloc[0])
        functions = (tokens, *planes["frequency"])
        if functions not in ranks:
            ranks[functions] = position_rank(torch.tensor(functions[1:]), lags_of(tokens), epsilon)
        row = {**dict(zip(_HEAD, key, strict=True)), "tokens": tokens, "planes": len(turning)}
        row["effective_planes"] = _effective(turning["variance"])
        row["position_rank"] = ranks[functions]
        for angle in SLOW:
            row[f"planes_below_{angle:g}"] = int((turning["angle"] < angle).sum())
            row[f"variance_below_{angle:g}"] = float(planes.loc[planes["angle"] < angle, "variance"].sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _effective(shares: pd.Series) -> float:
    """Exp of the entropy of shares: how many there would be if all were equal."""
    return Spectrum(torch.tensor(sorted(shares, reverse=True), dtype=torch.float64)).effective_rank
