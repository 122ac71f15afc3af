"""Chronos-Bolt pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from typing import Any

import torch
from chronos import ChronosBoltPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor

from flowrank.engine.paths import Inference
from flowrank.errors import check_count
from flowrank.families.chronos_bolt.engine import BoltEngine
from flowrank.family import FlowrankPipeline, check_reach


class FlowrankBoltPipeline(FlowrankPipeline, ChronosBoltPipeline):
    """A Chronos-Bolt pipeline, dense or compressed."""

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        super().__init__(model)
        self.inference = Inference(BoltEngine)

    def predict(
        self, inputs: Any, prediction_length: int | None = None, limit_prediction_length: bool = False
    ) -> Tensor:
        """Forecast quantiles, as ``ChronosBoltPipeline.predict`` does.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN-padded on the left.
        prediction_length
            H; None: the model's own. What lies beyond is forecast in blocks, each for every quantile of the last.
        limit_prediction_length
            Whether to refuse what lies beyond.

        Returns
        -------
        Tensor
            Shape (series, quantiles, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If ``prediction_length`` is no count, or larger than allowed.
        """
        engine = self.inference.engine_for(self.model)
        context = self._prepare_and_validate_context(context=inputs)[..., -self.model_context_length :]
        unobserved = context.isnan().all(dim=1).any() and not self.model.chronos_config.use_reg_token
        if engine is None or unobserved:  # series without an observed value take the stock path
            return super().predict(inputs, prediction_length, limit_prediction_length)
        reach = self.model_prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length", least=0)
        if horizon > reach:
            check_reach(horizon, reach, limit_prediction_length)
        context = context.to(device=self.model.device, dtype=torch.float32)
        blocks = [engine.quantiles(context, memory_budget=self.memory_budget)]
        if horizon > reach:
            context = context[:, None].expand(-1, len(self.quantiles), -1)
        levels = torch.tensor(self.quantiles, device=context.device)
        while len(blocks) * reach < horizon:
            # Every quantile goes on as a series of its own; the quantiles of all of theirs are the block's.
            context = torch.cat([context, blocks[-1]], dim=-1)[..., -self.model_context_length :]
            ahead = engine.quantiles(context.flatten(0, 1), memory_budget=self.memory_budget)
            ahead = ahead.unflatten(0, context.shape[:2]).flatten(1, 2)
            blocks.append(ahead.quantile(levels, dim=1).transpose(0, 1))
        forecast = torch.cat(blocks, dim=-1)[..., :horizon]
        return forecast.to(dtype=torch.float32, device="cpu")
