"""Rank maths: spectra, ε-rank, streaming second moments and input-aware truncation.

Pure functions: tensors in, tensors out, float64 inside. Nothing here knows what a model is.
"""

from __future__ import annotations

from flowrank.linalg.factors import balanced_basis, balanced_scales, input_svd, obs_order, refit
from flowrank.linalg.moments import RIDGE, Moments, SecondMoment, moment_root
from flowrank.linalg.spectra import Spectrum, epsilon_rank, marchenko_pastur_edge

__all__ = [
    "RIDGE",
    "Moments",
    "SecondMoment",
    "Spectrum",
    "balanced_basis",
    "balanced_scales",
    "epsilon_rank",
    "input_svd",
    "marchenko_pastur_edge",
    "moment_root",
    "obs_order",
    "refit",
]
