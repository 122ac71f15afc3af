"""Rank schedules: the head width of every attention layer of a model that is pretrained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.nn.shapes import AttentionShape
from flowrank.solving import largest


@dataclass(frozen=True)
class Widths:
    """Explicit head widths.

    Attributes
    ----------
    widths
        One width for each layer number. Self-attention of layer i, of the encoder and of the decoder, has number i;
        cross-attention of decoder layer i has number (encoder layers + i).

    Examples
    --------
    >>> Widths((4, 4, 8)).widths
    (4, 4, 8)
    """

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.widths or any(type(width) is not int or width < 1 for width in self.widths):
            raise FlowrankError("widths", expected="a width ≥ 1 for every layer", found=repr(self.widths))


Schedule = FlowOfRanks | Uniform | Widths


def layer_widths(schedule: Schedule | None, *, layers: int, decoder_layers: int, d_kv: int) -> tuple[int, ...]:
    """Head width at each layer number, ``layers + decoder_layers`` of them.

    Self-attention of layer i, of the encoder and of the decoder, counts as layer i, and cross-attention of decoder
    layer i as layer (``layers`` + i), as in the authors' code. A schedule with a ratio gives the widest heads whose
    parameters are at most that share of the dense ones, but one feature a head at least. No head is wider than
    ``d_kv``.

    Raises
    ------
    FlowrankError
        If explicit widths are not one a layer, or greater than ``d_kv``.

    Examples
    --------
    >>> layer_widths(FlowOfRanks(d0=3, alpha=0.5), layers=4, decoder_layers=2, d_kv=16)
    (3, 5, 6, 6, 7, 8)
    >>> layer_widths(Uniform(0.25), layers=4, decoder_layers=2, d_kv=16)
    (4, 4, 4, 4, 4, 4)
    """
    total = layers + decoder_layers
    if schedule is None:
        return (d_kv,) * total
    if isinstance(schedule, Widths):
        if len(schedule.widths) != total or max(schedule.widths) > d_kv:
            raise FlowrankError(
                "widths",
                expected=f"{total} widths (encoder layers + decoder layers), none above d_kv={d_kv}",
                found=repr(list(schedule.widths)),
            )
        return schedule.widths
    if isinstance(schedule, Uniform):
        return (max(1, int(schedule.ratio * d_kv + 1e-9)),) * total
    if schedule.d0 is not None:
        return tuple(min(d_kv, schedule.width(layer)) for layer in range(total))
    assert schedule.ratio is not None
    weights = [1 + (layer < decoder_layers) for layer in range(total)]  # attention layers of that number
    most = schedule.ratio * d_kv * sum(weights) + 1e-9

    def widths(d0: float) -> tuple[int, ...]:
        return tuple(min(d_kv, schedule.width(layer, d0)) for layer in range(total))

    def fits(d0: float) -> bool:
        return sum(width * n for width, n in zip(widths(d0), weights, strict=True)) <= most

    return widths(max(1e-6, largest(fits, 0.0, 2.0 * d_kv * total ** abs(schedule.alpha))))


def attention_shapes(
    widths: tuple[int, ...], named: Mapping[str, int], heads: int, *, rotary: Collection[str] = ()
) -> dict[str, AttentionShape]:
    """Shape of every attention layer whose heads have these widths.

    Where queries and keys turn with their places, half of a head's features do so, two to a plane, in the fastest
    planes: the slow ones hardly turn over the lengths that models read.

    Parameters
    ----------
    widths
        By layer number.
    named
        Layer number of every attention layer, by name.
    heads
        Of each.
    rotary
        Names of those whose queries and keys turn.

    Examples
    --------
    >>> attention_shapes((2, 3), {"first": 0, "second": 1}, heads=2)["second"].d_qk
    (3, 3)
    >>> attention_shapes((8,), {"only": 0}, heads=2, rotary={"only"})["only"].planes
    ((0, 1), (0, 1))
    """
    shapes = {name: AttentionShape.dense(heads, widths[depth]) for name, depth in named.items()}
    for name in rotary:
        width = widths[named[name]]
        turning = tuple(range(min(max(1, width // 4), width // 2)))
        shapes[name] = replace(shapes[name], planes=(turning,) * heads)
    return shapes


def schedule_to(schedule: Schedule | None) -> dict[str, Any] | None:
    """Plain values of a schedule, with the name of its class."""
    if schedule is None:
        return None
    plain = {key: value for key, value in asdict(schedule).items() if value is not None}
    return {"name": type(schedule).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}}


def schedule_from(raw: Any) -> Schedule | None:
    """Read what `schedule_to` gave, or pass a schedule on.

    Raises
    ------
    FlowrankError
        If it is neither.

    Examples
    --------
    >>> schedule_from({"name": "FlowOfRanks", "d0": 3, "alpha": 0.27})
    FlowOfRanks(d0=3, alpha=0.27, ratio=None, rounding='ceil')
    """
    if raw is None or isinstance(raw, FlowOfRanks | Uniform | Widths):
        return raw
    classes: dict[str, Any] = {"FlowOfRanks": FlowOfRanks, "Uniform": Uniform, "Widths": Widths}
    try:
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
        }
        return classes[str(options.pop("name"))](**options)
    except (AttributeError, KeyError, TypeError):
        raise FlowrankError(
            "schedule",
            expected=f"a name out of {list(classes)} with its options",
            found=repr(dict(raw) if isinstance(raw, Mapping) else raw),
            todo='write e.g. {"name": "FlowOfRanks", "d0": 3, "alpha": 0.27}',
        ) from None
