"""Pretraining of dense and compressed Chronos models on synthetic or real series."""

from flowrank.pretraining.config import read_recipe
from flowrank.pretraining.probe import seasonal_probe
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.schedule import Widths
from flowrank.pretraining.training import pretrain

__all__ = ["Recipe", "Widths", "pretrain", "read_recipe", "seasonal_probe"]
