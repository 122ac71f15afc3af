"""Chronos-Bolt models."""

from __future__ import annotations

from flowrank.families.chronos_bolt.family import ChronosBolt

__all__ = ["ChronosBolt"]
