"""Healing: a short distillation that repairs what truncation broke."""

from flowrank.healing.course import heal
from flowrank.healing.options import Healing

__all__ = ["Healing", "heal"]
