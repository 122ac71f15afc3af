"""Healing: a short distillation that wins back what truncation lost."""

from flowrank.healing.options import Healing
from flowrank.healing.trainer import heal

__all__ = ["Healing", "heal"]
