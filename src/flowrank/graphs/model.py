"""An exported model: the verbs of a pipeline, on numpy arrays, without torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from flowrank.errors import FlowrankError, check_count
from flowrank.graphs.drivers import open_driver
from flowrank.graphs.folder import Export
from flowrank.graphs.runtimes import RUNTIMES, check_installed, installed
from flowrank.graphs.tasks import batches, tasks_of

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
READ_BY = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",)}
"""The runtimes that open each format, the usual one first."""


class ForecastType(Enum):
    """What a model gives; by the names of chronos-forecasting."""

    QUANTILES = "quantiles"
    SAMPLES = "samples"


class ExportedModel:
    """A model of quantiles that `flowrank.export` wrote, opened.

    Parameters
    ----------
    export
        Its folder, as read.
    engine
        "onnxruntime" or "openvino"; None: the first of them that is installed and opens the format.
    threads
        CPU threads; None: all that this process may use. Where several processes serve on one machine, give each its
        share.
    memory_budget
        Bytes for activations; None: half a GiB.

    Attributes
    ----------
    name
        Of the model that was exported.
    manifest
        All that ``export.json`` tells: the source, versions, precision, how far it was from the model.
    engine
        The runtime.
    quantiles
        Levels that the model was trained on.
    model_context_length, model_prediction_length
        Values that it reads at most, and steps ahead that it was trained for.
    path
        The same, as other pipelines call the code path that they take.
    forecast_type
        Quantiles.

    Raises
    ------
    FlowrankError
        If no runtime for it is installed.

    Examples
    --------
    >>> import flowrank
    >>> model = flowrank.load("folder-of-an-export")  # doctest: +SKIP
    >>> quantiles, median = model.predict_quantiles([np.arange(48.0)], prediction_length=12)  # doctest: +SKIP
    """

    forecast_type = ForecastType.QUANTILES
    input_step: float | None = None
    """The distance of two values that the model tells apart, in units of its scale; None: it reads numbers."""
    sample_paths: int | None = None
    """Paths a series, unless told; None: it draws none."""

    def __init__(
        self,
        export: Export,
        *,
        engine: str | None = None,
        threads: int | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self.manifest, facts = export.manifest, export.facts
        self.engine = _runtime_for(self.manifest["format"], engine)
        told = ", ".join(f"{name} {number}" for name, number in self.manifest["needs"].items())
        self.path = self.engine
        self._graph, self._facts = (
            open_driver(
                export.graphs, facts, self.engine, threads=threads, precision=self.manifest["precision"], needs=told
            ),
            facts,
        )
        self.name: str = self.manifest["source"]["name"]
        self.quantiles = list(facts.quantiles)
        self.model_context_length, self.model_prediction_length = facts.context_length, facts.horizon
        self.memory_budget = memory_budget

    @property
    def takes_keep_spread(self) -> bool:
        """Whether ``predict`` takes ``keep_spread``: of models of single series."""
        return self._facts.kind in ("series", "paths")

    @property
    def takes_groups(self) -> bool:
        """Whether the model reads several targets and covariates together."""
        return self._facts.reads_groups

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        limit_prediction_length: bool = False,
        *,
        keep_spread: bool = False,
        batch_size: int = 256,
        cross_learning: bool = False,
    ) -> Any:
        """Forecast quantiles.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN where nothing was observed and on the left
            of shorter ones. For Chronos-2 as its pipeline takes them: a batch (series, variates, time), a list of
            series (time,) or (variates, time), or a list of dictionaries with ``target``, ``past_covariates`` and
            ``future_covariates``, all of numbers.
        prediction_length
            H; None: the model's own. What lies beyond is forecast in blocks.
        limit_prediction_length
            Whether to refuse what lies beyond.
        keep_spread
            How the blocks beyond it come together. False, as chronos-forecasting does: a narrower band than the model's
            own. True: as a mixture, `flowrank.graphs.quantiles.mixture`.
        batch_size
            For Chronos-2: rows (targets and covariates) of a batch; it matters with ``cross_learning`` alone.
        cross_learning
            For Chronos-2: whether all series of a batch are one group.

        Returns
        -------
        ndarray or list of ndarray
            Shape (series, quantiles, H), fp32; for Chronos-2, for each input, shape (targets, quantiles, H).

        Raises
        ------
        FlowrankError
            If ``inputs`` are no series of numbers, or ``prediction_length`` is no count or larger than allowed; if a
            model of single series is given several that belong together, or a covariate is no numbers; if a group does
            not fit into a ``memory_budget`` that was set.
        """
        horizon = self._horizon(prediction_length, limit_prediction_length)
        if self._facts.kind == "series":
            if cross_learning:
                raise FlowrankError("cross_learning", expected="False, for a model of single series", found=True)
            return self._graph.predict(
                batch_of(inputs), horizon, keep_spread=keep_spread, memory_budget=self.memory_budget
            )
        return self._of_groups(inputs, horizon, check_count(batch_size, "batch_size"), cross_learning)

    def _horizon(self, prediction_length: int | None, refuse: bool) -> int:
        """Steps to forecast; more than the model was trained for are refused, or warned of."""
        reach = self.model_prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length")
        if horizon > reach and refuse:
            raise FlowrankError(
                "prediction_length",
                expected=f"at most {reach}, what the model was trained for",
                found=horizon,
                todo="pass limit_prediction_length=False to forecast further all the same",
            )
        if horizon > reach:
            warnings.warn(
                f"prediction_length {horizon} is beyond {reach}, what the model was trained for: "
                "expect less accuracy there",
                stacklevel=3,
            )
        return horizon

    def _of_groups(self, inputs: Any, horizon: int, batch_size: int, cross_learning: bool) -> list[np.ndarray]:
        tasks = tasks_of(inputs, horizon)
        several = next((place for place, one in enumerate(tasks) if len(one.context) > 1), None)
        if not self._facts.reads_groups and (cross_learning or several is not None):
            raise FlowrankError(
                "inputs",
                expected="single series without covariates: this model was compressed for those (univariate=True)",
                found="cross_learning=True" if cross_learning else f"several series at index {several}",
                todo="forecast each target alone, or export a model that was compressed without univariate=True",
            )
        found: list[np.ndarray] = []
        for rows, targets in batches(tasks, batch_size, self.model_context_length, joint=cross_learning):
            made = self._graph.predict(rows, horizon, memory_budget=self.memory_budget)
            found += [made[one] for one in targets]
        return found

    def predict_quantiles(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] = LEVELS,
        limit_prediction_length: bool = False,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Forecast quantiles at any levels, and the median.

        Parameters
        ----------
        inputs, prediction_length, limit_prediction_length
            As of `predict`.
        quantile_levels
            Levels; between two that the model was trained on, quantiles are interpolated as chronos-forecasting does.
            Beyond the outermost they are those of the outermost.
        **options
            ``keep_spread``, ``batch_size`` and ``cross_learning``, as of `predict`.

        Returns
        -------
        quantiles, median
            Shapes (series, H, levels) and (series, H); for Chronos-2, lists of (targets, H, levels) and (targets, H).

        Raises
        ------
        FlowrankError
            As of `predict`; and if a level is not between 0 and 1.
        """
        check_levels(quantile_levels)
        given = self.predict(inputs, prediction_length, limit_prediction_length, **options)
        if isinstance(given, list):
            middle = self.quantiles.index(0.5)
            return [self._graph.at_levels(one, quantile_levels) for one in given], [one[:, middle] for one in given]
        found = given.swapaxes(1, 2)
        median = found[..., self.quantiles.index(0.5)]
        if set(quantile_levels) <= set(self.quantiles):
            return found[..., [self.quantiles.index(level) for level in quantile_levels]], median
        spread = np.concatenate([found[..., :1], found, found[..., -1:]], axis=-1)
        wanted = np.quantile(spread, list(quantile_levels), axis=-1)
        return np.moveaxis(wanted, 0, -1).astype(np.float32), median


