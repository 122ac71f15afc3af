"""Series that are read together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class SeriesGroup:
    """Series that a model reads together, one time span for all; its length is that of the span.

    Attributes
    ----------
    values
        Shape (series, time); NaN = missing.
    known
        Which of them are known ahead: covariates. The others are forecast.
    """

    values: Float[Tensor, "series time"]
    known: Bool[Tensor, " series"]

    def __len__(self) -> int:
        return self.values.shape[1]

    def split(self, ahead: int) -> tuple[Float[Tensor, "series past"], Float[Tensor, "series ahead"]]:
        """Past, and the last ``ahead`` steps of what is known ahead (NaN elsewhere); all is past if nothing is known.

        Examples
        --------
        >>> group = SeriesGroup(torch.arange(6.0).view(2, 3), torch.tensor([False, True]))
        >>> [part.tolist() for part in group.split(1)]
        [[[0.0, 1.0], [3.0, 4.0]], [[nan], [5.0]]]
        """
        if not bool(self.known.any()) or ahead == 0:
            return self.values, self.values[:, :0]
        past, future = self.values[:, :-ahead], self.values[:, -ahead:].clone()
        future[~self.known] = torch.nan
        return past, future


Context = Tensor | SeriesGroup
"""What a model is measured on: a series (time,), or a group of them."""


def rows_of(context: Context) -> int:
    """How many series a context holds.

    Examples
    --------
    >>> rows_of(torch.rand(5)), rows_of(SeriesGroup(torch.rand(3, 5), torch.zeros(3, dtype=torch.bool)))
    (1, 3)
    """
    return len(context.values) if isinstance(context, SeriesGroup) else 1
