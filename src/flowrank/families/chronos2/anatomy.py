"""The layers of a Chronos-2 model, as plain data."""

from __future__ import annotations

from typing import Any

from flowrank.anatomy import Anatomy, Attention, Block, Ends, Mlp, Positions, Projection, Sublayer
from flowrank.families._patch_block import READS, RESIDUAL, WRITES
from flowrank.families.chronos2.attention import NarrowMHA, heads_of
from flowrank.families.chronos2.block import FEED_FORWARD
from flowrank.families.chronos2.model import GROUP, TIME
from flowrank.families.chronos2.rotary import frequencies
from flowrank.nn.shapes import Shapes

_FEED_FORWARD = 2


def anatomy_of(model: Any) -> Anatomy:
    """Every block of a model's encoder, and its patch blocks."""
    config = model.config
    univariate = Shapes.of(config).univariate
    blocks = []
    for number, block in enumerate(model.encoder.block):
        place = f"encoder.block.{number}"
        time, group, last = block.layer
        sublayers = (
            _attention(f"{place}.layer.{TIME}", time, number, config, single_key=False),
            _attention(f"{place}.layer.{GROUP}", group, number, config, single_key=univariate),
            _feed_forward(f"{place}.layer.{_FEED_FORWARD}", last, number, config),
        )
        blocks.append(Block("encoder", number, block, sublayers))
    depth = len(blocks)

    def end(name: str, layer: int, depth: int) -> Mlp:
        block = model.get_submodule(name)
        return Mlp(name, "encoder", layer, depth, config.d_model, (READS,), WRITES, RESIDUAL, block)

    first = end("input_patch_embedding", -1, 0)
    return Anatomy(tuple(blocks), Ends(first, end("output_patch_embedding", depth, depth)))


def _attention(place: str, wrapper: Any, number: int, config: Any, *, single_key: bool) -> Sublayer:
    layer: Any = wrapper.self_attention
    over_time = bool(layer.use_rope)
    name = f"{place}.self_attention"
    active, query_widths, value_widths = heads_of(layer)
    turning = tuple(frequencies(config).tolist())
    projections = {one: Projection(getattr(layer, one), f"{name}.{one}") for one in "qkvo"}
    return Sublayer(
        "self" if over_time else "group",
        wrapper.layer_norm,
        attention=Attention(
            name,
            "encoder",
            "self" if over_time else "group",
            number,
            number,
            layer,
            query=projections["q"],
            key=projections["k"],
            value=projections["v"],
            output=projections["o"],
            active=active,
            query_widths=query_widths,
            value_widths=value_widths,
            d_model=config.d_model,
            all_heads=config.num_heads,
            d_kv=config.d_kv,
            positions=Positions("rotary", frequencies=turning, separable=True) if over_time else Positions(),
            single_key=single_key,
            planes=_planes(layer),
        ),
        name=place,
    )


def _planes(layer: Any) -> tuple[tuple[int, ...], ...]:
    """Planes in which each active head turns; (): all of them, and no other feature."""
    narrowed = isinstance(layer, NarrowMHA) and any(2 * len(one) < layer.kv_proj_dim for one in layer.planes)
    return tuple(layer.planes) if narrowed else ()


def _feed_forward(place: str, wrapper: Any, number: int, config: Any) -> Sublayer:
    reads, writes = FEED_FORWARD
    mlp = Mlp(f"{place}.mlp", "encoder", number, number, config.d_model, (reads,), writes, None, wrapper.mlp)
    return Sublayer("mlp", wrapper.layer_norm, mlp=mlp, name=place)
