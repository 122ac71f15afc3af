"""Chronos-T5 models."""

from __future__ import annotations

from flowrank.families.chronos_t5.family import ChronosT5

__all__ = ["ChronosT5"]
