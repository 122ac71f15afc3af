"""`compress(pipeline, method)` makes the smaller model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from flowrank.compression.accuracy import Accuracy
from flowrank.compression.allocation import allocate, beyond_fixed, of_more
from flowrank.compression.children import child_of, parent_name, pipeline_of
from flowrank.compression.coverage import covered
from flowrank.compression.factorize import factorization_of
from flowrank.compression.latency import Latency
from flowrank.compression.methods import Method, WholeModel, describe, passes
from flowrank.compression.prices import Price, price_in
from flowrank.compression.reconstruction import reconstruct
from flowrank.compression.rules import Budget
from flowrank.compression.single import univariate as single_series
from flowrank.compression.whole import WholeFactorization
from flowrank.errors import FlowrankError
from flowrank.family import Context, Family, anatomy_of, family_of, rows_of, tensor_digest
from flowrank.measure import POINTS, Calibration
from flowrank.nn.config import NarrowConfig, refuse_quantized
from flowrank.pipelines import Pipeline
from flowrank.progress import progress_bar
from flowrank.versions import versions


def compress(
    pipeline: Any,
    method: Method,
    *,
    series: Any = None,
    calibration_series: int | None = None,
    calibration_points: int = POINTS,
    seed: int = 0,
    univariate: bool = False,
    progress: bool = False,
    **columns: Any,
) -> Pipeline:
    """Make a smaller model; the parent does not change.

    Parameters
    ----------
    pipeline
        A dense pipeline of a family that can be compressed; for `WholeModel` also one that it made.
    method
        `WeightSVD`, `InputSVD`, `JointHeads` or `WholeModel`, with its allocation.
    series
        Calibration series, anything that `flowrank.series.read_series` reads; None for the built-in synthetic ones.
    calibration_series, calibration_points
        How many series to use at most, and how many last points of each. None: 512 series. Where a layer reads fewer
        tokens of them than its method needs, synthetic series are added (see Notes).
    seed
        Of the synthetic series and of the probe's random directions.
    univariate
        Of models that read several series together: whether the child reads single series only, see `univariate`;
        a ratio still refers to the parent.
    progress
        Whether to show a progress bar.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Returns
    -------
    FlowrankPipeline
        The child, with its recipe; ``save_pretrained`` writes it. Tensors that were not compressed share memory with
        the parent's.

    Warns
    -----
    CalibrationWarning
        If synthetic series were added to what was asked for; ``recipe["calibration"]`` says how many there are, and how
        many of them are yours ("own").
    AccuracyWarning
        If the child's WQL on held-out series is more than 5 % above its parent's; ``recipe["check"]`` has the figures
        of every child. For that, both forecast 192 synthetic series (48 if they sample) and the ends of up to 16 of
        yours.

    Raises
    ------
    FlowrankError
        If the pipeline is compressed already, or the method or the series cannot be used.

    Notes
    -----
    Second moments of fewer tokens than a layer has features are of low rank, and directions outside of their range are
    removed: a child calibrated on 16 series can have seven times its parent's WQL. So there are at least 32 series
    (`WholeModel`: 64), and enough of them for each layer of the encoder and of the decoder to read

    * for `JointHeads`, twice as many tokens as a head has features,
    * for `InputSVD`, as many as the model is wide,
    * for `WholeModel`, as for `JointHeads`, and half as many as the widest layer has neurons.

    A Chronos-Bolt's decoder has one token a series: `flow-bolt` needs 128, 256 and 256 series. More are better up to
    some 512 (`WholeModel`: 1024).

    Examples
    --------
    >>> import flowrank
    >>> parent = flowrank.load("flow-bolt-mini")
    >>> child = flowrank.compress(parent, flowrank.JointHeads(flowrank.Budget(0.25)), calibration_series=128)
    >>> child.recipe["parameters"]["attention_child"] <= 0.25 * child.recipe["parameters"]["attention_parent"]
    True
    """
    family_of(pipeline)  # refuses what is no pipeline
    refuse_quantized(pipeline.inner_model, "pipeline", "compress")
    if not isinstance(method, WholeModel):
        _refuse_compressed(pipeline.inner_model)
    start = single_series(pipeline) if univariate else pipeline
    family, parent = family_of(start).private(), start.inner_model
    if isinstance(method, WholeModel):
        refuse_uneven(family)
    calibration = covered(
        method, family, series, count=calibration_series, points=calibration_points, seed=seed, **columns
    )
    sweeps = passes(method)
    total = sweeps * len(calibration.contexts)
    with progress_bar(f"measuring (passes: {sweeps})", total=total, show=progress and total > 0) as advance:
        if isinstance(method, WholeModel):
            made = shrunk(start, method, calibration.contexts, seed, advance, whole=pipeline)
        else:
            factorization = factorization_of(method, family, calibration.contexts, seed, advance)
            dense = sum(site.dense_parameters for site in family.sites)
            before = sum(site.dense_parameters for site in family_of(pipeline).sites)
            allocation = beyond_fixed(of_more(method.allocation, before / dense), factorization.fixed, dense)
            kept = allocate(allocation, factorization.groups, dense - factorization.fixed)
            made = pipeline_of(child_of(parent, factorization.plan(kept)))
    made.name = f"{parent_name(pipeline)} compressed"
    made.recipe = account(pipeline, made.inner_model, calibration, calibration_points, seed) | {
        "method": describe(method),
        **({"univariate": True} if univariate else {}),
        "allocation": describe(method.allocation),
    }
    if hasattr(pipeline, "predict_quantiles"):
        accuracy = Accuracy.measure(pipeline, made, calibration.own)
        made.recipe["check"] = accuracy.record()
        accuracy.warn()
    return made


def account(pipeline: Any, child: PreTrainedModel, calibration: Calibration, points: int, seed: int) -> dict[str, Any]:
    """The part of a recipe that is the same for all methods: origin, sizes, calibration and versions."""
    parent = pipeline.inner_model
    return {
        "seed": seed,
        "calibration": {
            "source": calibration.source,
            "series": sum(rows_of(one) for one in calibration.contexts),
            "own": len(calibration.own),
            "points": points,
            "skipped": calibration.skipped,
        },
        "parent": {"name": parent_name(pipeline), "sha256": tensor_digest(parent)},
        "parameters": _parameters(parent, child),
        "versions": versions(),
    }


def _refuse_compressed(parent: PreTrainedModel) -> None:
    if isinstance(parent.config, NarrowConfig):
        raise FlowrankError(
            "pipeline",
            expected="a dense model",
            found="one that flowrank compressed already",
            todo="compress its parent to the ratio you want, or use WholeModel",
        )


def refuse_uneven(family: Family) -> None:
    """Refuse what `WholeModel` cannot shrink: projections of two factors, or heads of unequal widths."""
    for site in family.sites:
        if not site.even:
            raise FlowrankError(
                "pipeline",
                expected="a dense model, or one whose heads are matrices of one width",
                found=f"{site.name} with heads of several widths or with two factors",
                todo="compress its parent",
            )


def shrunk(
    pipeline: Any,
    method: WholeModel,
    contexts: list[Context],
    seed: int,
    advance: Callable[[int], None] | None,
    price: Price | None = None,
    whole: Any = None,
) -> Pipeline:
    """Shrink in rounds of equal ratio, each measured on the model that the last one left.

    ``whole``: pipeline that the ratio refers to, where it is not the one that shrinks; of latencies it always is.
    ``price`` computes a model's cost in the budget's unit; None: latency is measured first, other units are computed.
    """
    unit = method.allocation.unit if isinstance(method.allocation, Budget) else "parameters"
    if price is None:
        price = Latency.measure(pipeline) if unit == "latency" else price_in(unit, pipeline.inner_model)
    dense = price(pipeline.inner_model.config)
    target = dense * method.allocation.ratio
    if whole is not None and whole is not pipeline and unit != "latency":
        target = min(dense, price_in(unit, whole.inner_model)(whole.inner_model.config) * method.allocation.ratio)
    made = pipeline
    for round_ in range(1, method.rounds + 1):
        last = round_ == method.rounds
        parts = [one for one in method.parts if last or one != "factors"] or method.parts
        parts_of = WholeFactorization(family_of(made).private(), contexts, seed + 2 * round_, advance, parts=parts)
        goal = dense * (target / dense) ** (round_ / method.rounds)
        plan = parts_of.shrunk(goal, price, unit=unit, uniform=not isinstance(method.allocation, Budget))
        made = pipeline_of(child_of(made.inner_model, plan))
    if method.refit:
        reconstruct(family_of(made), family_of(pipeline).private(), contexts)
    return made


def _parameters(parent: PreTrainedModel, child: PreTrainedModel) -> dict[str, int]:
    return {
        "parent": parent.num_parameters(),
        "child": child.num_parameters(),
        "attention_parent": anatomy_of(parent).parameters_of_attention(),
        "attention_child": anatomy_of(child).parameters_of_attention(),
    }
