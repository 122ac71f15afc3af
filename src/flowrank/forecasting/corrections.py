"""What is done to a history before a model reads it, and undone in its forecast, where models are known to err."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from flowrank.errors import FlowrankError

_FEW_STEPS = 4  # a standard deviation of fewer steps of the model's input: the level is taken down
_LEVEL_LEFT = 2.0  # to so many standard deviations
_ENOUGH = 3  # equal values that make a series constant; of zeros, one


@dataclass(frozen=True)
class Corrections:
    """Which weaknesses of the models are worked around; all of them by default.

    With none (`Corrections.none`), a forecast is what ``predict_quantiles`` of the pipeline gives.

    Attributes
    ----------
    missing_tail
        Missing values after the last observed one are cut off, and as many more steps are forecast. Models are not
        trained on series that end in missing values.
    level
        A series whose standard deviation is less than four steps of what the model's input can show is moved to a mean
        of two standard deviations, of the same sign. Concerns models that divide by the mean magnitude and round, as
        Chronos-T5 does: at a high level they see a flat line.
    constant
        A history of zeros, or of three or more equal values, is forecast as that value with certainty.
    tails
        Quantiles beyond the trained ones, such as 0.01 of a Chronos-Bolt, go on as those of the normal distribution
        through the outermost two (`flowrank.engine.quantiles.extended`). Otherwise the pipeline's own answer is taken,
        which repeats the outermost one.
    long_horizon
        Beyond the model's own horizon, each block goes on from all that the last may have ended in. Otherwise a
        Chronos-T5 goes on from the median, and the band shrinks where a block ends. flowrank's own pipelines only.

    Examples
    --------
    >>> Corrections.named(["level", "tails"]).missing_tail
    False
    """

    missing_tail: bool = True
    level: bool = True
    constant: bool = True
    tails: bool = True
    long_horizon: bool = True

    @classmethod
    def none(cls) -> Corrections:
        """No correction: equality with the pipeline's own ``predict_quantiles``."""
        return cls.named(())

    @classmethod
    def named(cls, names: Sequence[str]) -> Corrections:
        """Return these corrections and no other.

        Raises
        ------
        FlowrankError
            If there is no correction of such a name.
        """
        known = [field.name for field in fields(cls)]
        found = [name.strip().replace("-", "_") for name in names]
        for name, given in zip(found, names, strict=True):
            if name not in known:
                raise FlowrankError(
                    "corrections",
                    expected=f"names among {', '.join(one.replace('_', '-') for one in known)}",
                    found=repr(given),
                )
        return cls(**{name: name in found for name in known})


def missing_at_end(values: np.ndarray) -> int:
    """Count the missing values after the last observed one.

    Examples
    --------
    >>> missing_at_end(np.array([1.0, np.nan, 2.0, np.nan, np.nan]))
    2
    """
    return int(np.isfinite(values[::-1]).argmax())


def constant_value(values: np.ndarray) -> float | None:
    """Return the value that all observed ones equal, if that is certain enough; None: the model is asked.

    Examples
    --------
    >>> constant_value(np.array([0.0])), constant_value(np.array([5.0, 5.0])), constant_value(np.full(3, 5.0))
    (0.0, None, 5.0)
    """
    observed = values[np.isfinite(values)]
    if not (observed == observed[0]).all() or (observed[0] != 0 and len(observed) < _ENOUGH):
        return None
    return float(observed[0])


def excess_level(values: np.ndarray, step: float | None) -> float:
    """Return what to subtract from a series whose level hides its movement from the model; 0 where nothing is hidden.

    Parameters
    ----------
    values
        Shape (time,), NaN where missing.
    step
        The smallest difference that the model's input can show, as a share of the mean magnitude of the series; None:
        the model reads any.

    Examples
    --------
    >>> values = 1000 + np.array([-1.0, 1.0])
    >>> excess_level(values, step=0.03), excess_level(values, step=0.0001)
    (998.0, 0.0)
    """
    if step is None:
        return 0.0
    mean, spread, magnitude = float(np.nanmean(values)), float(np.nanstd(values)), float(np.nanmean(np.abs(values)))
    if spread == 0 or abs(mean) <= _LEVEL_LEFT * spread:  # one value alone shows no spread: the model decides
        return 0.0
    if spread >= _FEW_STEPS * step * magnitude:
        return 0.0
    unit = 2.0 ** math.floor(math.log2(spread / 8))  # a round number: what is left is exact
    return round((mean - math.copysign(_LEVEL_LEFT * spread, mean)) / unit) * unit
