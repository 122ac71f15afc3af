"""Chronos-Bolt pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from typing import Any

import torch
from chronos import ChronosBoltPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor

from flowrank.engine.paths import Inference
from flowrank.engine.quantiles import mixture
from flowrank.errors import check_count
from flowrank.families.chronos_bolt.engine import BoltEngine
from flowrank.families.chronos_bolt.graph import BoltGraphEngine
from flowrank.family import FlowrankPipeline, check_reach


class FlowrankBoltPipeline(FlowrankPipeline, ChronosBoltPipeline):
    """A Chronos-Bolt pipeline, dense or compressed."""

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        super().__init__(model)
        self.inference = Inference(BoltEngine, BoltGraphEngine)

    takes_keep_spread = True
    """Whether ``predict`` takes ``keep_spread``."""

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        limit_prediction_length: bool = False,
        *,
        keep_spread: bool = False,
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
        keep_spread
            How the blocks beyond it come together. False, as chronos-forecasting does: the quantiles of a block are
            those of all quantiles that follow each quantile of the last, a narrower band than the model's own. True:
            those of the mixture, `flowrank.graphs.quantiles.mixture`.

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
        if unobserved or (engine is None and not keep_spread):  # series without an observed value: the stock path
            return super().predict(inputs, prediction_length, limit_prediction_length)
        reach = self.model_prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length", least=0)
        if horizon > reach:
            check_reach(horizon, reach, limit_prediction_length)
        context = context.to(device=self.model.device, dtype=torch.float32)
        blocks = [self._block(context, engine)]
        if horizon > reach:
            context = context[:, None].expand(-1, len(self.quantiles), -1)
            levels = torch.tensor(self.quantiles, device=context.device)
        while len(blocks) * reach < horizon:
            # Every quantile goes on as a series of its own; the quantiles of all of theirs are the block's.
            context = torch.cat([context, blocks[-1]], dim=-1)[..., -self.model_context_length :]
            ahead = self._block(context.flatten(0, 1), engine).unflatten(0, context.shape[:2])
            if keep_spread:
                blocks.append(mixture(ahead, self.quantiles))
            else:
                blocks.append(ahead.flatten(1, 2).quantile(levels, dim=1).transpose(0, 1))
        forecast = (torch.cat(blocks, dim=-1) if len(blocks) > 1 else blocks[0])[..., :horizon]
        return forecast.to(dtype=torch.float32, device="cpu")

    def _block(self, context: Tensor, engine: Any) -> Tensor:
        """Quantiles (series, quantiles, time) of the model's own horizon."""
        if engine is not None:
            return engine.quantiles(context, memory_budget=self.memory_budget)
        with torch.no_grad():
            return self.model(context).quantile_preds
