"""A proof: a model compressed, scored against its parent on Chronos benchmark II and timed, in one folder."""

from __future__ import annotations

from flowrank.proof.plan import Plan
from flowrank.proof.run import prove
from flowrank.proof.sets import BENCHMARK

__all__ = ["BENCHMARK", "Plan", "prove"]
