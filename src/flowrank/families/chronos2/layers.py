"""The layers of a Chronos-2 encoder on packed tokens, each added to the residual stream in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowrank.engine.feed_forward import FeedForward, normalised, pieces
from flowrank.engine.heads import SHORT, Heads, add_projection, attend, project
from flowrank.engine.merging import merged
from flowrank.engine.packing import Packed, Run
from flowrank.families.chronos2.attention import NarrowMHA
from flowrank.families.chronos2.rotary import turned
from flowrank.nn.heads import HeadLayout

_NUMBERS = 1 << 23  # within a layer at once: fewer, larger products, in memory that does not grow


@dataclass(frozen=True)
class Neighbours:
    """Which tokens attend to one another across series.

    Attributes
    ----------
    cells
        Indices of the tokens of a group at one place, where there are several; shape (cells, size), by size.
    alone
        Indices of the others; None: all tokens.
    """

    cells: tuple[Tensor, ...]
    alone: Tensor | None

    @classmethod
    def of(cls, rows: Tensor, positions: Tensor, groups: Tensor) -> Neighbours:
        """Of tokens with a series (tokens,) and a place (tokens,) each; ``groups``: those of the series."""
        _, number, sizes = groups.unique(return_inverse=True, return_counts=True)
        if int(sizes.max()) == 1:
            return cls((), None)
        cell = number[rows] * (int(positions.max()) + 1) + positions
        order = cell.argsort(stable=True)
        _, counts = cell[order].unique_consecutive(return_counts=True)
        size = counts.repeat_interleave(counts)
        cells = tuple(order[size == count].view(-1, count) for count in counts.unique().tolist() if count > 1)
        return cls(cells, order[size == 1])


@dataclass(frozen=True)
class Places:
    """Where the tokens of some series are, in time and in groups.

    Attributes
    ----------
    packed
        The tokens.
    cosines, sines
        Of the angles by which the planes of a stock head turn there, shape (tokens, planes).
    neighbours
        Of all tokens, across series.
    ahead
        How many tokens of each series, its last ones, are of the future.
    neighbours_ahead
        Of those tokens alone.
    """

    packed: Packed
    cosines: Tensor
    sines: Tensor
    neighbours: Neighbours
    ahead: int
    neighbours_ahead: Neighbours

    @classmethod
    def of(cls, packed: Packed, groups: Tensor, turning: Tensor, dtype: torch.dtype, *, ahead: int) -> Places:
        """Of packed tokens whose series are in groups (series,); ``turning``: radians a token of each plane."""
        rows, positions = packed.rows, packed.positions
        steps = torch.arange(int(positions.max()) + 1, device=rows.device)
        angles = steps[:, None] * turning.to(rows.device)
        cosines, sines = (table.to(dtype)[positions] for table in (angles.cos(), angles.sin()))
        places = torch.arange(len(rows), device=rows.device)
        last = torch.cat([part[:, -ahead:].flatten() for _, part in packed.by_run(places)])
        return cls(
            packed,
            cosines,
            sines,
            Neighbours.of(rows, positions, groups),
            ahead,
            Neighbours.of(rows[last], positions[last], groups),
        )


def heads_of(layer: Any) -> Heads | None:
    """Weights of an attention layer, stock or narrowed; None if no head is left."""
    projections = [getattr(layer, name) for name in "qkvo"]
    if isinstance(layer, NarrowMHA):
        return Heads.of(projections, layer.query_layout, layer.value_layout, layer.active_heads)
    layout = HeadLayout((layer.kv_proj_dim,) * layer.n_heads)
    return Heads.of(projections, layout, layout)


def _span(runs: list[Run]) -> slice:
    """Where the tokens of neighbouring runs lie."""
    return slice(runs[0].tokens.start, runs[-1].tokens.stop)


def _last(rows: Tensor, runs: list[Run], ahead: int) -> Tensor:
    """A copy of the last ``ahead`` rows of each series of some runs, whose rows these are."""
    start = runs[0].tokens.start
    parts = [
        rows[run.tokens.start - start : run.tokens.stop - start].unflatten(0, (run.count, run.length))[:, -ahead:]
        for run in runs
    ]
    return torch.cat([part.flatten(0, 1) for part in parts])


class TimeLayer:
    """Attention over time: x ← x + attention of norm(x) within each series."""

    def __init__(self, wrapper: Any) -> None:
        layer = wrapper.self_attention
        self.norm, self.heads = wrapper.layer_norm, heads_of(layer)
        self.planes: Tensor | None = None
        self.turning = layer.kv_proj_dim // 2
        self.apart = 1  # heads whose planes turn by angles of their own
        if isinstance(layer, NarrowMHA) and layer.planes:
            unlike = sorted(set(layer.planes))
            self.turning, every = len(unlike[0]), tuple(range(layer.kv_proj_dim // 2))
            if unlike != [every]:
                chosen = unlike if len(unlike) == 1 else layer.planes
                self.planes, self.apart = torch.tensor(chosen, dtype=torch.long), len(chosen)

    def add(self, x: Tensor, places: Places) -> None:
        """Update all tokens ``x`` (n, d) in place."""
        if self.heads is None:
            return
        for runs in self._parts(places):
            rows = x[_span(runs)]
            read = self._read(normalised(rows, self.norm), places, runs, None)
            add_projection(rows, read, self.heads.output)

    def ahead(self, x: Tensor, places: Places) -> Tensor:
        """Updated tokens of the future alone (series · ahead, d)."""
        ahead = places.ahead
        parts = []
        for runs in self._parts(places):
            rows = x[_span(runs)]
            last = _last(rows, runs, ahead)
            if self.heads is not None:
                add_projection(last, self._read(normalised(rows, self.norm), places, runs, ahead), self.heads.output)
            parts.append(last)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _parts(self, places: Places) -> Iterator[list[Run]]:
        """Neighbouring runs of series, in pieces that stay in the cache."""
        heads, held, numbers = self.heads, list[Run](), 0
        each = 1 if heads is None else heads.count * (3 * heads.d_qk + 2 * heads.d_vo)
        for run in places.packed.runs:
            scores = heads.count * run.length if heads is not None and run.length <= SHORT else 0
            width = run.length * (each + scores)
            for piece in pieces(run.count, width, _NUMBERS):
                start, count = run.tokens.start + piece.start * run.length, piece.stop - piece.start
                if held and numbers + count * width > _NUMBERS:
                    yield held
                    held, numbers = [], 0
                tokens = slice(start, start + count * run.length)
                held.append(Run(run.first + piece.start, count, tokens, run.length, True))
                numbers += count * width
        yield held

    def _read(self, x: Tensor, places: Places, runs: list[Run], ahead: int | None) -> Tensor:
        """What tokens of some series read, or the last ``ahead`` of each: (tokens, h · d_vo)."""
        heads, span = self.heads, _span(runs)
        assert heads is not None
        tables = [
            self._chosen(table[span]).view(len(x), self.apart, self.turning) for table in (places.cosines, places.sines)
        ]
        if ahead is None:
            query, key, value = heads.of_rows(x)
            angles = tables
        else:
            query, angles = project(_last(x, runs, ahead), heads.query), [_last(table, runs, ahead) for table in tables]
            key, value = project(x, heads.key), project(x, heads.value)
        query, key, value = (part.view(len(part), heads.count, -1) for part in (query, key, value))
        query, key = turned(query, *angles), turned(key, *tables)
        read, done, asked = [], 0, 0
        for run in runs:
            tokens, queries = run.count * run.length, run.count * (ahead or run.length)
            q = query[asked : asked + queries].unflatten(0, (run.count, -1))
            k, v = (one[done : done + tokens].unflatten(0, (run.count, -1)) for one in (key, value))
            found = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            read.append(found.transpose(1, 2).flatten(0, 1).flatten(1))
            done, asked = done + tokens, asked + queries
        return read[0] if len(read) == 1 else torch.cat(read)

    def _chosen(self, table: Tensor) -> Tensor:
        """Columns of the heads' planes."""
        return table if self.planes is None else table[:, self.planes.flatten().to(table.device)]


