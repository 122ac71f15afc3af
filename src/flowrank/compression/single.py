"""Models that read series together, made into models of single series."""

from __future__ import annotations

from typing import Any

from flowrank.compression.children import child_of, parent_name, pipeline_of
from flowrank.compression.plan import Plan
from flowrank.family import family_of
from flowrank.pipelines import Pipeline


def univariate(pipeline: Any) -> Pipeline:
    """A model for single series, which forecasts them as its parent does and has fewer parameters.

    Attention to the other series of a group has one key for a single series, so its softmax is 1: queries and keys
    go, and values and output become one matrix a layer. The model refuses several targets and covariates by name.

    Parameters
    ----------
    pipeline
        Of a family that reads several series together.

    Raises
    ------
    FlowrankError
        If the family reads single series anyway.

    Examples
    --------
    >>> import flowrank
    >>> single = univariate(flowrank.load("amazon/chronos-2"))  # doctest: +SKIP
    """
    shapes, tensors = family_of(pipeline).univariate_layers()
    made = pipeline_of(child_of(pipeline.inner_model, Plan(shapes, tensors)))
    made.name, made.recipe = f"{parent_name(pipeline)} univariate", pipeline.recipe
    return made
