"""Chronos-2's attention, over time and over the series of a group, with heads of their own widths."""

from __future__ import annotations

from typing import Any

import torch
from chronos.chronos2.layers import MHA, AttentionOutput
from torch import Tensor, nn
from torch.nn.functional import pad

from flowrank.families.chronos2.rotary import frequencies, turned
from flowrank.nn.factored import Unchanged, draw, linear
from flowrank.nn.heads import HeadLayout
from flowrank.nn.shapes import AttentionShape


class NarrowMHA(MHA):
    """Attention with its own width for every head, and projections that may be two factors.

    Runs wherever a stock ``MHA`` runs. Heads whose value width is 0 are not computed at all.

    Parameters
    ----------
    config
        Of the model.
    shape
        Widths, planes and ranks.
    use_rope
        Whether queries and keys turn with their places.
    single_key
        Whether each token attends to itself alone, so that queries and keys are not computed.
    """

    def __init__(self, config: Any, shape: AttentionShape, *, use_rope: bool, single_key: bool = False) -> None:
        super().__init__(config, use_rope=False)
        self.use_rope, self.shape, self.single_key = use_rope, shape, single_key
        active = [head for head, width in enumerate(shape.d_vo) if width > 0]
        self.active_heads = active
        self.query_layout = HeadLayout([shape.d_qk[head] for head in active])
        self.value_layout = HeadLayout([shape.d_vo[head] for head in active])
        self.planes = [planes_of(shape, config)[head] for head in active] if use_rope else []
        for name in ("q", "k", "v", "o"):
            setattr(self, name, self._projection(name))

    def _projection(self, name: str) -> nn.Module:
        width = (self.query_layout if name in "qk" else self.value_layout).total
        if name == "o" and self.shape.merged:
            return Unchanged(self.d_model)
        reads, writes = (width, self.d_model) if name == "o" else (self.d_model, width)
        return linear(reads, writes, self.shape.ranks.get(name))

    @torch.no_grad()
    def initialise(self, factor: float) -> None:
        """Random weights as chronos-forecasting draws them, at this layer's own widths."""
        inner = max(1, self.value_layout.total)
        spread = {"q": (self.d_model * self.query_layout.widest) ** -0.5, "k": self.d_model**-0.5}
        spread |= {"v": self.d_model**-0.5, "o": inner**-0.5}
        for name, std in spread.items():
            projection = getattr(self, name)
            if 0 not in (projection.in_features, projection.out_features):
                draw(projection, factor * std)

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor,
        encoder_states: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool = False,
    ) -> AttentionOutput:
        """Attend from tokens (B, L, d) to those of the same row; ``mask`` is added to the scores."""
        if not self.active_heads or self.single_key:
            nothing = not self.active_heads
            output = torch.zeros_like(hidden_states) if nothing else self.o(self.v(hidden_states))
            weights = hidden_states.new_ones(1, 1, 1, 1) if output_attentions else None
            return AttentionOutput(hidden_states=output, attn_weights=weights)
        query = self.query_layout.split(self.q(hidden_states))
        key = self.query_layout.split(self.k(hidden_states))
        value = self.value_layout.split(self.v(hidden_states))
        if self.use_rope:
            assert position_ids is not None
            cosines, sines = self._angles(position_ids, query.dtype)
            query, key = turned(query, cosines, sines), turned(key, cosines, sines)
        width = value.shape[-1]
        if output_attentions or self.config._attn_implementation == "eager":
            read, weights = self._eager_attention(query, key, value, mask)
        else:  # the fused kernels want queries and values of one width
            widest = max(query.shape[-1], width)
            query, key, value = (pad(one, (0, widest - one.shape[-1])) for one in (query, key, value))
            read, weights = self._sdpa_attention(query, key, value, mask)
        output = self.o(self.value_layout.join(read[..., :width].transpose(1, 2)))
        return AttentionOutput(hidden_states=output, attn_weights=weights if output_attentions else None)

    def _angles(self, places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, heads, L, planes) of the angles at places (B, L)."""
        each = frequencies(self.config)[torch.tensor(self.planes, dtype=torch.long)].to(places.device)
        angles = places[:, None, :, None].float() * each[None, :, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def planes_of(shape: AttentionShape, config: Any) -> tuple[tuple[int, ...], ...]:
    """Planes in which each head turns: what its shape says, else as many as fit into it, the fastest first."""
    return shape.planes or tuple(tuple(range(min(width, config.d_kv) // 2)) for width in shape.d_qk)


def heads_of(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The heads that a layer computes, and the width of each in queries and in values."""
    if not isinstance(layer, NarrowMHA):
        widths = (layer.kv_proj_dim,) * layer.n_heads
        return tuple(range(layer.n_heads)), widths, widths
    return tuple(layer.active_heads), layer.query_layout.widths, layer.value_layout.widths
