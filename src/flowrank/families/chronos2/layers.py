"""The layers of a Chronos-2 encoder on packed tokens, each added to the residual stream in place.

Nothing is kept between two forecasts but matrices that are products of two weights, as long as these do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from chronos.chronos2.layers import Chronos2LayerNorm
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from flowrank.engine.heads import SHORT, Heads, add_projection, matrices_of, matrix_of, project
from flowrank.engine.merging import merged
from flowrank.engine.packing import Packed, Run
from flowrank.engine.products import product
from flowrank.families.chronos2.attention import NarrowMHA
from flowrank.families.chronos2.rotary import turned
from flowrank.nn.factored import FactoredLinear, Unchanged
from flowrank.nn.heads import HeadLayout

_HIDDEN = 1 << 23  # numbers within a layer at once: fewer, larger products, in memory that does not grow


@dataclass(frozen=True)
class Cells:
    """Tokens of a group at one place, where there are several: cells of one size.

    Attributes
    ----------
    tokens
        Shape (cells, size): indices of tokens.
    """

    tokens: Tensor


@dataclass(frozen=True)
class Places:
    """Where the tokens of some series are, in time and in groups.

    Attributes
    ----------
    packed
        The tokens.
    cosines, sines
        Of the angles by which the planes of a stock head turn there, shape (tokens, planes).
    cells
        Tokens that attend to one another across series.
    alone
        Indices of the others; None: all tokens.
    ahead
        Tokens of the future of each series, its last ones.
    future
        The same of those tokens alone.
    """

    packed: Packed
    cosines: Tensor
    sines: Tensor
    cells: tuple[Cells, ...]
    alone: Tensor | None
    ahead: int
    future: Any = None

    @classmethod
    def of(cls, packed: Packed, groups: Tensor, turning: Tensor, dtype: torch.dtype, *, ahead: int) -> Places:
        """Of packed tokens whose series are in groups (series,); ``turning``: radians a token of each plane."""
        angles = torch.arange(int(packed.positions.max()) + 1, device=groups.device)[:, None] * turning.to(
            groups.device
        )
        cosines, sines = (table.to(dtype)[packed.positions] for table in (angles.cos(), angles.sin()))
        cells, alone = _cells(packed.rows, packed.positions, groups)
        last = torch.cat([part[:, -ahead:].flatten() for _, part in packed.by_run(torch.arange(len(packed.rows)))])
        last = last.to(packed.rows.device)
        ahead_cells, ahead_alone = _cells(packed.rows[last], packed.positions[last], groups)
        future = cls(packed, cosines, sines, ahead_cells, ahead_alone, ahead)
        return cls(packed, cosines, sines, cells, alone, ahead, future)


def _cells(rows: Tensor, positions: Tensor, groups: Tensor) -> tuple[tuple[Cells, ...], Tensor | None]:
    """Tokens by group and place, and those that are alone there."""
    _, number, sizes = groups.unique(return_inverse=True, return_counts=True)
    if int(sizes.max()) == 1:
        return (), None
    cell = number[rows] * (int(positions.max()) + 1) + positions
    order = cell.argsort(stable=True)
    _, counts = cell[order].unique_consecutive(return_counts=True)
    size = counts.repeat_interleave(counts)
    found = tuple(Cells(order[size == count].view(-1, count)) for count in counts.unique().tolist() if count > 1)
    return found, order[size == 1]


def normalised(x: Tensor, norm: Chronos2LayerNorm) -> Tensor:
    """Rows (n, d) over their root mean square, times the layer's weight, in two passes over memory."""
    if x.dtype != torch.float32:  # it computes in fp32
        return norm(x)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    result = x * size.square_().mul_(1.0 / x.shape[1]).add_(norm.variance_epsilon).rsqrt_()
    result *= norm.weight
    return result


