"""The config of a compressed T5: one shape for each attention layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from flowrank.errors import FlowrankError

PROJECTIONS = ("q", "k", "v", "o")


@dataclass(frozen=True)
class AttentionShape:
    """Widths of one attention layer.

    Attributes
    ----------
    d_qk, d_vo
        Width of every head in the query/key and the value/output product, one entry a head. A head with
        ``d_vo = 0`` is gone; a head with ``d_qk = 0`` looks at positions only.
    ranks
        Inner rank of each of the projections "q", "k", "v", "o" that is stored as two factors.

    Examples
    --------
    >>> shape = AttentionShape(d_qk=(8, 8), d_vo=(8, 4), ranks={"o": 3})
    >>> shape.parameters(d_model=16)
    {'q': 256, 'k': 256, 'v': 192, 'o': 84}
    """

    d_qk: tuple[int, ...]
    d_vo: tuple[int, ...]
    ranks: dict[str, int]

    @classmethod
    def dense(cls, heads: int, d_kv: int) -> AttentionShape:
        """Shape of a stock layer: every head ``d_kv`` wide, every projection one matrix."""
        return cls((d_kv,) * heads, (d_kv,) * heads, {})

    @classmethod
    def from_dict(cls, raw: Any, *, heads: int, where: str) -> AttentionShape:
        """Read a shape from a config, refusing what cannot be one.

        Raises
        ------
        FlowrankError
            If widths are missing, negative, not integers, or not one a head.
        """
        expected = f"d_qk and d_vo, {heads} non-negative integers each, and ranks of {PROJECTIONS}"
        try:
            widths = {name: tuple(raw[name]) for name in ("d_qk", "d_vo")}
            ranks = dict(raw.get("ranks", {}))
            numbers = [*widths["d_qk"], *widths["d_vo"], *ranks.values()]
            sound = all(isinstance(n, int) and n >= 0 for n in numbers) and set(ranks) <= set(PROJECTIONS)
            if not sound or any(len(w) != heads for w in widths.values()):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FlowrankError(
                f"config.json attention_shapes[{where!r}]",
                expected=expected,
                found=raw,
                todo="restore config.json from the machine that compressed the model",
            ) from None
        return cls(widths["d_qk"], widths["d_vo"], ranks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by :meth:`from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def parameters(self, d_model: int) -> dict[str, int]:
        """Parameters of each projection."""
        counts = {}
        for name in PROJECTIONS:
            width = sum(self.d_qk if name in "qk" else self.d_vo)
            counts[name] = (d_model + width) * self.ranks[name] if name in self.ranks else d_model * width
        return counts


@strict
class CompressedT5Config(T5Config):
    r"""T5 config in which every attention layer has its own widths.

    attention_shapes (`dict`, *optional*):
        Maps the name of an attention layer, e.g. ``"encoder.block.0.layer.0.SelfAttention"``, to its
        ``d_qk``, ``d_vo`` and ``ranks`` (see `AttentionShape`). Layers not named are dense.
    """

    model_type = "flowrank_t5"

    attention_shapes: dict[str, Any] | None = None

    def shape_of(self, layer: str) -> AttentionShape:
        """Shape of the attention layer of that name.

        Raises
        ------
        FlowrankError
            If the config holds something for it that is not a shape.
        """
        raw = (self.attention_shapes or {}).get(layer)
        if raw is None:
            return AttentionShape.dense(self.num_heads, self.d_kv)
        return AttentionShape.from_dict(raw, heads=self.num_heads, where=layer)
