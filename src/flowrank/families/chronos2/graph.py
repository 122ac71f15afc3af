"""Chronos-2 as a graph: the exact engine's work on padded batches, in one function that exporters can trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowrank.engine.graphs import GraphEngine
from flowrank.engine.heads import Heads
from flowrank.engine.tracing import (
    Chain,
    FeedForwardGraph,
    ModelGraph,
    Norm,
    QueriesKeysValues,
    Together,
    joined,
    standardised,
)
from flowrank.errors import FlowrankError
from flowrank.families._patch_block import PatchBlockGraph
from flowrank.families.chronos2.engine import Chronos2Engine, Inputs
from flowrank.families.chronos2.layers import GroupLayer, TimeLayer
from flowrank.families.chronos2.rotary import frequencies, turned
from flowrank.graphs import Facts
from flowrank.graphs.paths import HIDDEN


class Angles(nn.Module):
    """Cosines and sines of the angles by which queries and keys turn at each place.

    They are tables, as runtimes' own sines are of few digits, and flat, so that they are no weight to be rounded.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, turning: Tensor, tokens: int) -> None:
        super().__init__()
        self.planes = len(turning)
        angles = torch.arange(tokens)[:, None] * turning
        self.register_buffer("cosines", angles.cos().flatten())
        self.register_buffer("sines", angles.sin().flatten())

    def forward(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Tables (tokens, 1, planes)."""
        count = tokens * self.planes
        cosines, sines = (table[:count].reshape(tokens, 1, self.planes) for table in (self.cosines, self.sines))
        return cosines, sines


class TimeGraph(nn.Module):
    """Attention over time: x + attention of norm(x) within each series, of all tokens or of the last ones."""

    def __init__(self, layer: TimeLayer, *, last: bool) -> None:
        super().__init__()
        self.last, self.gone = last, layer.heads is None
        heads = layer.heads
        if heads is None:
            return
        self.heads, self.width, self.read = heads.count, heads.d_qk, heads.d_vo
        self.planes = None if layer.planes is None else layer.planes.flatten().tolist()
        self.turning, self.apart = layer.turning, layer.apart
        self.writes = Chain(heads.output)
        self.norm: nn.Module = Norm(layer.norm)
        self.reads = Together((heads.key, heads.value) if last else (heads.query, heads.key, heads.value))
        if last:
            self.query = Chain(heads.query)

    def forward(self, x: Tensor, mask: Tensor, angles: tuple[Tensor, Tensor], ahead: int) -> Tensor:
        """Map tokens (R, L, d) to (R, L, d), or to the last ``ahead`` of them; ``mask`` (R, L) is of the keys."""
        length = x.shape[1]
        asking = x[:, length - ahead :] if self.last else x
        if self.gone:
            return asking
        rows = self.norm(x)
        tables = [self._chosen(table) for table in angles]
        if self.last:
            key, value = self.reads(rows)
            query = self._split(self.query(rows[:, length - ahead :]), self.width)
            query = turned(query, *(table[length - ahead :] for table in tables))
            key = turned(self._split(key, self.width), *tables)
        else:
            query, key, value = self.reads(rows)
            query, key = (turned(self._split(one, self.width), *tables) for one in (query, key))
        value = self._split(value, self.read).transpose(1, 2)
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) + mask[:, None, None]
        return asking + self.writes(joined(scores.softmax(-1) @ value))

    def _split(self, features: Tensor, width: int) -> Tensor:
        return features.reshape(features.shape[0], features.shape[1], self.heads, width)

    def _chosen(self, table: Tensor) -> Tensor:
        """The table (L, 1 or heads, planes) of the planes that are left."""
        if self.planes is None:
            return table
        return table[:, 0, self.planes].reshape(table.shape[0], self.apart, self.turning)


class AcrossGraph(nn.Module):
    """Attention across the series of a group: x + attention of norm(x) at each place.

    What has one key reads itself alone, which is one linear map.
    """

    def __init__(self, layer: GroupLayer) -> None:
        super().__init__()
        self.gone, self.single = layer.gone, layer.single
        if self.gone:
            return
        self.alone = Chain(layer.alone, layer.norm)
        if not self.single:
            heads: Heads | None = layer.heads
            assert heads is not None
            self.reads, self.writes = QueriesKeysValues(heads, layer.norm), Chain(heads.output)

    def forward(self, x: Tensor, mask: Tensor | None, series: int) -> Tensor:
        """Map tokens (R, L, d), of which the first ``series`` are single; ``mask`` (G, L, V) is of the keys."""
        if self.gone:
            return x
        if self.single or mask is None:
            return x + self.alone(x)
        single, together = x[:series], x[series:]
        groups, length, size = mask.shape
        width = x.shape[2]
        cells = together.reshape(groups, size, length, width).transpose(1, 2).reshape(groups * length, size, width)
        query, key, value = self.reads(cells)
        scores = query @ key.transpose(2, 3) + mask.reshape(groups * length, 1, 1, size)
        update = self.writes(joined(scores.softmax(-1) @ value))
        update = update.reshape(groups, length, size, width).transpose(1, 2).reshape(groups * size, length, width)
        return x + torch.cat([self.alone(single), update])


class Chronos2Graph(ModelGraph):
    """Series and groups of series to quantiles (series + groups · members, quantiles, steps)."""

    register: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.chronos_config
        if config.input_patch_stride != config.input_patch_size:
            raise FlowrankError(
                "engine",
                expected="exact or stock, for a model whose patches overlap",
                found="a graph",
                todo='pass engine="exact"',
            )
        engine = Chronos2Engine(model)
        self.patch, self.context_length = config.input_patch_size, config.context_length
        self.most, self.levels = config.max_output_patches, tuple(config.quantiles)
        self.arcsinh, self.least = bool(config.use_arcsinh), model.instance_norm.eps
        self.time_scale = float(config.time_encoding_scale)
        self.first, self.outputs = (
            PatchBlockGraph(block) for block in (model.input_patch_embedding, model.output_patch_embedding)
        )
        register = model.shared.weight[model.config.reg_token_id]
        self.register_buffer("register", register.detach().float().clone())
        past = -(-self.context_length // self.patch)
        self.angles = Angles(frequencies(model.config), past + 1 + self.most)
        count = len(engine.layers)
        self.time = nn.ModuleList(
            TimeGraph(time, last=place == count - 1) for place, (time, _, _) in enumerate(engine.layers)
        )
        self.across = nn.ModuleList(AcrossGraph(group) for _, group, _ in engine.layers)
        self.feed_forward = nn.ModuleList(FeedForwardGraph(last) for _, _, last in engine.layers)
        self.norm = Norm(model.encoder.final_layer_norm)
        self.reads_groups = any(not one.gone and not one.single for one in self.across)
        heads = max((one.count for time, *_ in engine.layers if (one := time.heads) is not None), default=0)
        features = max((one.features for time, *_ in engine.layers if (one := time.heads) is not None), default=0)
        widest = max(one.width for _, _, one in engine.layers)
        self.numbers = (4 * model.config.d_model + max(2 * features, widest), 3 * heads)

    @classmethod
    def of(cls, model: Any) -> Chronos2Graph:
        """The graph of a Chronos-2 model, dense or compressed."""
        return cls(model)

    @property
    def facts(self) -> Facts:
        """What has to be known to forecast with it."""
        return Facts(
            "groups",
            self.patch,
            self.context_length,
            self.most * self.patch,
            self.levels,
            self.numbers,
            output_patch=self.patch,
            most_patches=self.most,
            reads_groups=self.reads_groups,
        )

    def example(self) -> dict[str, Tensor]:
        """Two series and two groups of three, of four patches and two ahead."""
        past, ahead = 4 * self.patch, 2 * self.patch
        made = {"series": _wave(2, past), "series_future": _wave(2, ahead)}
        if self.reads_groups:
            made |= {"groups": _wave(2, 3, past), "present": torch.ones(2, 3), "groups_future": _wave(2, 3, ahead)}
        return made

    def axes(self) -> dict[str, dict[int, Any]]:
        """Any number of series and of groups of any size, of any number of patches."""
        past = self.patch * torch.export.Dim("patches", min=1, max=max(4, -(-self.context_length // self.patch)))
        ahead = self.patch * torch.export.Dim("ahead", min=1, max=max(2, self.most))
        series = torch.export.Dim("count", min=0)
        found = {"series": {0: series, 1: past}, "series_future": {0: series, 1: ahead}}
        if self.reads_groups:
            groups, members = torch.export.Dim("number", min=0), torch.export.Dim("members", min=1)
            found["groups"] = {0: groups, 1: members, 2: past}
            found["present"] = {0: groups, 1: members}
            found["groups_future"] = {0: groups, 1: members, 2: ahead}
        return found

    def forward(
        self,
        series: Tensor,
        series_future: Tensor,
        groups: Tensor | None = None,
        present: Tensor | None = None,
        groups_future: Tensor | None = None,
    ) -> Tensor:
        """Quantiles of single series and of series that are forecast together, those of the groups last.

        Parameters
        ----------
        series, groups
            Shapes (S, time) and (G, V, time); time is a multiple of the patch; NaN where nothing was observed.
        series_future, groups_future
            Shapes (S, steps) and (G, V, steps): what is known ahead, NaN elsewhere.
        present
            Shape (G, V): 1 for a series of a group, 0 where the group has fewer.
        """
        context, future, count = series, series_future, series.shape[0]
        if groups is not None and groups_future is not None:
            context = torch.cat([series, groups.flatten(0, 1)])
            future = torch.cat([series_future, groups_future.flatten(0, 1)])
        rows, ahead = context.shape[0], future.shape[1] // self.patch
        seen = context.isnan().logical_not()
        scaled, level, spread = standardised(context, seen, self.least)
        known = future.isnan().logical_not()
        told = torch.where(known, (future - level) / spread, 0.0)
        x, observed = self._patches(scaled, seen, -context.shape[1])
        y, _ = self._patches(told, known, 0)
        x = torch.cat([self.first(x), self.register.expand(rows, 1, -1), self.first(y)], 1)
        hidden = (1.0 - observed.amax(-1)) * HIDDEN
        mask = torch.cat([hidden, torch.zeros(rows, 1 + ahead)], 1)
        together = None
        if present is not None:
            padding = (1.0 - present) * HIDDEN
            visible = mask[count:].reshape(*present.shape, x.shape[1])
            together = torch.minimum(visible, padding[:, :, None]).transpose(1, 2)
        angles = self.angles(x.shape[1])
        last = len(self.time) - 1
        for place, (time, across, feed_forward) in enumerate(
            zip(self.time, self.across, self.feed_forward, strict=True)
        ):
            x = time(x, mask, angles, ahead)
            if place == last and together is not None:
                together = together[:, together.shape[1] - ahead :]
            x = feed_forward(across(x, together, count))
        found = self.outputs(self.norm(x)).reshape(rows, ahead, len(self.levels), self.patch)
        found = found.transpose(1, 2).flatten(2)
        found = found.sinh() if self.arcsinh else found
        return found * spread[:, :, None] + level[:, :, None]

    def _patches(self, values: Tensor, known: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """What is embedded of patches, (R, patches, 3 · size), and which values are known (R, patches, size)."""
        values = values.asinh() if self.arcsinh else values
        steps = torch.arange(start, start + values.shape[1]).to(torch.float32) / self.time_scale
        shape = (values.shape[0], values.shape[1] // self.patch, self.patch)
        clock = steps.reshape(1, *shape[1:]).expand(*shape)
        seen = known.to(torch.float32).reshape(*shape)
        return torch.cat([clock, values.reshape(*shape), seen], -1), seen


def _wave(*shape: int) -> Tensor:
    return torch.linspace(0.0, 9.0, int(torch.tensor(shape).prod())).view(shape).sin()


class Chronos2GraphEngine(GraphEngine):
    """Forecasts of a Chronos-2 model by a graph runtime."""

    graph_class = Chronos2Graph

    @classmethod
    def asked(cls, context: np.ndarray, groups: np.ndarray, future: np.ndarray, patches: int) -> tuple[Any, ...]:
        """What ``quantiles`` takes."""
        tensors = (torch.from_numpy(one) for one in (context, groups, future))
        return Inputs(*tensors), patches

    def quantiles(self, inputs: Inputs, patches: int, *, memory_budget: int | None = None) -> Tensor:
        """Forecast some output patches in one pass: (series, quantiles, patches · patch size), fp32."""
        future = None if inputs.future is None else inputs.future.float().numpy()
        found = self.driver.step(
            inputs.context.numpy(), inputs.groups.numpy(), future, patches, memory_budget=memory_budget
        )
        return torch.from_numpy(found)
