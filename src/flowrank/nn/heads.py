"""Where the features of heads of different widths lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HeadLayout:
    """Where the features of each head lie when heads have different widths.

    Features are stored side by side (no padding in the weights); for the batched product they are spread over a
    (heads, widest head) grid, with zeros where a head is narrower.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.widths = tuple(widths)
        self.total = sum(self.widths)
        self.widest = max(1, max(self.widths, default=1))
        self.even = bool(self.widths) and all(w == self.widest for w in self.widths)
        self._slots: Tensor | None = None

    def slots(self, device: torch.device) -> Tensor:
        """Position of every feature in the flattened grid."""
        slots = self._slots
        if slots is None:
            places = [head * self.widest + column for head, width in enumerate(self.widths) for column in range(width)]
            # Models are built on the meta device while they load: the index must be real all the same.
            slots = torch.tensor(places, dtype=torch.long, device="cpu")
        if slots.device != device:
            slots = slots.to(device)
        self._slots = slots
        return slots

    def stored(self, features: Tensor, *, by_head: bool) -> Tensor:
        """(B, L, total) → what a cache keeps: (B, heads, L, widest) ``by_head``, else (B, 1, L, total).

        Without any feature it keeps one zero, since a cache counts its tokens only if they hold a number.
        """
        if by_head:
            return self.split(features)
        return (features if self.total else features.new_zeros(*features.shape[:2], 1)).unsqueeze(1)

    def restored(self, stored: Tensor, *, by_head: bool) -> Tensor:
        """What a cache kept → (B, heads, L, widest)."""
        return stored if by_head else self.split(stored.squeeze(1)[..., : self.total])

    def split(self, features: Tensor) -> Tensor:
        """(B, L, total) → (B, heads, L, widest)."""
        batch, length, _ = features.shape
        heads = len(self.widths)
        if not self.even:
            grid = features.new_zeros(batch, length, heads * self.widest)
            features = grid.index_copy_(2, self.slots(features.device), features)
        return features.view(batch, length, heads, self.widest).transpose(1, 2)

    def join(self, grid: Tensor) -> Tensor:
        """(B, L, heads, widest) → (B, L, total)."""
        flat = grid.flatten(2)
        return flat if self.even else flat.index_select(2, self.slots(flat.device))
