"""The config of a compressed T5: one shape for each attention and feed-forward layer, and ranks of the vocabulary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from flowrank.errors import FlowrankError

PROJECTIONS = ("q", "k", "v", "o")
FEED_FORWARD = ("wi", "wo")
GATED_FEED_FORWARD = ("wi_0", "wi_1", "wo")
RESIDUAL_BLOCK = ("hidden_layer", "output_layer", "residual_layer")
VOCABULARY = ("embedding", "head")

_RESTORE = "restore config.json from the machine that compressed the model"


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
                todo=_RESTORE,
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


@dataclass(frozen=True)
class MlpShape:
    """Width of one feed-forward layer, or of one residual block of Chronos-Bolt.

    Attributes
    ----------
    width
        Hidden neurons. Without any, a feed-forward layer does nothing, and of a residual block the residual path and
        the output's bias remain.
    ranks
        Inner rank of each of its linear layers that is stored as two factors.

    Examples
    --------
    >>> MlpShape(width=10, ranks={"wo": 3}).parameters(16, 16, FEED_FORWARD)
    {'wi': 160, 'wo': 78}
    """

    width: int
    ranks: dict[str, int]

    @classmethod
    def dense(cls, width: int) -> MlpShape:
        """Shape of a stock layer: every linear layer one matrix."""
        return cls(width, {})

    @classmethod
    def from_dict(cls, raw: Any, *, where: str, layers: tuple[str, ...]) -> MlpShape:
        """Read a shape from a config, refusing what cannot be one.

        Parameters
        ----------
        raw
            What the config holds.
        where
            Name of the module.
        layers
            Names of its linear layers.

        Raises
        ------
        FlowrankError
            If the width is missing, or a number is negative or not an integer, or a rank is of another layer.
        """
        try:
            width, ranks = raw["width"], dict(raw.get("ranks", {}))
            if not all(_is_size(n) for n in (width, *ranks.values())) or not set(ranks) <= set(layers):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FlowrankError(
                f"config.json mlp_shapes[{where!r}]",
                expected=f"width and ranks of {layers}, non-negative integers",
                found=raw,
                todo=_RESTORE,
            ) from None
        return cls(width, ranks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by :meth:`from_dict`."""
        return asdict(self)

    def sizes(self, inputs: int, outputs: int, layers: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """Features in and out of each linear layer of a module that maps ``inputs`` to ``outputs`` features."""
        ends = {"wo": (self.width, outputs), "output_layer": (self.width, outputs), "residual_layer": (inputs, outputs)}
        return {name: ends.get(name, (inputs, self.width)) for name in layers}

    def parameters(self, inputs: int, outputs: int, layers: tuple[str, ...]) -> dict[str, int]:
        """Parameters of each linear layer, biases apart."""
        return {
            name: (m + n) * self.ranks[name] if name in self.ranks else m * n
            for name, (m, n) in self.sizes(inputs, outputs, layers).items()
        }


@dataclass(frozen=True)
class LayerNames:
    """Dotted names of the layers of a T5 model, block by block.

    Examples
    --------
    >>> LayerNames.of(1, 1).cross
    ('decoder.block.0.layer.1.EncDecAttention',)
    """

    encoder: tuple[str, ...]
    encoder_mlps: tuple[str, ...]
    own: tuple[str, ...]
    cross: tuple[str, ...]
    decoder_mlps: tuple[str, ...]

    @classmethod
    def of(cls, num_layers: int, num_decoder_layers: int) -> LayerNames:
        """By the blocks of the encoder and of the decoder."""

        def named(stack: str, blocks: int, layer: str) -> tuple[str, ...]:
            return tuple(f"{stack}.block.{i}.layer.{layer}" for i in range(blocks))

        return cls(
            named("encoder", num_layers, "0.SelfAttention"),
            named("encoder", num_layers, "1.DenseReluDense"),
            named("decoder", num_decoder_layers, "0.SelfAttention"),
            named("decoder", num_decoder_layers, "1.EncDecAttention"),
            named("decoder", num_decoder_layers, "2.DenseReluDense"),
        )


def mlp_linears(layer: str, *, gated: bool) -> tuple[str, ...]:
    """Names of the linear layers of the feed-forward layer or residual block of that name."""
    if layer.rpartition(".")[2] != "DenseReluDense":
        return RESIDUAL_BLOCK
    return GATED_FEED_FORWARD if gated else FEED_FORWARD


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


@strict
class CompressedT5Config(T5Config):
    r"""T5 config in which every layer has its own widths.

    attention_shapes (`dict`, *optional*):
        Maps the name of an attention layer, e.g. ``"encoder.block.0.layer.0.SelfAttention"``, to its
        ``d_qk``, ``d_vo`` and ``ranks`` (see `AttentionShape`). Layers not named are dense.
    mlp_shapes (`dict`, *optional*):
        Maps the name of a feed-forward layer, e.g. ``"encoder.block.0.layer.1.DenseReluDense"``, or of a residual
        block, ``"input_patch_embedding"`` or ``"output_patch_embedding"``, to its ``width`` and ``ranks`` (see
        `MlpShape`). Layers not named are dense.
    vocabulary_ranks (`dict`, *optional*):
        Inner ranks of ``"embedding"`` and ``"head"``, where they are two factors (Chronos-T5 only). If either is
        given, the two share nothing.
    quantization (`dict`, *optional*):
        ``{"weights": "int8", "layers": [...]}``: the linear layers, by name, whose weights are 8-bit integers (see
        `flowrank.quantize`).
    """

    model_type = "flowrank_t5"

    attention_shapes: dict[str, Any] | None = None
    mlp_shapes: Any = None
    vocabulary_ranks: Any = None
    quantization: Any = None

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

    def mlp_shape_of(self, layer: str, width: int) -> MlpShape:
        """Shape of the feed-forward layer or residual block of that name; ``width`` wide if the config has none.

        Raises
        ------
        FlowrankError
            If the config holds something for it that is not a shape.
        """
        raw = self.entries("mlp_shapes").get(layer)
        if raw is None:
            return MlpShape.dense(width)
        return MlpShape.from_dict(raw, where=layer, layers=mlp_linears(layer, gated=self.is_gated_act))

    def vocabulary_rank_of(self, part: str) -> int | None:
        """Inner rank of the "embedding" or the "head"; None where it is one matrix.

        Raises
        ------
        FlowrankError
            If the config holds something else than positive integers for these two.
        """
        ranks = self.entries("vocabulary_ranks")
        if not set(ranks) <= set(VOCABULARY) or not all(_is_size(rank) and rank > 0 for rank in ranks.values()):
            raise FlowrankError(
                "config.json vocabulary_ranks",
                expected=f"positive integers for any of {VOCABULARY}",
                found=ranks,
                todo=_RESTORE,
            )
        return ranks.get(part)

    def entries(self, key: str) -> dict[str, Any]:
        """What ``mlp_shapes`` or ``vocabulary_ranks`` holds, by name.

        Raises
        ------
        FlowrankError
            If it is no mapping.
        """
        raw = getattr(self, key)
        if raw is not None and not isinstance(raw, dict):
            raise FlowrankError(f"config.json {key}", expected="a mapping by name", found=repr(raw), todo=_RESTORE)
        return raw or {}
