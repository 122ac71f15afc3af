"""Pretraining of dense and compressed Chronos models on synthetic or real series."""

from flowrank.pretraining.config import read_recipe
from flowrank.pretraining.probe import seasonal_probe
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.schedule import Widths
from flowrank.pretraining.settings import Data, Optimisation, Run
from flowrank.pretraining.shape import ModelShape, Start
from flowrank.pretraining.training import pretrain

__all__ = [
    "Data",
    "ModelShape",
    "Optimisation",
    "Recipe",
    "Run",
    "Start",
    "Widths",
    "pretrain",
    "read_recipe",
    "seasonal_probe",
]
