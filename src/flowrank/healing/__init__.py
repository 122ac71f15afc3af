"""Healing: a short distillation that recovers accuracy lost by compression."""

from flowrank.healing.options import Healing
from flowrank.healing.trainer import heal

__all__ = ["Healing", "heal"]
