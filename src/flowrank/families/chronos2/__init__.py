"""Chronos-2 models."""

from __future__ import annotations

from flowrank.families.chronos2.family import Chronos2

__all__ = ["Chronos2"]