def check_levels(levels: Sequence[float]) -> None:
    """Refuse levels that are not between 0 and 1."""
    for level in levels:
        if not 0 < level < 1:
            raise FlowrankError("quantile_levels", expected="levels between 0 and 1", found=level)


def batch_of(inputs: Any) -> np.ndarray:
    """Series of any length as one batch (series, time), fp32, NaN on the left of shorter ones.

    Raises
    ------
    FlowrankError
        If they are no series of numbers.

    Examples
    --------
    >>> batch_of([[1.0, 2.0], [3.0]]).tolist()
    [[1.0, 2.0], [nan, 3.0]]
    """
    if hasattr(inputs, "ndim"):
        found = _numbers(inputs)
        if found.ndim not in (1, 2):
            raise _refused(f"an array of {found.ndim} dimensions")
        rows = list(np.atleast_2d(found))
    else:
        try:
            given = list(inputs)
        except TypeError:
            raise _refused(type(inputs).__name__) from None
        rows = [_numbers(one) for one in given]
        if rows and all(one.ndim == 0 for one in rows):  # one series, as a list of numbers
            rows = [np.array(rows, dtype=np.float32)]
    if not rows:
        raise _refused("none")
    for place, row in enumerate(rows):
        if row.ndim != 1 or not len(row):
            raise _refused(f"one of shape {row.shape} at index {place}")
    batch = np.full((len(rows), max(map(len, rows))), np.nan, dtype=np.float32)
    for made, row in zip(batch, rows, strict=True):
        made[len(made) - len(row) :] = row
    return batch


def _numbers(values: Any) -> np.ndarray:
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise _refused(str(error)) from error
    if found.dtype.kind not in "fiub":
        raise _refused(f"values of type {found.dtype}")
    return found.astype(np.float32)


def _refused(found: str) -> FlowrankError:
    return FlowrankError(
        "inputs",
        expected="a series of numbers (time,), a list of such, or a batch (series, time)",
        found=found,
        todo="pass e.g. [numpy.arange(48.0)]",
    )


def _runtime_for(form: str, engine: str | None) -> str:
    """The runtime that was asked for, or the first one that is installed."""
    usable = READ_BY[form]
    if engine is None:
        return check_installed(next((one for one in usable if one in installed()), usable[0]))
    if engine not in RUNTIMES or engine not in usable:
        raise FlowrankError(
            "engine",
            expected=f"{' or '.join(map(repr, usable))}, for a model exported as {form}",
            found=repr(engine),
            todo="leave it out, or open the model that was exported" if engine not in RUNTIMES else "export it as onnx",
        )
    return check_installed(engine)
