"""What a forecast of any model costs, before it is run."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from flowrank.cost import Cost, Workload, total
from flowrank.engine.paths import check_engine
from flowrank.errors import FlowrankError
from flowrank.family.registry import family_of_config


def cost(model: Any, workload: Workload, *, engine: str | None = None, itemsize: int = 4) -> Cost:
    """Count the cost of forecasting one batch.

    Parameters
    ----------
    model
        A config of a model of a known family, dense or compressed, or a pipeline, whose own number type then counts.
    workload
        B, T, H and S.
    engine
        "exact" or "stock": which code path is counted; of any other the count is that of "exact". None: the pipeline's
        own; exact for a config.
    itemsize
        Bytes a number, for a config.

    Raises
    ------
    FlowrankError
        If the model is of another family.

    Notes
    -----
    What each family passes through stands in its ``cost`` module. Horizons beyond the model's are forecast in blocks,
    each after the last; their costs add up.

    Examples
    --------
    >>> import flowrank
    >>> workload = Workload(batch_size=8, context_length=512, horizon=64)
    >>> exact, stock = (cost(flowrank.load("flow-t5-mini"), workload, engine=engine) for engine in ("exact", "stock"))
    >>> exact.flops < stock.flops, exact.cache_cross * 20 == stock.cache_cross
    (True, True)
    """
    inner = getattr(model, "inner_model", None)
    cross_cache = "auto"
    if inner is not None:
        engine = engine or getattr(model, "path", "stock")
        cross_cache = getattr(getattr(model, "inference", None), "cross_cache", cross_cache)
        model, itemsize = inner.config, inner.dtype.itemsize
    engine = engine or "exact"
    check_engine(engine)
    if not isinstance(model, PreTrainedConfig):
        raise FlowrankError(
            "model",
            expected="the config or pipeline of a model of a known family",
            found=type(model).__name__,
            todo="open the model with flowrank.load(…)",
        )
    family = family_of_config(model)
    return total(family.passes(model, workload, exact=engine != "stock", itemsize=itemsize, cross_cache=cross_cache))
