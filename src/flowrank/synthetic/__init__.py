"""Seeded synthetic series: the built-in calibration set, and what models are pretrained on."""

from flowrank.synthetic.families import synthetic_series
from flowrank.synthetic.kernels import kernel_synth
from flowrank.synthetic.levels import lifted
from flowrank.synthetic.mixture import Mixture
from flowrank.synthetic.mixup import tsmixup
from flowrank.synthetic.tasks import Task, TaskMixture, synthetic_tasks

__all__ = ["Mixture", "Task", "TaskMixture", "kernel_synth", "lifted", "synthetic_series", "synthetic_tasks", "tsmixup"]