def _pieces(rows: int, width: int) -> Iterator[slice]:
    """Slices of so many rows that each has about 2 ** 23 numbers of a width."""
    count = max(1, -(-rows * width // _HIDDEN))
    step = max(1, -(-rows // count))
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


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
            for piece in _pieces(run.count, width):
                start, count = run.tokens.start + piece.start * run.length, piece.stop - piece.start
                if held and numbers + count * width > _HIDDEN:
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
        asking, angles = x, tables
        if ahead is not None:
            asking, angles = _last(x, runs, ahead), [_last(table, runs, ahead) for table in tables]
        key, value = (project(x, each).view(len(x), heads.count, -1) for each in (heads.key, heads.value))
        query = turned(project(asking, heads.query).view(len(asking), heads.count, -1), *angles)
        key = turned(key, *tables)
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

    def add(self, x: Tensor, places: Places) -> None:
        """Update tokens ``x`` (n, d) in place."""
        if self.gone:
            return
        if self.single or places.alone is None:  # every token of every series
            for piece in _pieces(len(x), 3 * x.shape[1]):
                add_projection(x[piece], normalised(x[piece], self.norm), self.alone)
            return
        for piece in _pieces(len(places.alone), 3 * x.shape[1]):
            index = places.alone[piece]
            rows = x[index]
            add_projection(rows, normalised(rows, self.norm), self.alone)
            x[index] = rows
        for cells in places.cells:
            self._mix(x, cells.tokens)

    def _mix(self, x: Tensor, cells: Tensor) -> None:
        heads = self.heads
        assert heads is not None
        size = cells.shape[1]
        width = size * heads.count * (2 * heads.d_qk + 2 * heads.d_vo + size)
        for piece in _pieces(len(cells), width):
            some = cells[piece]
            rows = x[some.flatten()]
            inputs = normalised(rows, self.norm)
            query, key, value = (
                project(inputs, each).view(*some.shape, heads.count, -1).transpose(1, 2)
                for each in (heads.query, heads.key, heads.value)
            )
            add_projection(rows, attend(query, key, value).transpose(1, 2).flatten(0, 1).flatten(1), heads.output)
            x[some.flatten()] = rows


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention: (B, h, L_q, d_qk), (B, h, L, d_qk), (B, h, L, d_vo) → (B, h, L_q, d_vo)."""
    if key.shape[2] <= SHORT and query.device.type == "cpu":
        return (query @ key.transpose(2, 3)).softmax(dim=-1) @ value
    widths = query.shape[-1], value.shape[-1]
    if widths[0] != widths[1]:  # the fused kernel wants one width
        query, key, value = (pad(one, (0, max(widths) - one.shape[-1])) for one in (query, key, value))
    return scaled_dot_product_attention(query, key, value, scale=1.0)[..., : widths[1]]


class FeedForwardLayer:
    """A feed-forward layer: x ← x + W_O ReLU(W_I norm(x)), or whatever its module computes."""

    def __init__(self, wrapper: Any) -> None:
        mlp = wrapper.mlp
        self.norm, self.mlp = wrapper.layer_norm, mlp
        ranks = mlp.shape.ranks.values() if hasattr(mlp, "shape") else ()
        self.width = int(mlp.wo.in_features) + max(ranks, default=0)
        self.gone = mlp.wo.in_features == 0
        self.plain = isinstance(mlp.act, nn.ReLU)
        *self.before, self.inner = matrices_of(mlp.wi)
        self.outer = matrices_of(mlp.wo)

    def add(self, x: Tensor) -> None:
        """Update ``x`` (n, d) in place."""
        if self.gone:
            return
        for piece in _pieces(len(x), self.width):
            rows = x[piece]
            if self.plain:
                hidden = product(project(normalised(rows, self.norm), self.before), self.inner, relu=True)
                add_projection(rows, hidden, self.outer)
            else:
                rows += self.mlp(normalised(rows, self.norm))


def through(block: Any, x: Tensor) -> Tensor:
    """A patch block on rows (n, m)."""
    if not isinstance(block.act, nn.ReLU):
        return block(x)
    if not len(x):  # no series has an observation
        return x.new_empty(0, block.output_layer.out_features)
    parts = []
    for piece in _pieces(len(x), block.output_layer.in_features):
        rows = x[piece]
        inner = _apply(block.hidden_layer, rows, relu=True)
        result = _apply(block.residual_layer, rows)
        if block.output_layer.in_features:
            result += _apply(block.output_layer, inner)
        else:
            last = getattr(block.output_layer, "up", block.output_layer)
            result += last.bias
        parts.append(result)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _apply(layer: Any, x: Tensor, *, relu: bool = False) -> Tensor:
    if isinstance(layer, FactoredLinear):
        x, layer = product(x, matrix_of(layer.down)), layer.up
    assert not isinstance(layer, Unchanged)
    return product(x, matrix_of(layer), layer.bias, relu=relu)