class GroupLayer:
    """Attention over the series of a group: x ← x + attention of norm(x) within each group and place."""

    def __init__(self, wrapper: Any) -> None:
        layer = wrapper.self_attention
        self.norm, self.layer = wrapper.layer_norm, layer
        self.single = isinstance(layer, NarrowMHA) and layer.single_key
        self.gone = isinstance(layer, NarrowMHA) and not layer.active_heads
        self.heads = None if self.single or self.gone else heads_of(layer)
        self.alone = () if self.gone else merged(layer.v, layer.o)

    def add(self, x: Tensor, neighbours: Neighbours) -> None:
        """Update tokens ``x`` (n, d) in place."""
        if self.gone:
            return
        if self.single or neighbours.alone is None:  # every token of every series
            for piece in pieces(len(x), 3 * x.shape[1], _NUMBERS):
                add_projection(x[piece], normalised(x[piece], self.norm), self.alone)
            return
        for piece in pieces(len(neighbours.alone), 3 * x.shape[1], _NUMBERS):
            index = neighbours.alone[piece]
            rows = x[index]
            add_projection(rows, normalised(rows, self.norm), self.alone)
            x[index] = rows
        for cells in neighbours.cells:
            self._mix(x, cells)

    def _mix(self, x: Tensor, cells: Tensor) -> None:
        heads = self.heads
        assert heads is not None
        size = cells.shape[1]
        width = size * heads.count * (2 * heads.d_qk + 2 * heads.d_vo + size)
        for piece in pieces(len(cells), width, _NUMBERS):
            some = cells[piece]
            rows = x[some.flatten()]
            inputs = normalised(rows, self.norm)
            query, key, value = (
                part.view(*some.shape, heads.count, -1).transpose(1, 2) for part in heads.of_rows(inputs)
            )
            add_projection(rows, attend(query, key, value).transpose(1, 2).flatten(0, 1).flatten(1), heads.output)
            x[some.flatten()] = rows


def feed_forward_of(wrapper: Any) -> FeedForward:
    """A feed-forward layer."""
    mlp = wrapper.mlp
    return FeedForward(wrapper.layer_norm, mlp, mlp.wi if isinstance(mlp.act, nn.ReLU) else None, mlp.wo, _NUMBERS)
