"""Sizes of a model's layers, and the key of its config in which they stand.

Any Hugging Face config may hold them, under ``flowrank``: ``{"version": 1, "family": …, "attention": {layer: shape},
"mlp": {layer: shape}, "vocabulary": {part: rank}, "int8": [layers]}``. Layers that are not named are as the rest of the
config says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flowrank.errors import FlowrankError, is_number

KEY = "flowrank"
VERSION = 1
PROJECTIONS = ("q", "k", "v", "o")
VOCABULARY = ("embedding", "head")

_RESTORE = "restore config.json from the machine that compressed the model"


@dataclass(frozen=True)
class AttentionShape:
    """Widths of one attention layer.

    Attributes
    ----------
    d_qk, d_vo
        Width of every head in the query/key and the value/output product, one entry a head. A head with
        ``d_vo = 0`` is gone; a head with ``d_qk = 0`` attends by positions only.
    ranks
        Inner rank of each of the projections "q", "k", "v", "o" that is stored as two factors.
    planes
        Of rotary attention: the planes in which queries and keys of each head turn, one tuple of numbers a head. The
        first features of a head are the first coordinates of its planes, the next ones their second coordinates; what
        is left of its ``d_qk`` features does not turn. (): as many planes as fit, the fastest first.
    merged
        Whether W_V and W_O are one matrix, of as many features as the model is wide, since nothing stands between them.

    Examples
    --------
    >>> shape = AttentionShape(d_qk=(8, 8), d_vo=(8, 4), ranks={"o": 3})
    >>> shape.parameters(d_model=16)
    {'q': 256, 'k': 256, 'v': 192, 'o': 84}
    """

    d_qk: tuple[int, ...]
    d_vo: tuple[int, ...]
    ranks: dict[str, int]
    planes: tuple[tuple[int, ...], ...] = ()
    merged: bool = False

    @classmethod
    def dense(cls, heads: int, d_kv: int) -> AttentionShape:
        """Shape of a stock layer: every head ``d_kv`` wide, every projection one matrix."""
        return cls((d_kv,) * heads, (d_kv,) * heads, {})

    @classmethod
    def from_dict(cls, raw: Any, *, where: str) -> AttentionShape:
        """Read a shape from a config, refusing what cannot be one.

        Raises
        ------
        FlowrankError
            If widths are missing, negative, not integers, or not as many of queries as of values.
        """
        expected = f"d_qk and d_vo, as many non-negative integers each as there are heads, and ranks of {PROJECTIONS}"
        try:
            widths = {name: tuple(raw[name]) for name in ("d_qk", "d_vo")}
            ranks = dict(raw.get("ranks", {}))
            planes = tuple(tuple(one) for one in raw.get("planes", ()))
            merged = raw.get("merged", False)
            numbers = [*widths["d_qk"], *widths["d_vo"], *ranks.values(), *(n for one in planes for n in one)]
            sound = all(isinstance(n, int) and n >= 0 for n in numbers) and set(ranks) <= set(PROJECTIONS)
            if not sound or len(widths["d_qk"]) != len(widths["d_vo"]) or not isinstance(merged, bool):
                raise ValueError
            if planes and (len(planes) != len(widths["d_qk"]) or not _fit(planes, widths["d_qk"])):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FlowrankError(
                f"config.json flowrank.attention[{where!r}]",
                expected=expected,
                found=raw,
                todo=_RESTORE,
            ) from None
        return cls(widths["d_qk"], widths["d_vo"], ranks, planes, merged)

    def check(self, heads: int, *, where: str) -> AttentionShape:
        """Return it, if it is of a layer with so many heads.

        Raises
        ------
        FlowrankError
            If it is not.
        """
        if len(self.d_qk) != heads:
            raise FlowrankError(
                f"config.json flowrank.attention[{where!r}]",
                expected=f"d_qk and d_vo of {heads} heads",
                found=self.to_dict(),
                todo=_RESTORE,
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by :meth:`from_dict`."""
        raw = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        raw["planes"] = [list(one) for one in self.planes]
        return {key: value for key, value in raw.items() if key not in ("planes", "merged") or value}

    def parameters(self, d_model: int) -> dict[str, int]:
        """Parameters of each projection."""
        counts = {}
        for name in PROJECTIONS:
            if self.merged and name == "o":
                counts[name] = 0
                continue
            width = sum(self.d_qk if name in "qk" else self.d_vo)
            counts[name] = (d_model + width) * self.ranks[name] if name in self.ranks else d_model * width
        return counts


def _fit(planes: Sequence[Sequence[int]], widths: Sequence[int]) -> bool:
    """Whether the planes of each head are rising and fit into its features."""
    pairs = zip(planes, widths, strict=True)
    return all(list(one) == sorted(set(one)) and 2 * len(one) <= width for one, width in pairs)


