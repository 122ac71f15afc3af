"""What a model is to flowrank: one small view a family."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from chronos import ChronosBoltPipeline, ChronosPipeline

from flowrank.errors import FlowrankError
from flowrank.families.base import AttentionSite, Family, MlpSite, Site, VocabularySite
from flowrank.families.chronos_bolt import ChronosBolt
from flowrank.families.chronos_t5 import ChronosT5

__all__ = ["AttentionSite", "ChronosBolt", "ChronosT5", "Family", "MlpSite", "Site", "VocabularySite", "family_of"]


@singledispatch
def family_of(pipeline: Any) -> Family:
    """View of a pipeline, by its class; register further families with ``family_of.register``.

    Raises
    ------
    FlowrankError
        If no family is registered for the class.

    Examples
    --------
    >>> import flowrank
    >>> len(family_of(flowrank.load("seed-bolt")).sites)
    8
    """
    raise FlowrankError(
        "pipeline",
        expected="a Chronos-T5 or Chronos-Bolt pipeline, as flowrank.load returns",
        found=type(pipeline).__name__,
        todo="open the model with flowrank.load(...)",
    )


@family_of.register
def _(pipeline: ChronosBoltPipeline) -> Family:
    return ChronosBolt(pipeline)


@family_of.register
def _(pipeline: ChronosPipeline) -> Family:
    if pipeline.model.config.model_type != "seq2seq":
        raise FlowrankError(
            "pipeline",
            expected="an encoder-decoder Chronos-T5 model",
            found=f"model_type {pipeline.model.config.model_type!r}",
            todo="use amazon/chronos-t5-* or amazon/chronos-bolt-*",
        )
    return ChronosT5(pipeline)
