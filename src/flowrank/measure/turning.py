"""Queries and keys that turn with their places: what can be done to them, and the loss of each choice.

A score is Re Σ_p conj(q_p) e^{iθ_p(i−j)} k_p over planes p. So queries and keys of a layer may become smaller in three
ways, which compete:

* planes are dropped;
* planes that turn slowly no longer turn: together they are an ordinary bilinear form, factorised jointly in each head;
* W_Q and W_K become two factors each, shared by all heads, before anything turns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowrank.anatomy import Attention
from flowrank.linalg import SecondMoment, balanced_basis
from flowrank.measure.activations import HeadActivations
from flowrank.measure.planes import Choice, Kind, choices, cost_of, frequencies_of, planes_of, turn

_LEAST = 1e-3  # smallest size of a feature that is taken at its word, as a share of the largest


@dataclass
class TurningMoments:
    """What is measured of queries and keys that turn, before any choice.

    Attributes
    ----------
    effects
        Shape (h, planes): squared change of the loss, to first order, if a plane were dropped.
    queries, keys
        Second moments of the features of all heads, before they turn, shape (h · width)² each; tokens count by their
        importance.
    importance
        Shape (h,): how much the loss depends on the scores of each head.
    tokens
        Of the longest series that was seen.
    """

    site: Attention
    tokens: int = 1
    effects: Tensor = field(init=False)
    queries: SecondMoment = field(init=False)
    keys: SecondMoment = field(init=False)
    importance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        heads, width = self.site.heads, self.site.d_qk
        self.effects = torch.zeros(heads, planes_of(self.site), dtype=torch.float64)
        self.queries, self.keys = SecondMoment(heads * width), SecondMoment(heads * width)
        self.importance = torch.zeros(heads, dtype=torch.float64)

    def update(self, recorded: HeadActivations) -> None:
        """Add a batch."""
        self.tokens = max(self.tokens, recorded.query.shape[2])
        gradient = recorded.score_gradient()
        importance = gradient.square()
        self.importance += importance.sum(dim=(0, 2, 3)).double().cpu()
        for moment, features, weight in (
            (self.queries, recorded.query, importance.sum(dim=(1, 3))),
            (self.keys, recorded.key, importance.sum(dim=(1, 2))),
        ):
            rows = (features.transpose(1, 2).flatten(2) * weight.sqrt()[..., None]).flatten(0, 1)
            moment.add(rows.T @ rows, weight.sum())
        planes = self.effects.shape[1]
        angles = _angles(self.site, recorded.query)
        query, key = (turn(one, angles, planes) for one in (recorded.query, recorded.key))
        change = (gradient @ key * query).sum(dim=2)
        by_plane = change[..., :planes] + change[..., planes : 2 * planes]
        self.effects += by_plane.square().sum(dim=0).double().cpu()


class Turning:
    """The choices of one layer, and how each would be made.

    Parameters
    ----------
    moments
        Of its queries and keys.
    query_grams, key_grams
        Weighted second moments of each head's queries and keys, shape (h, width, width).
    """

    def __init__(self, moments: TurningMoments, query_grams: Tensor, key_grams: Tensor) -> None:
        self.site = moments.site
        self.planes = planes_of(self.site)
        self.choices = choices(self.site, moments.tokens)
        self.losses = torch.zeros(len(self.choices), self.site.heads, dtype=torch.float64)
        self._order = moments.effects.argsort(dim=1, descending=True, stable=True)
        self._fastest = frequencies_of(self.site).argsort(dim=1, stable=True, descending=True)
        self._grams = query_grams, key_grams
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}
        sizes = [_sizes(gram, self.planes, moments.importance) for gram in (key_grams, query_grams)]
        self._factors = [
            _directions(moment, size) for moment, size in zip((moments.queries, moments.keys), sizes, strict=True)
        ]
        self.features = -(-cost_of(self.site) // self._a_feature)
        self._chosen: list[Choice | None] | None = None
        self.sigma = (self._factors[0][1] + self._factors[1][1]).clamp_min(0).sqrt()

    @property
    def _a_feature(self) -> int:
        """Parameters of one feature of the queries and keys of all heads."""
        return 2 * self.site.d_model * self.site.heads

    def kept(self, choice: Choice) -> Tensor:
        """Which planes of each head turn under a choice, rising, shape (h, planes kept)."""
        order = self._order
        if choice.kind == "merged":  # the most important of those that are not merged
            fast = torch.zeros_like(order, dtype=torch.bool).scatter_(1, self._fastest[:, : choice.apart], True)
            order = order[fast.gather(1, order)].view(len(order), -1)
        return order[:, : choice.planes].sort(dim=1).values

    def columns(self, planes: Tensor) -> Tensor:
        """Features of some planes of each head: first coordinates, then second ones."""
        return torch.cat([planes, planes + self.planes], dim=1)

    def rest(self, choice: Choice) -> Tensor:
        """Features of each head that a block without turning is made of, shape (h, n)."""
        heads, width = self.site.heads, self.site.d_qk
        merged = torch.ones(heads, width, dtype=torch.bool)
        if choice.kind == "planes":
            merged[:, : 2 * self.planes] = False
        merged.scatter_(1, self.columns(self._fastest[:, : choice.apart]), False)
        return merged.nonzero()[:, 1].view(heads, -1)

    def block(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """Maps of those features to the components of their joint factorisation, shape (h, n, n) each."""
        if choice.apart not in self._blocks:
            rest = self.rest(choice)
            bases = []
            for head, some in enumerate(rest):
                left, right = (gram[head][some][:, some] for gram in self._grams)
                bases.append(balanced_basis(left, right)[:2])
            self._blocks[choice.apart] = torch.stack([s for s, _ in bases]), torch.stack([t for _, t in bases])
        return self._blocks[choice.apart]

    def factor(self, side: int, rank: int) -> tuple[Tensor, Tensor]:
        """Maps of queries (side 0) or keys (1) of all heads to fewer numbers, (h · width, rank), and back."""
        directions, _, sizes = self._factors[side]
        leading = directions[:, :rank]
        return sizes[:, None] * leading, leading.T / sizes

    def observe(self, recorded: HeadActivations, at_once: int) -> None:
        """Add a batch to the losses of all choices."""
        query, key, bias = recorded.query, recorded.key, recorded.bias
        for start in range(0, len(query), at_once):
            some = slice(start, start + at_once)
            gradient, value = recorded.gradient[some], recorded.value[some]
            before = (recorded.output[some] * gradient).sum(dim=(2, 3))
            added = self._bias(recorded, bias, some)
            for index, scores in self.scores(query[some], key[some]):
                read = (scores * self.site.scale + added).softmax(dim=-1) @ value
                effect = (read * gradient).sum(dim=(2, 3)) - before
                self.losses[index] += effect.square().sum(dim=0).double().cpu()

    def _bias(self, recorded: HeadActivations, bias: Tensor | None, some: slice) -> Tensor:
        if bias is not None:
            return bias.expand(len(recorded.query), -1, -1, -1)[some]
        angles = _angles(self.site, recorded.query)
        query, key = (turn(one[some], angles, self.planes) for one in (recorded.query, recorded.key))
        return recorded.weights[some].log() - self.site.scale * query @ key.transpose(-1, -2)

    def scores(self, query: Tensor, key: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Products (B, h, L, L) of queries and keys (B, h, L, w) under each choice, by its number.

        Choices that go on from one another share what they have in common.
        """
        angles = _angles(self.site, query)
        kinds: dict[tuple[str, int, int], list[int]] = {}
        for index, one in enumerate(self.choices):
            kinds.setdefault((one.kind, one.apart, one.planes if one.kind == "merged" else 0), []).append(index)
        for (kind, _, _), indices in kinds.items():
            ranked = sorted(indices, key=lambda index: self.choices[index].rank)
            if kind == "factors":
                yield from self._of_factors(query, key, angles, ranked)
            elif kind == "merged":
                yield from self._of_blocks(query, key, angles, ranked)
            else:
                yield from self._of_planes(query, key, angles, ranked)

    def _of_planes(
        self, query: Tensor, key: Tensor, angles: Tensor, indices: list[int]
    ) -> Iterator[tuple[int, Tensor]]:
        query, key = (turn(one, angles, self.planes) for one in (query, key))
        for index in indices:
            choice = self.choices[index]
            columns = torch.cat([self.columns(self.kept(choice)), self.rest(choice)], dim=1)
            yield index, _gathered(query, columns) @ _gathered(key, columns).transpose(-1, -2)

    def _of_blocks(
        self, query: Tensor, key: Tensor, angles: Tensor, indices: list[int]
    ) -> Iterator[tuple[int, Tensor]]:
        first = self.choices[indices[0]]
        columns, rest = self.columns(self.kept(first)), self.rest(first)
        turning = [_gathered(turn(one, angles, self.planes), columns) for one in (query, key)]
        blocks = [
            _gathered(one, rest) @ basis.to(one) for one, basis in zip((query, key), self.block(first), strict=True)
        ]
        scores, done = turning[0] @ turning[1].transpose(-1, -2), 0
        for index in indices:
            more = slice(done, self.choices[index].rank)
            done = more.stop
            scores = scores + blocks[0][..., more] @ blocks[1][..., more].transpose(-1, -2)
            yield index, scores

    def _of_factors(
        self, query: Tensor, key: Tensor, angles: Tensor, indices: list[int]
    ) -> Iterator[tuple[int, Tensor]]:
        most = self.choices[indices[-1]].rank
        sides = []
        for side, one in enumerate((query, key)):
            down, up = (part.to(one) for part in self.factor(side, most))
            sides.append((one.transpose(1, 2).flatten(2) @ down, up))
        made, done = [0 * query.transpose(1, 2).flatten(2), 0 * key.transpose(1, 2).flatten(2)], 0
        for index in indices:
            more = slice(done, self.choices[index].rank)
            done = more.stop
            made = [sums + few[..., more] @ up[more] for sums, (few, up) in zip(made, sides, strict=True)]
            q, k = (turn(one.unflatten(2, (self.site.heads, -1)).transpose(1, 2), angles, self.planes) for one in made)
            yield index, q @ k.transpose(-1, -2)

    def table(self, series: int, kinds: Collection[Kind] = ("planes", "merged", "factors")) -> Tensor:
        """Loss of each head (h, n + 1) at each number of features' worth of parameters, once losses were observed.

        n features of queries and keys have as many parameters as the layer now; there nothing is lost. ``kinds``:
        choices that compete.
        """
        losses = torch.zeros(self.site.heads, self.features + 1, dtype=torch.float64)
        mine = self.losses / max(1, series)
        self._chosen = []
        for features in range(self.features):
            most = features * self._a_feature
            known = [i for i, one in enumerate(self.choices) if one.kind in kinds or not one.cost]
            affordable = [i for i in known if self.choices[i].cost <= most]
            best = min(affordable, key=lambda i: float(mine[i].sum()))
            losses[:, features] = mine[best]
            self._chosen.append(self.choices[best])
        return losses

    def at(self, features: int) -> Choice | None:
        """The best choice of so many features' worth of parameters; None: all as it is.

        Where no loss was observed, two factors.
        """
        if features >= self.features:
            return None
        if self._chosen is not None:
            return self._chosen[features]
        site = self.site
        a_rank = 2 * (site.d_model + site.heads * site.d_qk)
        rank = int(features * self._a_feature / a_rank)
        return Choice("factors", self.planes, rank, rank * a_rank) if rank else Choice("merged", 0, 0, 0)