@dataclass(frozen=True)
class MlpShape:
    """Width of one feed-forward layer, or of one residual block.

    Attributes
    ----------
    width
        Hidden neurons. Without any, a feed-forward layer does nothing, and of a residual block the residual path and
        the output's bias remain.
    ranks
        Inner rank of each of its linear layers that is stored as two factors.

    Examples
    --------
    >>> sizes = {"wi": (16, 10), "wo": (10, 16)}
    >>> MlpShape(width=10, ranks={"wo": 3}).parameters(sizes)
    {'wi': 160, 'wo': 78}
    """

    width: int
    ranks: dict[str, int]

    @classmethod
    def dense(cls, width: int) -> MlpShape:
        """Shape of a stock layer: every linear layer one matrix."""
        return cls(width, {})

    @classmethod
    def from_dict(cls, raw: Any, *, where: str) -> MlpShape:
        """Read a shape from a config, refusing what cannot be one.

        Raises
        ------
        FlowrankError
            If the width is missing, or a number is negative or not an integer.
        """
        try:
            width, ranks = raw["width"], dict(raw.get("ranks", {}))
            if not all(is_number(n, 0, kinds=int) for n in (width, *ranks.values())):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FlowrankError(
                f"config.json flowrank.mlp[{where!r}]",
                expected="width and ranks of its linear layers, non-negative integers",
                found=raw,
                todo=_RESTORE,
            ) from None
        return cls(width, ranks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by :meth:`from_dict`."""
        return asdict(self)

    def check(self, layers: Sequence[str], *, where: str) -> MlpShape:
        """Return it, if its ranks are of these linear layers.

        Raises
        ------
        FlowrankError
            If a rank is of another layer.
        """
        if not set(self.ranks) <= set(layers):
            raise FlowrankError(
                f"config.json flowrank.mlp[{where!r}]",
                expected=f"ranks of {tuple(layers)}",
                found=self.to_dict(),
                todo=_RESTORE,
            )
        return self

    def parameters(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Parameters of each linear layer, biases apart, by its features in and out."""
        return {name: (m + n) * self.ranks[name] if name in self.ranks else m * n for name, (m, n) in sizes.items()}


@dataclass(frozen=True)
class Shapes:
    """Sizes of the layers of a model that differ from what the rest of its config says, by name.

    Attributes
    ----------
    attention, mlp
        By the dotted name of a layer.
    vocabulary
        Inner ranks of the "embedding" and the "head", where they are two factors. If either is given, the two share
        nothing.
    int8
        Linear layers whose weights are 8-bit integers.
    univariate
        Whether the model reads series one by one: layers that attend to other series see one key.

    Examples
    --------
    >>> Shapes.read({"version": 1, "mlp": {"layer": {"width": 3}}}).mlp["layer"].width
    3
    """

    attention: dict[str, AttentionShape] = field(default_factory=dict)
    mlp: dict[str, MlpShape] = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)
    int8: tuple[str, ...] = ()
    univariate: bool = False

    @classmethod
    def read(cls, raw: Any) -> Shapes:
        """Read what a config holds under ``flowrank``; None: nothing differs.

        Raises
        ------
        FlowrankError
            If it is of a later version, or not what flowrank writes.
        """
        if raw is None:
            return cls()
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            version = raw.get("version") if isinstance(raw, dict) else raw
            raise FlowrankError(
                "config.json flowrank.version",
                expected=str(VERSION),
                found=repr(version),
                todo="pip install --upgrade flowrank",
            )
        attention = {
            name: AttentionShape.from_dict(one, where=name)
            for name, one in _entries(raw, "attention").items()
            if one is not None
        }
        mlps = _entries(raw, "mlp").items()
        mlp = {name: MlpShape.from_dict(one, where=name) for name, one in mlps if one is not None}
        univariate = raw.get("univariate", False) is True
        return cls(attention, mlp, _ranks(_entries(raw, "vocabulary")), _names(raw.get("int8") or []), univariate)

    @classmethod
    def of(cls, config: Any) -> Shapes:
        """Sizes that a config holds."""
        return cls.read(getattr(config, KEY, None))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by :meth:`read`."""
        return {
            "version": VERSION,
            "attention": {name: one.to_dict() for name, one in self.attention.items()},
            "mlp": {name: one.to_dict() for name, one in self.mlp.items()},
            "vocabulary": dict(self.vocabulary),
            "int8": list(self.int8),
            **({"univariate": True} if self.univariate else {}),
        }

    def updated(self, other: Shapes) -> Shapes:
        """With those of another in place of its own, layer by layer."""
        return Shapes(
            {**self.attention, **other.attention},
            {**self.mlp, **other.mlp},
            {**self.vocabulary, **other.vocabulary},
            other.int8 or self.int8,
            self.univariate or other.univariate,
        )


def _entries(raw: dict[str, Any], key: str) -> dict[str, Any]:
    found = raw.get(key)
    if found is not None and not isinstance(found, dict):
        raise FlowrankError(
            f"config.json flowrank.{key}", expected="a mapping by name", found=repr(found), todo=_RESTORE
        )
    return found or {}


def _ranks(ranks: dict[str, Any]) -> dict[str, int]:
    if not set(ranks) <= set(VOCABULARY) or not all(is_number(rank, 1, kinds=int) for rank in ranks.values()):
        raise FlowrankError(
            "config.json flowrank.vocabulary",
            expected=f"positive integers for any of {VOCABULARY}",
            found=ranks,
            todo=_RESTORE,
        )
    return dict(ranks)


def _names(layers: Any) -> tuple[str, ...]:
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise FlowrankError(
            "config.json flowrank.int8", expected="names of linear layers", found=repr(layers), todo=_RESTORE
        )
    return tuple(layers)
