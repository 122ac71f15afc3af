"""Seeded synthetic series: the built-in calibration set, and what models are pretrained on."""

from flowrank.synthetic.families import synthetic_series
from flowrank.synthetic.kernels import kernel_synth
from flowrank.synthetic.levels import lifted
from flowrank.synthetic.mixture import Mixture
from flowrank.synthetic.mixup import tsmixup

__all__ = ["Mixture", "kernel_synth", "lifted", "synthetic_series", "tsmixup"]
