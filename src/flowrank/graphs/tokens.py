"""Values as tokens and back, for graphs of models that read and draw tokens: bins of the mean magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flowrank.errors import FlowrankError, check_count

_FURTHEST = np.float32(1e20)


@dataclass(frozen=True)
class Draws:
    """How tokens are drawn: temperature, then the k likeliest tokens, then the nucleus of mass top_p.

    Attributes
    ----------
    temperature
        Divides the logits, > 0.
    top_k
        Number of tokens; 0 or None: all.
    top_p
        Smallest set of likeliest tokens whose probability exceeds this, one token at least; ≥ 1 or None: all.

    Raises
    ------
    FlowrankError
        If a number makes no sense.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise FlowrankError("temperature", expected="a number > 0", found=repr(self.temperature))
        if self.top_k is not None:
            check_count(self.top_k, "top_k", least=0)
        if self.top_p is not None and not self.top_p >= 0:
            raise FlowrankError("top_p", expected="a number ≥ 0 (1: all tokens)", found=repr(self.top_p))


@dataclass(frozen=True)
class Tokens:
    """What a model of tokens reads and draws; values are divided by their mean magnitude and put into even bins.

    Attributes
    ----------
    low, high
        Centres of the outermost bins.
    count
        Tokens of the vocabulary.
    special
        How many of them, from the first, stand for no value.
    pad, end, start
        Those of missing values, of the end of a context (None: contexts have none), and before the first step.
    samples
        Paths a series, unless told.
    temperature, top_k, top_p
        How tokens are drawn, unless told: see `Draws`.
    past, cross
        Heads of each decoder layer's self-attention and cross-attention, the width of their keys and that of their
        values; zeros where no head is left.
    """

    low: float
    high: float
    count: int
    special: int
    pad: int
    end: int | None
    start: int
    samples: int
    temperature: float
    top_k: int
    top_p: float
    past: tuple[tuple[int, int, int], ...]
    cross: tuple[tuple[int, int, int], ...]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Tokens:
        """What ``dataclasses.asdict`` gave, after JSON."""
        layers = {name: tuple(map(tuple, raw[name])) for name in ("past", "cross")}
        return cls(**{**raw, **layers})

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres of the bins, as ``torch.linspace`` has them: from both ends to the middle."""
        number = self.count - self.special - 1
        low, high = np.float32(self.low), np.float32(self.high)
        step = (high - low) / np.float32(number - 1)
        places = np.arange(number, dtype=np.float32)
        return np.where(places < number // 2, low + step * places, high - step * (number - 1 - places))

    @cached_property
    def _boundaries(self) -> np.ndarray:
        middles = (self.centres[1:] + self.centres[:-1]) / np.float32(2)
        return np.concatenate([[-_FURTHEST], middles, [_FURTHEST]]).astype(np.float32)

    def read(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of contexts (series, time), NaN where nothing was observed.

        Returns
        -------
        tokens, visible, scale
            Shapes (series, length), int64 and bool, and (series,): the mean magnitude, 1 where there is none.
        """
        visible = ~np.isnan(context)
        with np.errstate(invalid="ignore", over="ignore"):
            scale = np.where(visible, np.abs(context), 0).sum(axis=1, dtype=np.float32) / visible.sum(axis=1)
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            found = np.searchsorted(self._boundaries, context / scale[:, None], side="right") + self.special
        tokens = np.where(visible, found.clip(0, self.count - 1), self.pad)
        if self.end is not None:
            tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=self.end)
            visible = np.pad(visible, ((0, 0), (0, 1)), constant_values=True)
        return tokens.astype(np.int64), visible, scale

    def values(self, tokens: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Values of tokens (series, paths, time)."""
        places = (tokens - self.special - 1).clip(0, len(self.centres) - 1)
        found: np.ndarray = self.centres[places] * scale[:, None, None]
        return found

    def draws(self, temperature: float | None, top_k: int | None, top_p: float | None) -> Draws:
        """How tokens are drawn; None: as of the model."""
        return Draws(
            self.temperature if temperature is None else temperature,
            self.top_k if top_k is None else top_k,
            self.top_p if top_p is None else top_p,
        )
