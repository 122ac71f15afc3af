"""Seeded synthetic series: the built-in calibration set, and what models are pretrained on."""

from flowrank.synthetic.families import synthetic_series
from flowrank.synthetic.kernels import kernel_synth
from flowrank.synthetic.mixture import Mixture
from flowrank.synthetic.mixup import tsmixup

__all__ = ["Mixture", "kernel_synth", "synthetic_series", "tsmixup"]
