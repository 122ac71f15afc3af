"""How attention knows where its tokens are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Positions:
    """How an attention layer knows where its tokens are, which decides what may be done to its queries and keys.

    Attributes
    ----------
    kind
        "none", "relative_bias" (a number added to each score) or "rotary" (queries and keys turn with their places).
    frequencies
        Of rotary positions: the angle in radians a token by which each plane of a head turns.
    normalised
        Whether queries and keys go through a norm of the whole head before they meet.
    separable
        Of rotary positions: whether a smaller layer of this family may turn some planes of a head only, whose first
        coordinates are the first features of the head (`flowrank.nn.shapes.AttentionShape.planes`).

    Examples
    --------
    >>> Positions("relative_bias").joint, Positions("rotary", frequencies=(1.0, 0.1)).joint
    (True, False)
    """

    kind: Literal["none", "relative_bias", "rotary"] = "none"
    frequencies: tuple[float, ...] = ()
    normalised: bool = False
    separable: bool = False

    @property
    def joint(self) -> bool:
        """Whether scores depend on W_Q W_Kᵀ alone, so that any basis S, T with S Tᵀ = I of a head is legal.

        Otherwise W_Q and W_K are compressed each by itself, as two factors.
        """
        return self.kind != "rotary" and not self.normalised
