"""Chronos-T5 pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from typing import Any

import torch
from chronos import ChronosConfig, ChronosModel, ChronosPipeline
from torch import Tensor
from transformers import PreTrainedModel

from flowrank.engine.paths import Inference
from flowrank.engine.sampling import Sampling, series_keys
from flowrank.errors import check_count
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.family import FlowrankPipeline, check_reach


class FlowrankT5Pipeline(FlowrankPipeline, ChronosPipeline):
    """A Chronos-T5 pipeline, dense or compressed."""

    def __init__(self, tokenizer: Any, model: ChronosModel) -> None:
        super().__init__(tokenizer, model)
        self.inference = Inference(T5Engine)

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        num_samples: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit_prediction_length: bool = False,
    ) -> Tensor:
        """Draw sample paths, as ``ChronosPipeline.predict`` does; None: what the model's config says.

        With the exact engine a series' paths depend on its values and on the state of torch's generator
        (``torch.manual_seed``) alone, not on the batch that it comes in. Equal series have equal paths.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN-padded on the left.
        prediction_length
            H. What lies beyond the model's own horizon is forecast in blocks, each after the median of the last.
        num_samples
            S, paths a series.
        temperature, top_k, top_p
            Of sampling, see `flowrank.engine.sampling.Sampling`.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.

        Returns
        -------
        Tensor
            Shape (series, S, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If a number makes no sense, or the horizon is larger than allowed.
        """
        engine = self.inference.engine_for(self.model.model)
        context = self._prepare_and_validate_context(context=inputs)
        config = self.model.config
        unobserved = context[..., -config.context_length :].isnan().all(dim=1).any() and not config.use_eos_token
        if engine is None or unobserved:  # series without an observed value take the stock path
            return super().predict(
                inputs, prediction_length, num_samples, temperature, top_k, top_p, limit_prediction_length
            )
        reach = config.prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length")
        if horizon > reach:
            check_reach(horizon, reach, limit_prediction_length)
        paths = check_count(config.num_samples if num_samples is None else num_samples, "num_samples")
        sampling = Sampling(
            temperature=config.temperature if temperature is None else temperature,
            top_k=config.top_k if top_k is None else top_k,
            top_p=config.top_p if top_p is None else top_p,
            forbidden=config.eos_token_id,
        )
        first, seed = context[..., -config.context_length :], int(torch.randint(2**62, ()))
        blocks: list[Tensor] = []
        while (done := len(blocks) * reach) < horizon:
            tokens, mask, scale = self.tokenizer.context_input_transform(context)
            drawn = engine.sample(
                tokens.to(self.model.device),
                mask.to(self.model.device),
                steps=min(horizon - done, reach),
                paths=paths,
                sampling=sampling,
                keys=series_keys(first, seed, block=len(blocks)),
                memory_budget=self.memory_budget,
                cross_cache=self.inference.cross_cache,
            )
            blocks.append(self.tokenizer.output_transform(drawn.to(scale.device), scale))
            context = torch.cat([context, blocks[-1].median(dim=1).values], dim=-1)
        return torch.cat(blocks, dim=-1).to(dtype=torch.float32, device="cpu")

    @classmethod
    def around(cls, model: PreTrainedModel) -> FlowrankT5Pipeline:
        """Pipeline for a model in memory, with the tokenizer that its config names."""
        chronos_config = ChronosConfig(**model.config.chronos_config)
        return cls(chronos_config.create_tokenizer(), ChronosModel(config=chronos_config, model=model))
