"""Chronos-2 with layers of their own widths."""

from __future__ import annotations

from typing import Any

from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.layers import MHA, MLP, ResidualBlock
from chronos.chronos2.model import Chronos2Model
from torch import nn
from transformers import AutoModel

from flowrank.errors import FlowrankError
from flowrank.families._patch_block import READS, RESIDUAL, WRITES
from flowrank.families.chronos2.attention import NarrowMHA, planes_of
from flowrank.families.chronos2.block import FEED_FORWARD, NarrowMLP, NarrowResidualBlock
from flowrank.nn.config import NarrowConfig
from flowrank.nn.narrowed import NarrowModel, is_real
from flowrank.nn.shapes import AttentionShape, MlpShape, Shapes

TIME, GROUP = 0, 1
"""Places of the two kinds of attention in a block."""


class NarrowChronos2Config(NarrowConfig, Chronos2CoreConfig):
    """Config of a `NarrowChronos2`."""

    model_type = "flowrank_chronos2"
    family = "chronos-2"
    tripwire = "feed_forward_proj"

    def __init__(self, flowrank: Any = None, **kwargs: Any) -> None:
        self.flowrank = flowrank
        super().__init__(**kwargs)


class NarrowChronos2(NarrowModel, Chronos2Model):
    """Chronos-2 with layers of their own widths."""

    config_class = NarrowChronos2Config

    def narrow_attention(self, layer: nn.Module, shape: AttentionShape, name: str) -> nn.Module:
        """Make the attention layer that stands in for a stock one."""
        if not isinstance(layer, MHA):
            return super().narrow_attention(layer, shape, name)
        config = layer.config  # a copy of ours
        shape.check(config.num_heads, where=name)
        over_time = layer.use_rope
        _check_planes(shape, config, over_time, name)
        single = not over_time and Shapes.of(self.config).univariate
        made = NarrowMHA(config, shape, use_rope=over_time, single_key=single)
        if is_real(made):
            made.initialise(self.config.initializer_factor)
        return made

    def narrow_mlp(self, layer: nn.Module, shape: MlpShape, name: str) -> nn.Module:
        """Make the feed-forward layer or patch block that stands in for a stock one."""
        made: NarrowMLP | NarrowResidualBlock
        if isinstance(layer, MLP):
            made = NarrowMLP(self.config, shape.check(FEED_FORWARD, where=name))
        elif isinstance(layer, ResidualBlock):
            sizes = layer.hidden_layer.in_features, layer.output_layer.out_features
            made = NarrowResidualBlock(self.config, shape.check((READS, WRITES, RESIDUAL), where=name), *sizes)
        else:
            return super().narrow_mlp(layer, shape, name)
        if is_real(made):
            made.initialise(self.config)
        return made


def _check_planes(shape: AttentionShape, config: Any, over_time: bool, name: str) -> None:
    """Refuse planes that a layer does not have, and turning heads of several widths."""
    active = [head for head, width in enumerate(shape.d_vo) if width > 0]
    planes = planes_of(shape, config) if over_time else shape.planes
    sound = len({(shape.d_qk[head], len(planes[head])) for head in active}) <= 1 if over_time else not planes
    last = max((plane for head in active for plane in planes[head]), default=0) if over_time else 0
    fits = all(2 * len(planes[head]) <= shape.d_qk[head] for head in active) if over_time else True
    if not (sound and fits and last < config.d_kv // 2):
        raise FlowrankError(
            f"config.json flowrank.attention[{name!r}]",
            expected=f"for attention over time, heads of one width and as many planes below {config.d_kv // 2} each; "
            "for attention over a group, no planes",
            found=shape.to_dict(),
            todo="restore config.json from the machine that compressed the model",
        )


AutoModel.register(NarrowChronos2Config, NarrowChronos2)
