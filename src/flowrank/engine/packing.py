"""Tokens of several series side by side, without those that nothing attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Neighbouring series of one packed batch that are computed together.

    Attributes
    ----------
    first
        Index of the first series.
    count
        Number of series.
    tokens
        Where their tokens lie in the packed batch.
    length
        Tokens of each.
    whole
        Whether the tokens of each are neighbours in time, without holes.
    """

    first: int
    count: int
    tokens: slice
    length: int
    whole: bool


@dataclass(frozen=True)
class Packed:
    """Which tokens of a padded batch are kept, and where each series' tokens lie.

    No query attends to a masked token, nor to its outputs in later layers, so leaving it out changes positions only;
    they are kept here for the relative bias.

    Attributes
    ----------
    rows, positions
        Series and place in its padded row of every kept token, shape (tokens,) each, in order.
    runs
        The series, grouped.
    span
        Largest distance between two tokens of one series, plus 1.
    """

    rows: Tensor
    positions: Tensor
    runs: tuple[Run, ...]
    span: int

    @classmethod
    def of(cls, visible: Tensor, *, apart: bool = True) -> Packed:
        """Pack a batch by its mask of shape (series, length); every series needs a visible token.

        ``apart``: whether each series with a hole among its tokens is a run of its own, as position biases need it.

        Examples
        --------
        >>> packed = Packed.of(torch.tensor([[False, True, True], [True, True, False], [True, False, True]]))
        >>> [(run.first, run.count, run.length, run.whole) for run in packed.runs]
        [(0, 2, 2, True), (2, 1, 2, False)]
        """
        rows, positions = visible.nonzero(as_tuple=True)
        lengths = visible.sum(dim=1)
        ends = lengths.cumsum(0)
        spans = positions[ends - 1] - positions[ends - lengths] + 1
        runs: list[Run] = []
        counted = zip(lengths.tolist(), spans.tolist(), ends.tolist(), strict=True)
        for row, (length, span, end) in enumerate(counted):
            whole = span == length
            last = runs[-1] if runs else None
            like = last is not None and last.length == length
            if last is not None and like and (not apart or (whole and last.whole)):
                runs[-1] = Run(last.first, last.count + 1, slice(last.tokens.start, end), length, whole and last.whole)
            else:
                runs.append(Run(row, 1, slice(end - length, end), length, whole))
        return cls(rows, positions, tuple(runs), int(spans.max()))

    @property
    def series(self) -> int:
        """Number of series."""
        return self.runs[-1].first + self.runs[-1].count

    @property
    def longest(self) -> int:
        """Tokens of the longest series."""
        return max(run.length for run in self.runs)

    def by_run(self, tokens: Tensor) -> Iterator[tuple[Run, Tensor]]:
        """Views (count, length, …) of packed tokens (tokens, …), run by run."""
        for run in self.runs:
            yield run, tokens[run.tokens].unflatten(0, (run.count, run.length))

    def padded(self, tokens: Tensor) -> Tensor:
        """Packed tokens (tokens, …) in a batch (series, longest, …), from the left, with zeros after them."""
        if len(self.runs) == 1:
            return tokens.unflatten(0, (self.series, self.longest))
        batch = tokens.new_zeros(self.series, self.longest, *tokens.shape[1:])
        for run, part in self.by_run(tokens):
            batch[run.first : run.first + run.count, : run.length] = part
        return batch

    def padding(self) -> Tensor | None:
        """Mask (series, longest) of what `padded` filled with zeros; None where it fills nothing."""
        if len({run.length for run in self.runs}) == 1:
            return None
        lengths = torch.tensor([run.length for run in self.runs for _ in range(run.count)])
        return torch.arange(int(lengths.max()))[None] >= lengths[:, None]


def by_length(visible: Tensor) -> Tensor:
    """Order of the rows of a mask in which like series are neighbours: whole ones first, then by number of tokens."""
    length = visible.shape[1]
    counts = visible.sum(dim=1)
    first = visible.int().argmax(dim=1)
    last = length - 1 - visible.flip(1).int().argmax(dim=1)
    holes = (last - first + 1 != counts).int()
    return (holes * (length + 1) + counts).argsort(stable=True)


def by_count(visible: Tensor) -> Tensor:
    """Order of the rows of a mask by their number of tokens, whether or not these are neighbours in time."""
    return visible.sum(dim=1).argsort(stable=True)
