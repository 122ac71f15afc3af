"""What models are pretrained on: a mixture of all families, easy ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.synthetic.families import structural
from flowrank.synthetic.kernels import kernel_synth
from flowrank.synthetic.loads import loads
from flowrank.synthetic.mixup import mixup
from flowrank.synthetic.regimes import regimes
from flowrank.synthetic.seasons import calendar, clean_season, exponential_smoothing

Family = Callable[[np.random.Generator, int, int], np.ndarray]
"""Draws ``(rows, length)`` float64 values, NaN = missing; short series are NaN before their start."""

FAMILIES: dict[str, Family] = {
    "structural": structural,
    "kernel_synth": kernel_synth,
    "exponential_smoothing": exponential_smoothing,
    "calendar": calendar,
    "loads": loads,
    "regimes": regimes,
    "clean_season": clean_season,
}
MIXUP = "tsmixup"
EASY = "clean_season"
SHARES = {
    "structural": 0.27,
    "kernel_synth": 0.1,
    "exponential_smoothing": 0.21,
    "calendar": 0.11,
    "loads": 0.06,
    "regimes": 0.09,
    "clean_season": 0.1,
    MIXUP: 0.06,
}
SHORTEST = 20
_BLOCK = 512  # series drawn together; recursions over time cost as much for one as for many


@dataclass(frozen=True)
class Mixture:
    """Shares of the families in a stream of series.

    Attributes
    ----------
    shares
        Share of each of `FAMILIES` and of ``"tsmixup"`` (convex combinations of the others); they are scaled to sum
        to 1.

    Raises
    ------
    FlowrankError
        If a share is negative or not a number, a family unknown, or nothing is left to draw.

    Examples
    --------
    >>> names, values = Mixture().block(np.random.default_rng(0), rows=8, length=128)
    >>> values.shape, set(names) <= {*FAMILIES, "tsmixup"}
    ((8, 128), True)
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        known = {*FAMILIES, MIXUP}
        usable = isinstance(self.shares, Mapping) and all(
            name in known and isinstance(share, int | float) and np.isfinite(share) and share >= 0
            for name, share in self.shares.items()
        )
        if not usable or not any(self.shares.get(name, 0) > 0 for name in FAMILIES):
            raise FlowrankError(
                "shares",
                expected=f"a non-negative number for some of {sorted(known)}, and one of the families among them",
                found=repr(self.shares),
            )

    @property
    def mixup_share(self) -> float:
        """Share of combinations."""
        return self.shares.get(MIXUP, 0.0) / sum(self.shares.values())

    @property
    def easy_share(self) -> float:
        """Share of clean seasons."""
        return self.shares.get(EASY, 0.0) / sum(self.shares.values())

    def easier(self, share: float) -> Mixture:
        """Return the same mixture in which clean seasons take ``share``, if they had less, at the others' cost."""
        total = sum(self.shares.values())
        rest = {name: value / total for name, value in self.shares.items() if name != EASY}
        now = self.shares.get(EASY, 0.0) / total
        if share <= now or not any(rest.values()):
            return self
        return Mixture({**{name: value * (1 - share) / (1 - now) for name, value in rest.items()}, EASY: share})

    def block(self, rng: np.random.Generator, *, rows: int, length: int) -> tuple[list[str], np.ndarray]:
        """Draw ``rows`` series of ``length`` values in random order: the family of each, and ``(rows, length)``.

        Some of the series of any family are rounded, and some have missing values.

        Raises
        ------
        FlowrankError
            If ``length`` is less than 20.
        """
        check_count(length, "length", SHORTEST)
        names = [name for name, share in self.shares.items() if share > 0]
        weights = np.array([self.shares[name] for name in names], dtype=float)
        drawn = rng.multinomial(rows, weights / weights.sum())
        counts = dict(zip(names, drawn.tolist(), strict=True))
        mixed = counts.pop(MIXUP, 0)
        parts = [(name, FAMILIES[name](rng, count, length)) for name, count in counts.items() if count]
        if mixed:
            sources = [values for _, values in parts] or [
                FAMILIES[next(name for name in names if name in FAMILIES)](rng, 8, length)
            ]
            parts.append((MIXUP, mixup(rng, np.concatenate(sources), mixed)))
        values = np.concatenate([part for _, part in parts])
        families = [name for name, part in parts for _ in part]
        order = rng.permutation(rows)
        values = values[order]
        _round_and_drop(rng, values)
        return [families[i] for i in order], values

    def series(self, count: int, *, length: int = 1024, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
        """Yield family and values of ``count`` series; series ``i`` depends on ``seed``, ``length`` and ``i`` only."""
        for block in range(-(-count // _BLOCK)):
            names, values = self.block(np.random.default_rng([seed, block]), rows=_BLOCK, length=length)
            yield from zip(names[: count - block * _BLOCK], values, strict=False)


def _round_and_drop(rng: np.random.Generator, values: np.ndarray) -> None:
    rows, length = values.shape
    kind = rng.random(rows)
    rounded = np.flatnonzero(kind < 0.08)
    spread = np.nanstd(values[rounded], axis=1, keepdims=True)
    grain = np.maximum(spread * 10 ** rng.uniform(-1.5, 0, (len(rounded), 1)), 1e-12)
    values[rounded] = np.round(values[rounded] / grain) * grain
    for row in np.flatnonzero(kind > 0.95):
        values[row, rng.random(length) < 10 ** rng.uniform(-2, -0.5)] = np.nan
