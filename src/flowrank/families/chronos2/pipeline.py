"""Chronos-2 pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from torch import Tensor

from flowrank.engine.paths import Inference
from flowrank.errors import FlowrankError
from flowrank.families.chronos2.engine import Chronos2Engine, Inputs
from flowrank.family import FlowrankPipeline
from flowrank.nn.shapes import Shapes


class FlowrankChronos2Pipeline(FlowrankPipeline, Chronos2Pipeline):
    """A Chronos-2 pipeline, dense or compressed."""

    def __init__(self, model: Chronos2Model) -> None:
        super().__init__(model)
        self.inference = Inference(Chronos2Engine)

    @property
    def univariate(self) -> bool:
        """Whether the model reads series one by one: it takes neither several targets nor covariates."""
        return Shapes.of(self.model.config).univariate

    @property
    def takes_groups(self) -> bool:
        """Whether the model reads several targets and covariates together."""
        return not self.univariate

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        batch_size: int = 256,
        context_length: int | None = None,
        cross_learning: bool = False,
        limit_prediction_length: bool = False,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Forecast quantiles, as ``Chronos2Pipeline.predict`` does.

        Parameters
        ----------
        inputs
            A batch (series, variates, time); a list of series (time,) or (variates, time); or a list of dictionaries
            with ``target``, ``past_covariates`` and ``future_covariates``.
        prediction_length
            H; None: the furthest that the model was trained for. Beyond it, nine quantiles go on as paths.
        batch_size
            Rows (targets and covariates) that go through the model together.
        context_length
            Last points of each series that are read.
        cross_learning
            Whether all series of a batch are one group: a forecast then depends on its batch.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.
        **kwargs
            ``max_output_patches``, ``unrolled_quantiles`` and ``after_batch``, as there.

        Returns
        -------
        list of Tensor
            For each input, shape (targets, quantiles, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If the model reads single series and is given several variates, covariates or ``cross_learning``; if a
            group of series does not fit into a ``memory_budget`` that was set.
        ValueError
            If chronos-forecasting refuses the inputs.
        """
        if self.univariate:
            _refuse_groups(inputs, cross_learning or bool(kwargs.get("predict_batches_jointly")))
        return super().predict(
            inputs, prediction_length, batch_size, context_length, cross_learning, limit_prediction_length, **kwargs
        )

    def _predict_step(
        self, context: Tensor, group_ids: Tensor, future_covariates: Tensor | None, num_output_patches: int
    ) -> Tensor:
        """Quantiles (series, quantiles, time) of so many output patches."""
        engine = self.inference.engine_for(self.model)
        if engine is None:
            return super()._predict_step(context, group_ids, future_covariates, num_output_patches)
        future = future_covariates
        if future is not None and (future.shape[1] == 0 or bool(future.isnan().all())):
            future = None
        inputs = Inputs(context.float(), group_ids, future)
        return engine.quantiles(inputs, num_output_patches, memory_budget=self.memory_budget).to(context)


def _refuse_groups(inputs: Any, cross_learning: bool) -> None:
    """Refuse what a model that reads single series would ignore."""
    found = "cross_learning=True" if cross_learning else _several(inputs)
    if found is not None:
        raise FlowrankError(
            "inputs",
            expected="single series without covariates: this model was compressed for those (univariate=True)",
            found=found,
            todo="forecast each target alone, or use the parent or a child compressed without univariate=True",
        )


def _several(inputs: Any) -> str | None:
    """What of some inputs is more than single series; None: nothing."""
    if isinstance(inputs, torch.Tensor) or hasattr(inputs, "shape"):
        shape = tuple(inputs.shape)
        return f"a batch with {shape[1]} variates" if len(shape) == 3 and shape[1] > 1 else None
    for place, one in enumerate(inputs):
        if isinstance(one, Mapping):
            given = [
                key for key in ("past_covariates", "future_covariates") if one.get(key) is not None and len(one[key])
            ]
            if "target" in one and given:
                return f"{' and '.join(given)} at index {place}"
            rows = one.get("context", one.get("target"))
            targets = one.get("n_targets", 1)
            if rows is not None and getattr(rows, "ndim", 1) == 2 and rows.shape[0] > 1:
                return f"{rows.shape[0]} variates ({targets} targets) at index {place}"
        elif getattr(one, "ndim", 1) == 2 and one.shape[0] > 1:
            return f"{one.shape[0]} variates at index {place}"
    return None
