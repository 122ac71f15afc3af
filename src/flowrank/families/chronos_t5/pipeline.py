"""Chronos-T5 pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from chronos import ChronosConfig, ChronosModel, ChronosPipeline
from torch import Tensor
from transformers import PreTrainedModel

from flowrank.engine.paths import Inference
from flowrank.engine.sampling import Sampling
from flowrank.errors import FlowrankError, check_count
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.families.chronos_t5.graph import T5GraphEngine
from flowrank.family import FlowrankPipeline, check_reach
from flowrank.graphs.noise import path_keys, series_keys
from flowrank.randomness import globally_seeded


class FlowrankT5Pipeline(FlowrankPipeline, ChronosPipeline):
    """A Chronos-T5 pipeline, dense or compressed."""

    takes_seed = True
    """Whether ``predict`` takes ``seed``, see `flowrank.randomness.seeded`."""

    takes_keep_spread = True
    """Whether ``predict`` takes ``keep_spread``."""

    def __init__(self, tokenizer: Any, model: ChronosModel) -> None:
        super().__init__(tokenizer, model)
        self.inference = Inference(T5Engine, T5GraphEngine)

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        num_samples: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit_prediction_length: bool = False,
        *,
        seed: int | None = None,
        keep_spread: bool = False,
    ) -> Tensor:
        """Draw sample paths, as ``ChronosPipeline.predict`` does; None: what the model's config says.

        With the exact engine a series' paths depend on its values and on the seed alone, not on the batch that it comes
        in. Equal series have equal paths.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN-padded on the left.
        prediction_length
            H. What lies beyond the model's own horizon is forecast in blocks, see ``keep_spread``.
        num_samples
            S, paths a series.
        temperature, top_k, top_p
            Of sampling, see `flowrank.engine.sampling.Sampling`.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.
        seed
            Whole number ≥ 0: the paths that follow ``torch.manual_seed(seed)``, whatever other threads draw. None: from
            torch's global generator. On the stock path a seeded forecast waits for those of other threads, as they draw
            from that generator too.

        Returns
        -------
        Tensor
            Shape (series, S, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If a number makes no sense, the horizon is larger than allowed, or ``keep_spread`` is asked of the stock
            path.
        """
        engine = self.inference.engine_for(self.model.model)
        context = self._prepare_and_validate_context(context=inputs)
        config = self.model.config
        unobserved = context[..., -config.context_length :].isnan().all(dim=1).any() and not config.use_eos_token
        if engine is None and keep_spread and (prediction_length or 0) > config.prediction_length:
            raise FlowrankError(
                "keep_spread",
                expected="the exact engine, for paths that go on alone",
                found=f"{prediction_length} steps by the stock path",
                todo='set pipeline.engine = "exact", or forecast without keep_spread',
            )
        if engine is None or unobserved:  # series without an observed value take the stock path
            with nullcontext() if seed is None else globally_seeded(check_count(seed, "seed", 0), self.model.device):
                return super().predict(
                    inputs, prediction_length, num_samples, temperature, top_k, top_p, limit_prediction_length
                )
        reach = config.prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length")
        if horizon > reach:
            check_reach(horizon, reach, limit_prediction_length)
        paths = check_count(config.num_samples if num_samples is None else num_samples, "num_samples")
        sampling = self.sampling(temperature, top_k, top_p)
        generator = None if seed is None else torch.Generator().manual_seed(check_count(seed, "seed", 0))
        drawn_seed = int(torch.randint(2**62, (), generator=generator))
        values_of_series = context[..., -config.context_length :].detach().to("cpu", torch.float32).numpy()
        blocks: list[Tensor] = []
        alone = 1  # how many of the paths go on from a context of their own
        while (done := len(blocks) * reach) < horizon:
            if blocks and keep_spread and alone == 1 < paths:
                context, alone = context.repeat_interleave(paths, dim=0), paths
            if blocks:
                last = blocks[-1].flatten(0, 1) if alone > 1 else blocks[-1].median(dim=1).values
                context = torch.cat([context, last], dim=-1)
            keys = series_keys(values_of_series, drawn_seed, block=len(blocks))
            tokens, mask, scale = self.tokenizer.context_input_transform(context)
            drawn = engine.sample(
                tokens.to(self.model.device),
                mask.to(self.model.device),
                steps=min(horizon - done, reach),
                paths=paths // alone,
                sampling=sampling,
                keys=path_keys(keys, paths) if alone > 1 else keys,
                memory_budget=self.memory_budget,
                cross_cache=self.inference.cross_cache,
            )
            values = self.tokenizer.output_transform(drawn.to(scale.device), scale)
            blocks.append(values.unflatten(0, (-1, paths)).squeeze(2) if alone > 1 else values)
        return torch.cat(blocks, dim=-1).to(dtype=torch.float32, device="cpu")

    def sampling(
        self, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
    ) -> Sampling:
        """How tokens are drawn; None: as the model's config says."""
        config = self.model.config
        return Sampling(
            temperature=config.temperature if temperature is None else temperature,
            top_k=config.top_k if top_k is None else top_k,
            top_p=config.top_p if top_p is None else top_p,
            forbidden=config.eos_token_id,
        )

    @classmethod
    def around(cls, model: PreTrainedModel) -> FlowrankT5Pipeline:
        """Pipeline for a model in memory, with the tokenizer that its config names."""
        chronos_config = ChronosConfig(**model.config.chronos_config)
        return cls(chronos_config.create_tokenizer(), ChronosModel(config=chronos_config, model=model))
