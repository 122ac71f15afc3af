"""What has to be known of a graph to forecast with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flowrank.graphs.tokens import Tokens


@dataclass(frozen=True)
class Facts:
    """What a graph reads and gives.

    Attributes
    ----------
    kind
        "series": (series, time) → (series, quantiles, horizon); "groups": single series and groups of series, with
        what is known ahead, to quantiles of any number of patches; "paths": tokens to tokens, step by step.
    patch
        Values of a patch; the length of what the graph reads is a multiple of it.
    context_length
        Last values of a series that the model reads at most.
    horizon
        Steps of a forecast: in one pass, and what the model was trained for.
    quantiles
        Levels, rising; none of the kind "paths".
    numbers
        Activations that are held at once: of a token, and of a pair of tokens of one series.
    output_patch, most_patches
        Of the kind "groups": steps of a patch ahead, and how many such patches one pass gives at most.
    reads_groups
        Whether series of one group read one another.
    tokens
        Of the kind "paths": what tokens are, and how they are drawn.
    """

    kind: str
    patch: int
    context_length: int
    horizon: int
    quantiles: tuple[float, ...]
    numbers: tuple[int, int]
    output_patch: int = 0
    most_patches: int = 0
    reads_groups: bool = False
    tokens: Tokens | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Facts:
        """What `to_dict` gave."""
        tokens = raw.get("tokens")
        made = {"tokens": None if tokens is None else Tokens.from_dict(tokens)}
        return cls(**{**raw, "quantiles": tuple(raw["quantiles"]), "numbers": tuple(raw["numbers"]), **made})

    def bytes_a_series(self, tokens: int) -> int:
        """Peak bytes of a series of so many tokens, in fp32."""
        return 4 * tokens * (self.numbers[0] + self.numbers[1] * tokens)
