"""Healing: a short distillation that repairs what truncation broke."""

from flowrank.healing.options import Healing
from flowrank.healing.trainer import heal

__all__ = ["Healing", "heal"]
