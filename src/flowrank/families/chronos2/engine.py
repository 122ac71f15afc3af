"""Chronos-2: quantiles from the same weights, without the work that changes nothing.

The encoder runs on the patches that hold an observation. A token attends to the other series of its group at the same
place, so attention over a group is computed place by place, and only where two or more series have a token; elsewhere
it is one matrix. In the last layer only tokens of the future are needed. All of it is done in place, a few rows at a
time: what is held is the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from chronos.chronos2.layers import (
    MHA,
    MLP,
    Chronos2LayerNorm,
    Chronos2RotaryEmbedding,
    FeedForward,
    GroupSelfAttention,
    ResidualBlock,
    TimeSelfAttention,
)
from chronos.chronos2.model import Chronos2Encoder, Chronos2EncoderBlock
from chronos.chronos_bolt import InstanceNorm, Patch
from torch import Tensor, nn

from flowrank.engine.chunks import budget_on
from flowrank.engine.feed_forward import normalised
from flowrank.engine.packing import Packed, by_count
from flowrank.engine.paths import Engine
from flowrank.errors import FlowrankError
from flowrank.families._patch_block import patch_block
from flowrank.families.chronos2.attention import NarrowMHA
from flowrank.families.chronos2.block import NarrowMLP, NarrowResidualBlock
from flowrank.families.chronos2.layers import GroupLayer, Places, TimeLayer, feed_forward_of
from flowrank.families.chronos2.rotary import frequencies

_STREAMS = 4  # what is held of a token, in units of the residual stream


@dataclass(frozen=True)
class Inputs:
    """Series of whole groups, as the model reads them.

    Attributes
    ----------
    context
        Shape (series, time), fp32; NaN where nothing was observed.
    groups
        Shape (series,): series of one number are forecast together.
    future
        Shape (series, steps): values known ahead, NaN elsewhere; None: none are known.
    """

    context: Tensor
    groups: Tensor
    future: Tensor | None

    def some(self, rows: Tensor) -> Inputs:
        """Those series."""
        return Inputs(self.context[rows], self.groups[rows], None if self.future is None else self.future[rows])


class Chronos2Engine(Engine):
    """Exact fast forecasts of one Chronos-2 model, dense or compressed."""

    computed = (
        *(MHA, NarrowMHA, MLP, NarrowMLP, ResidualBlock, NarrowResidualBlock, Patch, InstanceNorm),
        *(Chronos2Encoder, Chronos2EncoderBlock, TimeSelfAttention, GroupSelfAttention, FeedForward),
        *(Chronos2LayerNorm, Chronos2RotaryEmbedding),
    )
    with_biases = (ResidualBlock, NarrowResidualBlock)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.reads, self.writes = patch_block(model.input_patch_embedding), patch_block(model.output_patch_embedding)
        blocks = [block.layer for block in model.encoder.block]
        self.layers = [(TimeLayer(time), GroupLayer(group), feed_forward_of(last)) for time, group, last in blocks]

    @classmethod
    def knows(cls, model: Any) -> bool:
        """Whether it computes all that the model does; one without a register token fails in the stock code too."""
        return bool(model.chronos_config.use_reg_token) and super().knows(model)

    @torch.inference_mode()
    def quantiles(self, inputs: Inputs, patches: int, *, memory_budget: int | None = None) -> Tensor:
        """Forecast some output patches in one pass.

        Parameters
        ----------
        inputs
            Series; groups stay together.
        patches
            Output patches.
        memory_budget
            Bytes for activations; groups go through in chunks that fit. None: the default of the device, which a
            larger group may exceed.

        Returns
        -------
        Tensor
            Shape (series, quantiles, patches · patch size), fp32.

        Raises
        ------
        FlowrankError
            If a group of several series does not fit into ``memory_budget``.
        """
        model, config = self.model, self.model.chronos_config
        context = inputs.context[:, -config.context_length :]
        inputs = Inputs(context, inputs.groups, inputs.future)
        visible = model.patch(context).isnan().logical_not().any(dim=-1)
        tokens = visible.sum(dim=1) + 1 + patches
        most = self._tokens_at_once(memory_budget)
        if memory_budget is not None:
            self._check_groups(inputs.groups, tokens, most, memory_budget)
        size = patches * config.output_patch_size
        result = context.new_empty(len(context), len(config.quantiles), size)
        for rows in chunks(inputs.groups, tokens, most):
            rows = rows[by_count(visible[rows])]
            result[rows] = self._chunk(inputs.some(rows), visible[rows], patches)
        return result

    @property
    def _bytes_a_token(self) -> int:
        """What the stream holds of a token, and what a layer adds to it."""
        return _STREAMS * int(self.model.config.d_model) * int(self.model.dtype.itemsize)

    def _tokens_at_once(self, memory_budget: int | None) -> int:
        """Tokens that fit the budget."""
        return max(1, budget_on(self.model.device, memory_budget) // self._bytes_a_token)

    def _check_groups(self, groups: Tensor, tokens: Tensor, most: int, memory_budget: int) -> None:
        """Refuse a group of several series with more tokens than fit; a single series always runs."""
        sizes, series = tokens_of_groups(groups, tokens)
        too_large = (sizes > most) & (series > 1)
        if not too_large.any():
            return
        worst = int((sizes * too_large).argmax())
        need = int(sizes[worst]) * self._bytes_a_token
        raise FlowrankError(
            "memory_budget",
            expected=f"at least {need:,} bytes for a group of {int(series[worst])} series, {int(sizes[worst])} tokens",
            found=f"{memory_budget:,}",
            todo=f"pass memory_budget={need}, or None; or forecast smaller groups, e.g. with a smaller batch_size "
            "where cross_learning=True makes a batch one group",
        )

    def _chunk(self, inputs: Inputs, visible: Tensor, patches: int) -> Tensor:
        model = self.model
        first = int(visible.any(dim=0).int().argmax()) if visible.any() else visible.shape[1]
        scaled, loc_scale = model.instance_norm(inputs.context)
        if not loc_scale[0].isfinite().all():  # what no scale can hold is no missing value
            scaled = scaled.masked_fill(scaled.isnan() & inputs.context.isnan().logical_not(), torch.inf)
        visible = visible[:, first:]
        seen = torch.cat([visible, visible.new_ones(len(visible), 1 + patches)], dim=1)
        packed = Packed.of(seen, apart=False)
        x = self._embedded(model.patch(scaled.to(model.dtype))[:, first:], inputs, loc_scale, packed, patches)
        places = Places.of(packed, inputs.groups, frequencies(model.config), x.dtype, ahead=patches)
        for time, group, feed_forward in self.layers[:-1]:
            time.add(x, places)
            group.add(x, places.neighbours)
            feed_forward.add(x)
        time, group, feed_forward = self.layers[-1]
        x = time.ahead(x, places)
        group.add(x, places.neighbours_ahead)
        feed_forward.add(x)
        x = normalised(x, model.encoder.final_layer_norm)
        outputs = self.writes(x).float()
        shape = (-1, patches, model.num_quantiles, model.chronos_config.output_patch_size)
        quantiles = outputs.view(shape).transpose(1, 2).flatten(1)
        return model.instance_norm.inverse(quantiles, loc_scale).unflatten(1, (model.num_quantiles, -1))

    def _embedded(
        self, context: Tensor, inputs: Inputs, loc_scale: tuple[Tensor, Tensor], packed: Packed, patches: int
    ) -> Tensor:
        """Embed kept patches of the past (series, patches, size), register tokens and the future: (tokens, d)."""
        model = self.model
        past = context.shape[1]
        is_past, is_ahead = packed.positions < past, packed.positions > past
        kept = context[packed.rows[is_past], packed.positions[is_past]]
        clock = _clock(model, -past, 0)[packed.positions[is_past]]
        x = kept.new_empty(len(packed.positions), model.config.d_model)
        x[is_past] = self.reads(_features(clock, kept))
        clock = _clock(model, 0, patches)
        if inputs.future is None:
            unknown = clock.new_full(clock.shape, torch.nan)
            x[is_ahead] = self.reads(_features(clock, unknown)).repeat(packed.series, 1)
        else:
            ahead = self._ahead(inputs.future, loc_scale, patches).flatten(0, 1)
            x[is_ahead] = self.reads(_features(clock.repeat(packed.series, 1), ahead))
        x[packed.positions == past] = model.shared.weight[model.config.reg_token_id].detach()
        return x

    def _ahead(self, future: Tensor, loc_scale: tuple[Tensor, Tensor], patches: int) -> Tensor:
        """Known values as patches (series, patches, size), NaN where unknown."""
        model = self.model
        size = model.chronos_config.output_patch_size
        scaled, _ = model.instance_norm(future, loc_scale)
        scaled = scaled[:, : patches * size].to(model.dtype)
        scaled = nn.functional.pad(scaled, (0, patches * size - scaled.shape[1]), value=torch.nan)
        return scaled.unflatten(1, (patches, size))


def _clock(model: Any, start: int, end: int) -> Tensor:
    """Time of every step of patches ``start`` … ``end``, (patches, size), counted from the first step ahead."""
    config = model.chronos_config
    size = config.input_patch_size
    steps = torch.arange(start * size, end * size, device=model.device, dtype=torch.float32)
    return (steps / config.time_encoding_scale).to(model.dtype).unflatten(0, (-1, size))


def _features(clock: Tensor, values: Tensor) -> Tensor:
    """What the model embeds of patches: time, values and which of them are known."""
    missing = values.isnan()
    return torch.cat([clock, values.masked_fill(missing, 0.0), missing.logical_not().to(values.dtype)], dim=1)


def chunks(groups: Tensor, tokens: Tensor, most: int) -> Sequence[Tensor]:
    """Indices of series, chunk by chunk: groups are whole, those of like length together.

    Parameters
    ----------
    groups
        Shape (series,), a number for each group.
    tokens
        Shape (series,), tokens of each series.
    most
        Tokens of a chunk at most; a group of more is a chunk by itself.

    Examples
    --------
    >>> [one.tolist() for one in chunks(torch.tensor([0, 1, 0, 2]), torch.tensor([2, 5, 2, 1]), 5)]
    [[3, 0, 2], [1]]
    """
    _, number = groups.unique(return_inverse=True)
    size, counts = tokens_of_groups(groups, tokens)
    each = (size / counts)[number]
    order = number.argsort(stable=True)
    order = order[each[order].argsort(stable=True)]
    found: list[Tensor] = []
    start, held = 0, 0
    lengths, numbers = size.tolist(), number[order].tolist()
    for index, one in enumerate(numbers):
        if index and one == numbers[index - 1]:
            continue
        if index > start and held + lengths[one] > most:
            found.append(order[start:index])
            start, held = index, 0
        held += lengths[one]
    found.append(order[start:])
    return found


def tokens_of_groups(groups: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and series of each group (groups,), by rising number, of series (series,) with so many tokens each.

    Examples
    --------
    >>> [one.tolist() for one in tokens_of_groups(torch.tensor([7, 1, 7]), torch.tensor([2, 5, 3]))]
    [[5, 5], [1, 2]]
    """
    _, number, counts = groups.unique(return_inverse=True, return_counts=True)
    return torch.zeros(len(counts), dtype=torch.long, device=groups.device).index_add_(0, number, tokens), counts
