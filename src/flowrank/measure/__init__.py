"""Hooks that stream statistics out of a model's layers, in O(d²) memory however many series pass."""

from __future__ import annotations

from flowrank.measure.activations import HeadActivations
from flowrank.measure.calibration import POINTS, Calibration
from flowrank.measure.heads import (
    HeadBases,
    HeadMoments,
    head_moments,
    head_taps,
    interpolated,
    rank_grid,
    rank_losses,
)
from flowrank.measure.linears import InputMoments, LinearMoments, input_moments, linear_tap, with_constant
from flowrank.measure.planes import Choice
from flowrank.measure.sweeping import OnBatch, Tap, batches, sweep
from flowrank.measure.turning import Turning

__all__ = [
    "POINTS",
    "Calibration",
    "Choice",
    "HeadActivations",
    "HeadBases",
    "HeadMoments",
    "InputMoments",
    "LinearMoments",
    "OnBatch",
    "Tap",
    "Turning",
    "batches",
    "head_moments",
    "head_taps",
    "input_moments",
    "interpolated",
    "linear_tap",
    "rank_grid",
    "rank_losses",
    "sweep",
    "with_constant",
]