def _gathered(features: Tensor, columns: Tensor) -> Tensor:
    """Some features (h, n) of each head of (B, h, L, w)."""
    batch, _, length, _ = features.shape
    return features.gather(3, columns.to(features.device)[None, :, None].expand(batch, -1, length, -1))


def _angles(site: Attention, features: Tensor) -> Tensor:
    """Angles (h, L, planes) at the places of tokens (B, h, L, w)."""
    steps = torch.arange(features.shape[2], device=features.device, dtype=torch.float32)
    return steps[:, None] * frequencies_of(site).to(features.device)[:, None]


def _sizes(grams: Tensor, planes: int, importance: Tensor) -> Tensor:
    """Weight of an error of each feature, (h · width,): how large what it meets is; alike within a plane."""
    energy = grams.diagonal(dim1=1, dim2=2).clone()
    both = (energy[:, :planes] + energy[:, planes : 2 * planes]) / 2
    energy[:, :planes] = energy[:, planes : 2 * planes] = both
    sizes = (energy * importance[:, None]).flatten().clamp_min(0).sqrt()
    return sizes.clamp_min(_LEAST * float(sizes.max()) or 1.0)


def _directions(moment: SecondMoment, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal directions of weighted features, their variances, descending, and the weights."""
    gram = sizes[:, None] * moment.mean()[0] * sizes
    variances, directions = torch.linalg.eigh(gram)
    return directions.flip(1), variances.flip(0), sizes
